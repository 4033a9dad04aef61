"""Comparisons of two runs for people, programs and CI systems."""
