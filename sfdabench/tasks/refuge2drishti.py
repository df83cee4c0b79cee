"""CBMT Table 1, lower block."""

from sfdabench.tasks._fundus import fundus

TASK = fundus("Fundus, REFUGE → Drishti-GS", source="refuge", target="drishti")
