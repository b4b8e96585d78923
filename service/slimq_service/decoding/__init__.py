"""Observations read from JSON, raw bytes and npy."""
