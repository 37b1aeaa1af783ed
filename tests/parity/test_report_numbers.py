from __future__ import annotations

import math

import pytest

from parity.report import numbers


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (252, "4 min 12 s"), (3725, "1 h 02 min")],
)
def test_duration_reads_as_people_say_it(seconds: float, expected: str) -> None:
    """A wall time is shown in the two largest units that matter."""
    assert numbers.duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0"),
        (1234.0, "1,234"),
        (3e-5, "3e-05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (1.2e9, "1.2e+09"),
    ],
)
def test_number_shows_three_digits(value: float | None, expected: str) -> None:
    """Whole numbers are grouped, others have three significant digits, and NaN does not fail."""
    assert numbers.number(value) == expected


def test_printable_neutralises_control_characters() -> None:
    """An escape sequence in a name is shown, not sent to the terminal; other scripts stay as they are."""
    assert numbers.printable("a\x1b[31m\nb\tgrün 重") == "a\\x1b[31m b grün 重"


def test_counts_are_grouped() -> None:
    """Thousands are separated, so that 8412 and 84120 are not confused."""
    assert (numbers.count(8412), numbers.count(999)) == ("8,412", "999")
