"""Exports of variants to the platforms where they run: the targets and what they share."""
