"""Drishti-GS's phantom with few cases."""

from sfdabench.datasets.drishti import Drishti


class TinyTarget(Drishti):
    phantom_cases = 14
