"""CBMT supplement Table 1, lower block."""

from sfdabench.tasks._fundus import fundus

TASK = fundus("Fundus, Drishti-GS → REFUGE", source="drishti", target="refuge")
