"""Flags of a fork: where they are defined, set and read, in Python, YAML and launchers together."""
