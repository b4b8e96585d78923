"""Weights without a program: a torch state dict or safetensors."""
