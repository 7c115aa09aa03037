"""Rebuilds the report of a run, or compares several: python -m seqgan_jax.reporting --help."""

import argparse
import sys

from seqgan_jax.errors import UserError
from seqgan_jax.reporting import html_report


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m seqgan_jax.reporting",
        description="Rebuilds report.html of every run, or compares them all on one page.",
        epilog="example: python -m seqgan_jax.reporting runs/a runs/b --compare --output=both.html",
    )
    parser.add_argument("run", nargs="+", help="a run's folder")
    parser.add_argument("--compare", action="store_true", help="one page about all of them")
    parser.add_argument(
        "--output", metavar="FILE", help="the comparison's file (default: comparison.html)"
    )
    options = parser.parse_args()
    if options.output and not options.compare:
        parser.error("--output: only a comparison has it; add --compare")
    try:
        if options.compare:
            print(html_report.write_comparison(options.run, options.output or "comparison.html"))
        else:
            for run in options.run:
                print(html_report.write(run))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
