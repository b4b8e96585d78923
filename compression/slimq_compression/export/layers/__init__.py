"""The typed layers to which a variant's graph is lowered before a target writes its code."""
