"""Plug-ins: detectors, benchmarks and data sets that are found in folders."""
