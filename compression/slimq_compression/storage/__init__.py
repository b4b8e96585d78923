"""Model storage: weight encodings, the nodes that decode them, and the compressed file."""
