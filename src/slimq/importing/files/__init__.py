"""Reads the bytes of other programs' files, with limits and without executing anything."""
