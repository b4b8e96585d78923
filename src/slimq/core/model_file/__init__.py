"""Models that describe themselves: an ONNX file with all that is known of a variant."""
