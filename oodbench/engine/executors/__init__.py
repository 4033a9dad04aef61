"""Executors: where the cells of a run are computed."""
