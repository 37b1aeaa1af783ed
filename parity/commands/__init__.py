"""Commands of `python -m parity` that have a module of their own: `add_parser(subparsers)` and `command(arguments)`."""
