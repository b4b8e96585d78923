"""Conditions under which a policy plays: disturbances of its observations and actions."""
