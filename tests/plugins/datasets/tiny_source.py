"""REFUGE's phantom with few cases."""

from sfdabench.datasets.refuge import Refuge


class TinySource(Refuge):
    phantom_cases = 20
