"""sfdabench: source-free domain adaptation for medical image segmentation, under one evaluator."""

__version__ = "0.1.0"
