"""What is recorded of a run: its records, and its description."""
