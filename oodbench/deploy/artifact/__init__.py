"""The folder that a fitted detector is saved to: its files, written and read."""
