"""Cells: the independent parts of a run, one for each model and seed."""
