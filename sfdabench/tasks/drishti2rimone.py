"""CBMT supplement Table 1, upper block."""

from sfdabench.tasks._fundus import fundus

TASK = fundus("Fundus, Drishti-GS → RIM-ONE r3", source="drishti", target="rimone_r3")
