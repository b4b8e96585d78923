"""What a variant keeps: returns, fidelity, size and latency, with their statistics."""
