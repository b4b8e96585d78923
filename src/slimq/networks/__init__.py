"""Torch Q-networks: their specifications, checkpoints and the one ONNX exporter."""
