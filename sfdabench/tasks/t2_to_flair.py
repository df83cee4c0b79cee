"""Whole tumour from T2 to FLAIR: OSUDA Table 2."""

from sfdabench.tasks._brats import whole_tumour

TASK = whole_tumour("Brain tumour, BraTS 2018 T2 → FLAIR", "flair")
