"""Conditions under which a policy plays, other than undisturbed."""
