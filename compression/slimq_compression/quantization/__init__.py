"""What the passes that quantize graphs share: ranges, levels, and the nodes of ONNX Runtime."""
