"""Commands of `python -m parity` that have a module of their own, imported when they are asked for."""
