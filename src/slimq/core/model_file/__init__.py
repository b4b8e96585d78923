"""Self-describing model files: ONNX files with everything that is known about a variant."""
