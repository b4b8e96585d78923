"""Imports policies that other programs trained, without executing anything in their files."""
