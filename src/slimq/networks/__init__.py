"""Torch Q-networks: specifications, checkpoints and the ONNX exporter."""
