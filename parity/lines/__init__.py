"""Which lines of official code a run executes, and why it leaves the others.

python -m parity.lines [ARGS of `python -m parity run`]
"""
