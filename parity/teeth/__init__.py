"""Proof that the suite has teeth: faults that it must catch and name, rewrites that it must let pass.

Every fault and every rewrite is an edit of a few words of `port`, made for the time of one check (`edit`), and judged
as a user's fork is: as a stack that claims no equal bits. `python -m parity.teeth`, or `nox -s teeth`, makes all of
them and says how many were caught, how many named, how many false alarms there were, and how small a fault may be.
"""
