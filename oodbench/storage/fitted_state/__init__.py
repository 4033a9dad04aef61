"""The state of fitted detectors as plain values and tensors, written and read without pickle."""
