"""Weights that others published: read from files, fitted to networks, or of a library."""
