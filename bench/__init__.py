"""Measurements: what the training stack learns, and how fast it is. Nothing in `port` imports this package."""
