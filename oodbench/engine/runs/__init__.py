"""Runs: of a benchmark, new or resumed, and of a suite."""
