"""Exports variants to where they run: the table of targets, and what all targets share."""
