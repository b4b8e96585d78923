"""Trainer: DQN as published, with optional improvements, a replay buffer and checkpoints."""
