"""Trainer: DQN as published, plus options, replay buffer and checkpoints."""
