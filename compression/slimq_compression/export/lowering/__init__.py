"""Lowers a variant's ONNX graph to typed layers, for targets that are not ONNX runtimes."""
