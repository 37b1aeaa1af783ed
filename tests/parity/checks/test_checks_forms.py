"""Both forms of `port` beside official code: `official_order` bit for bit, `fast` by size."""

from __future__ import annotations

import pytest
from forks import assert_no_alarm, assert_seen, check
from omegaconf import DictConfig
from torch import Tensor

from parity.adapters.official import OfficialStack
from parity.adapters.port import FastPortStack, PortStack
from parity.adapters.port_parts import official_settings
from parity.recipes import RECIPES, SMALL_ARCHITECTURES
from parity.results import CheckResult
from parity.stack import claims_bitwise, forms_of, stack_name
from parity.subjects import open_subject

FORM = "kernels=fast"
JUDGED = ("losses.dino", "losses.ibot", "losses.sinkhorn", "losses.centering")


def both() -> PortStack:
    """`port` as `--subject port` opens it."""
    with open_subject("port") as stack:
        assert isinstance(stack, PortStack)
        return stack


def assert_both_forms(result: CheckResult) -> None:
    """Assert that all passed: the subject bit for bit, and the form as many tensors, by T1 and T2."""
    assert_no_alarm(result)
    forms = [c for c in result.comparisons if c.name.startswith(f"{FORM}/")]
    own = [c for c in result.comparisons if not c.name.startswith(f"{FORM}/")]
    assert all(c.bitwise for c in own)
    assert {c.tier for c in own} == {"T0", "T1", "T2"}
    assert {c.tier for c in forms} == {"T1", "T2"}
    judged = {c.name for c in own if c.tier == "T1"}
    assert {c.name.removeprefix(f"{FORM}/") for c in forms} == judged


def test_port_opens_with_its_fast_form() -> None:
    """The subject claims official's bits, the form claims none and says what it is."""
    stack = both()
    (name, form) = next(iter(forms_of(stack).items()))
    assert (name, stack_name(form)) == (FORM, "port, kernels=fast")
    assert claims_bitwise(stack)
    assert not claims_bitwise(form)
    assert forms_of(form) == {}


@pytest.mark.parametrize(("stack", "kernels"), [(PortStack, "official_order"), (FastPortStack, "fast")])
def test_a_stack_compares_its_own_form(stack: type[PortStack], kernels: str) -> None:
    """Whatever the configuration says, and without writing into it."""
    config: DictConfig = RECIPES[0].config()
    config.kernels = "anything"
    given = official_settings(config, stack(SMALL_ARCHITECTURES).kernels)
    assert given.kernels == kernels
    assert config.kernels == "anything"


@pytest.mark.parametrize("name", JUDGED)
def test_both_forms_of_the_losses_pass(official_stack: OfficialStack, name: str) -> None:
    """Values, gradients, assignments and centres."""
    assert_both_forms(check(official_stack, both(), name))


@pytest.mark.parametrize("recipe", ["default", "vitl14", "default-unmasked", "vitl14-unmasked", "default-no-local"])
def test_both_forms_of_a_step_pass(official_stack: OfficialStack, recipe: str) -> None:
    """Losses, gradients, moments, parameters, teacher and centres; both centerings, no masks, no local crops.

    Under `--quick` the subject's other state is left out, so that both forms have the same one.
    """
    result = check(official_stack, both(), "gradients.step", recipe)
    assert_no_alarm(result)
    forms = [c for c in result.comparisons if c.name.startswith(f"{FORM}/")]
    assert all(c.bitwise for c in result.comparisons if c not in forms)
    for part in ("losses", "gradients", "exp_avg_sq", "parameters", "teacher", "centers"):
        assert {c.tier for c in forms if c.name.startswith(f"{FORM}/generic/{part}/")} == {"T1", "T2"}, part


def test_a_fault_of_the_fast_form_alone_is_seen(official_stack: OfficialStack) -> None:
    """A factor off by one part in a million, and the name says in which form."""

    class Faulty(FastPortStack):
        def dino_loss(self, student_output_list: list[Tensor], teacher_list: list[Tensor]) -> Tensor:
            return super().dino_loss(student_output_list, teacher_list) * (1 + 1e-6)

    stack = PortStack(SMALL_ARCHITECTURES, {FORM: Faulty(SMALL_ARCHITECTURES)})
    result = check(official_stack, stack, "losses.dino")
    assert_seen(result, f"^{FORM}/dino/1 students 1 teachers/loss$")
    assert all(c.name.startswith(FORM) for c in result.diverged)
