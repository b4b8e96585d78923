"""The inference service: observations in, actions and Q-values out."""
