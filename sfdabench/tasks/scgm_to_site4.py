"""SCGM sites 1 and 2 to site 4: self-ensembling Table 1."""

from sfdabench.tasks._scgm import grey_matter

TASK = grey_matter(4)
