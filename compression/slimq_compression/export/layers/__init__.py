"""Typed layers that a variant's graph is lowered to, before a target prints them."""
