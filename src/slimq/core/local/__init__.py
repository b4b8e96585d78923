"""Policies that act in the caller's process, from a model file fetched once."""
