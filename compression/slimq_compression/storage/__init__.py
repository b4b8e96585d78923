"""What the file holds: forms of weights, the nodes that decode them, the compressed file."""
