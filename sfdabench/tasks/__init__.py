"""STAGE 2: source, target, classes, preprocessing, network, protocols. Values, no code."""
