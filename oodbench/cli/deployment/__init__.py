"""Commands of saved detectors: `oodbench fit`, `oodbench score`, `oodbench export`."""
