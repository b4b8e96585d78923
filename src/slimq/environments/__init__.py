"""Environments: the factory, preprocessing and rollouts. Knows gymnasium and ale-py, not torch."""
