"""Makes the report of a run again, or one page about several runs.

  uv run python -m fermm.evaluate runs/paper
  uv run python -m fermm.evaluate runs/paper runs/official --out comparison.html

Nothing is trained. Figures that show faces stay as the run drew them.
"""

import argparse
import sys
from pathlib import Path

from fermm.errors import InputError
from fermm.evaluate import compare, report, run, table
from fermm.paths import REPORT, expand


def main() -> None:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(
        prog="python -m fermm.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's directory")
    parser.add_argument("--out", type=Path, help="where the page about several runs is written")
    arguments = parser.parse_args()
    if (len(arguments.runs) > 1) != bool(arguments.out):
        parser.error("give --out for several runs; the report of one run lies in its directory")
    try:
        runs = [run.load(expand(directory)) for directory in arguments.runs]
        if arguments.out:
            out = expand(arguments.out)
            compare.write(runs, out)
            print(f"{out}: written")
        else:
            run.write_metrics(runs[0])
            report.write(runs[0])
            print(table.table_2(runs[0]).text())
            print(f"\n{runs[0].directory / REPORT}: written")
    except InputError as error:
        sys.exit(f"fermm.evaluate: {error}")


if __name__ == "__main__":
    main()
