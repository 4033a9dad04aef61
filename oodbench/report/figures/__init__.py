"""Figures of runs and suites."""
