"""The trainer: DQN as published, with its options, its replay buffer and its checkpoints."""
