"""A classifier with a detector as a graph of operations: traced, and written as ONNX."""
