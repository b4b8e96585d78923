"""Models that describe themselves: an ONNX file with all that is known about a variant."""
