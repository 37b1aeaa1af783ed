"""Two processes of one gloo group on this machine for each side: what is reduced over ranks can be compared."""

from __future__ import annotations

from parity.ranks.pair import WORLD_SIZE, GroupError, Pair, RanksError
from parity.ranks.sides import Ranks, RemoteStack

__all__ = ["WORLD_SIZE", "GroupError", "Pair", "Ranks", "RanksError", "RemoteStack"]
