"""Numbers and lists of names as sentences, tables and figures have them."""

from collections.abc import Sequence

import numpy as np


def points(value: float, digits: int = 1) -> str:
    """A share in percent, or a difference in points, with a true minus sign."""
    return number(100 * value, digits)


def number(value: float, digits: int) -> str:
    """A number with a true minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def spread(values: Sequence[float]) -> str:
    """The mean of shares in percent, and their standard deviation if there are several."""
    mean = points(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {points(float(np.std(values, ddof=1)))}"


def interval(bounds: Sequence[float] | None, digits: int = 1, factor: float = 100) -> str:
    """Both ends of an interval, of shares in percent by default."""
    if bounds is None:
        return "none"
    return " to ".join(number(factor * bound, digits) for bound in bounds)


def p_value(p: float) -> str:
    """A p-value such that it is never rounded from one side of 0.05 to the other."""
    if p < 0.001:
        return f"{p:.0e}" if p >= 1e-15 else "< 1e-15"
    text = f"{p:.3f}"
    return text if (float(text) < 0.05) == (p < 0.05) else f"{p:.5f}"


def join(names: Sequence[str], word: str = "and") -> str:
    """Names as a sentence lists them."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def count(number_of: int, what: str) -> str:
    """A number and a noun: "1 sample", "1,200 samples"."""
    return f"{number_of:,} {what}{'' if number_of == 1 else 's'}"


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """The text with a capital at its beginning and a full stop at its end."""
    return f"{capital(text).removesuffix('.')}."
