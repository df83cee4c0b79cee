"""Gather the case scores of a folder of results into its one compressed file, for a commit.

python docs/pack_results.py results/phantom
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sfdabench.store import cases


def main() -> None:
    """Pack the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    cases.pack(parser.parse_args().results)


if __name__ == "__main__":
    main()
