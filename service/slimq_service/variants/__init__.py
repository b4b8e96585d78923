"""Variants on disk and in memory."""
