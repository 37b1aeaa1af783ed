"""Commands with a module of their own: `add_parser(subparsers)` describes one, `command(arguments)` carries it out.

What is heavy is imported inside `command`, so that `--help` answers at once.
"""
