"""Evaluation of variants: returns, fidelity, size and latency, with their statistics."""
