"""Torch helpers for network passes."""
