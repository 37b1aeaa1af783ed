"""A look at a few images before a run starts."""

from __future__ import annotations

import math

from port.data.datasets.base import BadImage, BadImageError, ImageSource

__all__ = ["check_readable"]

# A sample that a data set with the share allowed would yield less often than this speaks against the data set.
SIGNIFICANCE = 1e-3


def check_readable(source: ImageSource, n: int = 32, max_bad_share: float = 0.01) -> list[BadImage]:
    """Decode up to `n` images, evenly spaced from the first to the last, and return the bad ones.

    Args:
        source: the data set.
        n: images to decode.
        max_bad_share: the share of bad images that is allowed in the whole data set, 0 to 1.

    Raises:
        ValueError: none can be read, or so many cannot that the whole data set must exceed `max_bad_share` (a
            sample like this one has a probability below 0.001 otherwise). One bad image of 32 proves no share of
            0.01, four do.
    """
    if n < 1:
        raise ValueError(f"n={n} images to decode, expected at least 1")
    if not 0.0 <= max_bad_share <= 1.0:
        raise ValueError(f"max_bad_share={max_bad_share}, expected 0 to 1")
    count = min(n, len(source))
    bad = []
    for place in range(count):
        problem = _problem(source, place * (len(source) - 1) // max(count - 1, 1))
        if problem is not None:
            bad.append(problem)
    if bad and (len(bad) == count or _at_least(len(bad), count, max_bad_share) < SIGNIFICANCE):
        first = "; ".join(f"{image.name}: {image.reason}" for image in bad[:3])
        raise ValueError(
            f"{len(bad)} of {count} images cannot be read, allowed is a share of {max_bad_share:g} "
            f"(data.max_bad_share): {first}{'; …' if len(bad) > 3 else ''} ({source.describe()})"
        )
    return bad


def _problem(source: ImageSource, index: int) -> BadImage | None:
    """Return what is wrong with an image; None when it can be read."""
    try:
        source.load(index)
    except BadImageError as error:
        return BadImage(error.name, error.reason)
    return None


def _at_least(bad: int, count: int, share: float) -> float:
    """Return the probability of at least `bad` bad images among `count`, each bad with probability `share`."""
    return sum(math.comb(count, k) * share**k * (1.0 - share) ** (count - k) for k in range(bad, count + 1))
