"""The commands of `python -m migrations`, one module each.

A module has `add(commands)`, which adds its parser, and `run(arguments, rules)`, which returns the exit code. What is
heavy (LibCST, rich) is imported inside `run`, so that `--help` answers at once.
"""
