"""Whole tumour from T2 to T1: OSUDA Table 2."""

from sfdabench.tasks._brats import whole_tumour

TASK = whole_tumour("Brain tumour, BraTS 2018 T2 → T1", "t1")
