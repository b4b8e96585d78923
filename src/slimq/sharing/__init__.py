"""What others get of a policy: its card, and its way to and from a model hub."""
