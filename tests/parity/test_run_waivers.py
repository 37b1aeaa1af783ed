from __future__ import annotations

from pathlib import Path

import pytest

from parity.errors import UsageError
from parity.results import Comparison
from parity.run import Options, opened_waivers, run

WAIVER = '[[waiver]]\ncheck = "{}"\nname = "*"\nreason = "on purpose"\n'


def _file(folder: Path, check: str) -> str:
    path = folder / "waivers.toml"
    path.write_text(WAIVER.format(check))
    return str(path)


def test_a_run_without_a_file_waives_nothing() -> None:
    """No divergence is expected."""
    far = Comparison("a", "T0", passed=False, bitwise=False)
    assert opened_waivers(Options()).applied("losses.koleo", far) is far


@pytest.mark.parametrize("check", ["losses.koleo", "gradients.step", "gradients.step[default-full]", "masks.*"])
def test_any_check_there_is_can_be_waived(tmp_path: Path, check: str) -> None:
    """Whatever this run leaves out: the file is the same for a quick and a whole one."""
    options = Options(waivers=_file(tmp_path, check), quick=True, only=("schedules",))
    far = Comparison("a", "T0", passed=False, bitwise=False)
    name = check.replace("*", "bitwise")
    assert opened_waivers(options).applied(name, far).waived == "on purpose"


def test_a_bad_file_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    """A mistake must not cost the minutes of a run: not even the reference is looked for."""
    with pytest.raises(UsageError, match=r"no check is called 'losses\.kolea'; did you mean 'losses\.koleo'"):
        run(Options(waivers=_file(tmp_path, "losses.kolea"), reference="/no/such/folder"))
    with pytest.raises(UsageError, match="cannot be read"):
        run(Options(waivers=str(tmp_path / "none.toml"), reference="/no/such/folder"))
