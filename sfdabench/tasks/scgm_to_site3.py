"""SCGM sites 1 and 2 to site 3: self-ensembling Table 1."""

from sfdabench.tasks._scgm import grey_matter

TASK = grey_matter(3)
