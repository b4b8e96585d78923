"""Handling of one call, from its arrival to its response."""
