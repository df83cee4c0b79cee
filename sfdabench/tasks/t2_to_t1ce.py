"""Whole tumour from T2 to T1ce: OSUDA Table 2."""

from sfdabench.tasks._brats import whole_tumour

TASK = whole_tumour("Brain tumour, BraTS 2018 T2 → T1ce", "t1ce")
