"""slimq trains DQN policies, compresses them, proves what each variant keeps, and serves them."""

__version__ = "0.1.0"
