"""ONNX helpers for graph passes, storage and the counts of weights."""
