"""Writes the report of a run: python -m r1vl_jax.report --run=WORKDIR"""

import argparse

from r1vl_jax.report.page import write_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m r1vl_jax.report", description="Writes WORKDIR/report.html.")
    parser.add_argument("--run", required=True, metavar="WORKDIR", help="directory of a run, finished or not")
    print(write_report(parser.parse_args().run))


if __name__ == "__main__":
    main()
