"""Model storage: encodings of weights, the nodes that decode them, the compressed file."""
