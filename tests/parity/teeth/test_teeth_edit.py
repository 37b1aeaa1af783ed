"""Edits of functions: made where they are used, undone afterwards, refused where they do not fit."""

from __future__ import annotations

import inspect

import pytest
import torch

from parity.teeth.edit import Constant, Edit, EditError, applied
from port.data import MaskingGenerator, collate
from port.data.masking import max_num_patches
from port.losses import DINOLoss, KoLeoLoss
from port.models import block, layers

CAP = Edit(
    "port.data.masking:max_num_patches",
    "half_grid = 0.5 * img_size // patch_size\n    return half_grid * img_size // patch_size",
    "return 0.5 * (img_size // patch_size) ** 2",
)


def test_a_function_is_edited_and_restored() -> None:
    """518 pixels in patches of 14: official's early floor gives 666, half of 37 x 37 is 684.5."""
    import port.data.masking as module

    before = module.max_num_patches
    with applied(CAP):
        assert module.max_num_patches(518, 14) == 684.5
    assert module.max_num_patches is before
    assert max_num_patches(518, 14) == 666.0


def test_names_imported_elsewhere_are_edited_too() -> None:
    """`port` imports the function into other modules, which call it by their own name."""
    import parity.adapters.port as adapter

    with applied(CAP):
        assert vars(adapter)["max_num_patches"](518, 14) == 684.5
    assert vars(adapter)["max_num_patches"](518, 14) == 666.0


def test_a_method_is_edited_for_its_instances() -> None:
    """Also for those that were made before."""
    loss = KoLeoLoss()
    tokens = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    plain = loss(tokens)
    with applied(Edit("port.losses.koleo:KoLeoLoss.forward", "-torch.log", "torch.log")):
        torch.testing.assert_close(loss(tokens), -plain)
    assert torch.equal(loss(tokens), plain)


def test_a_constructor_with_super_is_edited() -> None:
    """`super()` without arguments needs a class, which the recompiled function is given."""
    with applied(Edit("port.losses.koleo:KoLeoLoss.__init__", "eps=1e-8", "eps=0.5")):
        assert KoLeoLoss().pdist.eps == 0.5
    assert KoLeoLoss().pdist.eps == 1e-8


def test_a_decorated_method_keeps_its_decorator() -> None:
    """`pairwise_NNs_inner` records no gradient, edited or not."""
    tokens = torch.eye(3, requires_grad=True)
    with applied(Edit("port.losses.koleo:KoLeoLoss.pairwise_NNs_inner", "torch.max(dots", "torch.min(dots")):
        found = KoLeoLoss().pairwise_NNs_inner(tokens)
    assert not found.requires_grad
    assert found.tolist() == [0, 1, 2]  # the diagonal, filled with -1, is the least


def test_a_constant_is_edited_and_restored() -> None:
    """Functions read it when they are called."""
    with applied(Constant("port.models.layers:LAYER_NORM_EPS", 1e-5)):
        assert vars(block)["layer_norm"](4).eps == 1e-5
    assert layers.layer_norm(4).eps == 1e-6


def test_an_edited_line_keeps_its_number() -> None:
    """A traceback, and so a trace, names the line in the file."""
    lines, start = inspect.getsourcelines(DINOLoss.batch_center)
    place = start + next(i for i, line in enumerate(lines) if "torch.sum" in line)
    with (
        applied(Edit("port.losses.dino:DINOLoss.batch_center", "torch.sum(widened(", "torch.nothing(widened(")),
        pytest.raises(AttributeError) as raised,
    ):
        DINOLoss(3).batch_center(torch.zeros(2, 3))
    (line,) = (entry.lineno + 1 for entry in raised.traceback if str(entry.path).endswith("losses/dino.py"))
    assert line == place


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("port.data.masking:max_num_patches", "no such text", ""), "0 times, expected once"),
        (Edit("port.data.masking:max_num_patches", "patch_size", ""), "times, expected once"),
        (Edit("port.data.masking:no_such", "patch_size", ""), "no_such does not exist"),
        (Edit("port.data.masking:NoSuch.method", "patch_size", ""), "NoSuch.method does not exist"),
        (Constant("port.models.layers:NO_SUCH", 1), "NO_SUCH does not exist"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: Edit | Constant, words: str) -> None:
    """A catalogue older than the code must not count a fault that was never made."""
    with pytest.raises(EditError, match=words), applied(edit):
        pass


def test_several_edits_are_undone_after_an_error() -> None:
    """Whatever happens while they stand."""
    drawn = collate.draw_masks
    with (
        pytest.raises(ZeroDivisionError),
        applied(Edit("port.data.collate:draw_masks", "random.shuffle(masks_list)", "pass"), CAP),
    ):
        raise ZeroDivisionError
    assert collate.draw_masks is drawn
    assert MaskingGenerator((4, 4)).get_shape() == (4, 4)
