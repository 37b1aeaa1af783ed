"""The stacks that parity brings along: official code and `port`."""
