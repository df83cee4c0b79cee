"""CBMT Table 1, upper block."""

from sfdabench.tasks._fundus import fundus

TASK = fundus("Fundus, REFUGE → RIM-ONE r3", source="refuge", target="rimone_r3")
