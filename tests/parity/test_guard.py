"""A user's stack behind its guard: its own `dinov2`, copies of what it is given, results that are something."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from parity.errors import SubjectError
from parity.guard import GuardedSubject, Namespace
from parity.reference import open_reference
from parity.run import Options, run
from parity.stack import capability
from parity.subjects import open_subject

FORK_LOSS = """
import torch
class KoLeoLoss(torch.nn.Module):
    def forward(self, x):
        return 2.0 * x.square().mean()
"""
EAGER = "from dinov2.loss import KoLeoLoss\ndef koleo_loss(x):\n    return KoLeoLoss()(x)\n"
LAZY = "def koleo_loss(x):\n    from dinov2.loss import KoLeoLoss\n    return KoLeoLoss()(x)\n"


def guarded(**attributes: Any) -> GuardedSubject:
    """Return a guarded stack with the given attributes."""
    return GuardedSubject(SimpleNamespace(**attributes), Namespace())


@pytest.fixture(params=[EAGER, LAZY], ids=["imported at load", "imported in a call"])
def fork(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An adapter file beside a fork that kept the package name `dinov2`."""
    package = tmp_path / "dinov2" / "loss"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("__version__ = 'fork'\n")
    (package / "__init__.py").write_text(FORK_LOSS)
    adapter = tmp_path / "adapter.py"
    adapter.write_text(request.param)
    return adapter


def test_a_fork_called_dinov2_is_compared_with_official_code(fork: Path) -> None:
    """Its own loss is called, not the reference's of the same name: it is wrong, and is found to be."""
    result = run(Options(reference="pypi", subject=str(fork), only=("losses",), quick=True))
    check = next(c for c in result.checks if c.id == "losses.koleo")
    assert check.status == "diverged"
    assert result.exit_code == 1


def test_both_packages_keep_their_place(fork: Path) -> None:
    """Outside a call `dinov2` is the reference's, and afterwards nobody's."""
    with open_reference("pypi") as reference, open_subject(str(fork)) as subject:
        official = reference.module("loss").KoLeoLoss
        assert float(subject.koleo_loss(torch.ones(2, 2))) == 2.0
        assert sys.modules["dinov2.loss"].KoLeoLoss is official
        assert reference.module("loss").KoLeoLoss is official
    assert not any(name.partition(".")[0] == "dinov2" for name in sys.modules)


def test_configurations_and_lists_are_copies() -> None:
    """A subject that changes what it is given changes nothing for the reference."""

    def parameter_groups(config: Any, iterations: list[int]) -> dict[int, Any]:
        config.optim.lr = 99.0
        iterations.append(7)
        return {}

    config, iterations = OmegaConf.create({"optim": {"lr": 1.0}}), [1]
    guarded(parameter_groups=parameter_groups).parameter_groups(config, iterations)
    assert (config.optim.lr, iterations) == (1.0, [1])


async def _later(_: object) -> float:
    return 1.0


@pytest.mark.parametrize(("call", "kind"), [(lambda _: None, "NoneType"), (_later, "coroutine")])
def test_a_result_that_is_nothing_is_named(call: Any, kind: str) -> None:
    """The message gives the capability, what it returned and what it should."""
    with pytest.raises(SubjectError, match=f"koleo_loss returned {kind}, expected scalar tensor"):
        guarded(koleo_loss=call).koleo_loss(0)


def test_an_exception_of_its_own_kind_is_one_line() -> None:
    """What is no Exception would end the process; here it ends the check."""

    class OddError(BaseException):
        pass

    def koleo_loss(_: object) -> Iterator[float]:
        raise OddError("odd")

    with pytest.raises(SubjectError, match=r"koleo_loss raises OddError: odd"):
        guarded(koleo_loss=koleo_loss).koleo_loss(0)


def test_ordinary_exceptions_pass_through() -> None:
    """The check that called records type, text and line."""

    def koleo_loss(_: object) -> float:
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        guarded(koleo_loss=koleo_loss).koleo_loss(0)


def test_attributes_beside_capabilities_are_the_stack_s() -> None:
    """Name, claims, modes and reasons are read through the guard; what is missing is missing."""
    stack = guarded(name="mine", claims_bitwise=True, prototype_modes=("masked",), koleo_loss=float)
    assert (stack.name, stack.claims_bitwise, stack.prototype_modes) == ("mine", True, ("masked",))
    assert capability(stack, "dino_loss") is None
    assert capability(stack, "koleo_loss") is not None


def test_a_lookup_that_raises_is_named() -> None:
    """A stack whose `__getattr__` fails is the subject's error, with its line."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(f"no {name} today")

    class Named(Broken):
        name = "broken"

    with pytest.raises(SubjectError, match=r"broken\.koleo_loss raises RuntimeError: no koleo_loss today"):
        _ = GuardedSubject(Named(), Namespace()).koleo_loss
