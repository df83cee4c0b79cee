"""BraTS's phantom with few patients."""

from sfdabench.datasets.brats2018 import BraTS2018


class TinyBrain(BraTS2018):
    phantom_patients = 10
