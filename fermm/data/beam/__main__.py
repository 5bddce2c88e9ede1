"""The command line of `fermm.data.beam`, apart from it, for Beam's workers import that by name."""

import argparse
import sys

from apache_beam.options.pipeline_options import PipelineOptions

from fermm.data import beam
from fermm.errors import InputError


def main() -> None:
    """Prepares what the flags name, and says where it is."""
    parser = argparse.ArgumentParser(prog="python -m fermm.data.beam", description=beam.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", required=True, help="folder of images, or a glob of CSVs")
    parser.add_argument("--out", required=True, help="directory that gets the data set")
    parser.add_argument("--landmarks", default="paper", help="method of finding them")
    parser.add_argument("--predictor", help="dlib's predictor, if not that of the package")
    arguments, rest = parser.parse_known_args()
    source = beam.Source(arguments.images, arguments.landmarks, arguments.predictor)
    try:
        directory = beam.prepare(source, arguments.out, PipelineOptions(rest))
    except InputError as error:
        sys.exit(str(error).splitlines()[0])
    print(f"config.data.path for a run: {directory}")


if __name__ == "__main__":
    main()
