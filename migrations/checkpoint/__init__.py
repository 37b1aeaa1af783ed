"""A fork's checkpoints under official's names and `port`'s parameter groups."""
