"""Kinds of image sources."""
