"""`python -m sfdabench` is the command `sfdabench`."""

from sfdabench.cli import main

main()
