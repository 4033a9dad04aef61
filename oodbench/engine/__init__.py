"""The engine: from a plan to scores. Nothing in here names a detector."""
