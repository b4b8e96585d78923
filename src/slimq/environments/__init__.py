"""Environments: factory, preprocessing and rollouts. Depends on gymnasium and ale-py, not torch."""
