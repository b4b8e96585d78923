"""Policies of CleanRL, from torch and from JAX."""
