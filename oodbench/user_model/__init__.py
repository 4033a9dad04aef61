"""Evaluation of a user's own model."""
