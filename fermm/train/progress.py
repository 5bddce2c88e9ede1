"""What a run says while it trains: a bar on a terminal, plain lines everywhere."""

import sys

import tqdm


class Progress:
    """A bar over the training steps of one network; a context manager.

    Shown only where stderr is a terminal; lines go to stdout in any case.
    """

    def __init__(self, name: str, steps: int, done: int) -> None:
        self._bar = tqdm.tqdm(
            desc=name,
            total=steps,
            initial=done,
            unit="step",
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, steps: int, **metrics: float) -> None:
        """`steps` more are done; the metrics of the epoch so far."""
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in metrics.items()}, refresh=False)
        self._bar.update(steps)

    def line(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text, file=sys.stdout)
        sys.stdout.flush()
