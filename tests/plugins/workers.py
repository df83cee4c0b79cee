"""Stands in for `sfdabench run` in workers of the tests."""

import sys


def main():
    """Run the first word of the command line as Python."""
    code, sys.argv = sys.argv[1], sys.argv[1:]
    exec(code, {})
    sys.exit(0)
