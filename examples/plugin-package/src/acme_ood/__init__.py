"""Detectors, benchmarks and data sets for oodbench, in folders of these names."""
