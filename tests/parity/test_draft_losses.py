from __future__ import annotations

import ast
from pathlib import Path

import pytest
from draft_forks import DENSE, GRIDS, SINGLE, TEACHER_FIRST

from parity.draft import Draft, Gap, Wired, draft


def _drafted(folder: Path, **files: str) -> Draft:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    made = draft(folder)
    ast.parse(made.text)
    return made


def _body(made: Draft, capability: str) -> str:
    answer = made.answers[capability]
    assert isinstance(answer, Wired), answer
    return "\n".join(answer.body)


def _gap(made: Draft, capability: str) -> Gap:
    answer = made.answers[capability]
    assert isinstance(answer, Gap), answer
    return answer


def test_arguments_are_bound_by_name_whatever_their_order(tmp_path: Path) -> None:
    """Targets are the teacher's and predictions the student's, in this fork given teacher first."""
    made = _drafted(tmp_path, fork=SINGLE)
    assert "targets=teacher_out_softmaxed_centered_list" in _body(made, "dino_loss")
    assert "predictions=student_output_list" in _body(made, "dino_loss")
    assert made.answers["dino_loss"].sources == ("fork.py:10 DinoCriterion.forward",)  # type: ignore[union-attr]


def test_constants_that_the_fork_gives_are_taken_over(tmp_path: Path) -> None:
    """A required argument of no known role has the value of the fork's own calls."""
    assert "MaskedPatchLoss(temperature_of_student=0.1)" in _body(_drafted(tmp_path, fork=SINGLE), "ibot_loss")


def test_calls_that_disagree_decide_nothing(tmp_path: Path) -> None:
    """Two constants for one argument: a person must choose."""
    made = _drafted(tmp_path, fork=SINGLE + "other = MaskedPatchLoss(0.2)\n")
    assert "`temperature_of_student` has no default and no meaning" in _gap(made, "ibot_loss").reason


def test_temperatures_are_no_outputs(tmp_path: Path) -> None:
    """`student_temp` and `teacher_temp` are neither the student's nor the teacher's output."""
    text = "def dino_loss(teacher_logits, student_logits, student_temp=0.1, teacher_temp=0.04): ...\n"
    body = _body(_drafted(tmp_path, losses=text), "dino_loss")
    assert "student_logits=student_output_list" in body


def test_arguments_without_telling_names_are_left_to_do(tmp_path: Path) -> None:
    """`a` and `b`: a wrong guess would compare the wrong things."""
    made = _drafted(tmp_path, fork="class DINOLoss:\n    def forward(self, a, b): ...\n")
    assert "is not told by the names: `a`, `b`" in _gap(made, "dino_loss").reason


def test_a_loss_that_sharpens_its_teacher_is_given_logits(tmp_path: Path) -> None:
    """Of which parity's probabilities are the softmax at temperature 1; the draft says so."""
    made = _drafted(tmp_path, losses=TEACHER_FIRST)
    body = _body(made, "dino_loss")
    assert "teacher_out=[target.log() for target in teacher_out_softmaxed_centered_list]" in body
    assert "teacher_temp=1.0" in body
    assert "the softmax to the teacher itself" in made.text


def test_without_a_temperature_to_give_it_is_left_to_do(tmp_path: Path) -> None:
    """Logits at a temperature that nobody knows cannot be made."""
    text = "class DINOLoss:\n    def forward(self, teacher, student):\n        return teacher.softmax(-1) @ student\n"
    assert "at a temperature that cannot be given to it" in _gap(_drafted(tmp_path, losses=text), "dino_loss").reason


def test_the_temperature_may_be_the_constructors(tmp_path: Path) -> None:
    """Where the call takes none, the constructor's is set to 1."""
    text = TEACHER_FIRST.replace(", teacher_temp=None, epoch=None", "").replace("teacher_temp is None", "True")
    body = _body(_drafted(tmp_path, losses=text.replace("else teacher_temp", "else 1")), "dino_loss")
    assert "DINOLoss(teacher_temp=1.0, output_dim=student_output_list[0].shape[-1])" in body


def test_a_loss_of_whole_crops_gets_whole_crops(tmp_path: Path) -> None:
    """Masks that tokens are multiplied with say that these are all tokens."""
    assert "student_patch_tokens=spread(student_patch_tokens_masked, student_masks_flat)" in _body(
        _drafted(tmp_path, losses=DENSE), "ibot_loss"
    )


def test_masks_as_grids(tmp_path: Path) -> None:
    """A sum over two dimensions says that masks are (R, H, W); indexing weights by them, that tokens are flat."""
    made = _drafted(tmp_path, losses=GRIDS)
    body = _body(made, "ibot_loss")
    assert "mask=squared(student_masks_flat)" in body
    assert "student_out=student_patch_tokens_masked," in body
    assert "teacher_out=teacher_patch_tokens_masked.log()" in body
    assert "import squared, typed" in made.text


def test_both_uses_of_a_mask_decide_nothing(tmp_path: Path) -> None:
    """Multiplied here, an index there: dense or flat is for a person to say."""
    text = DENSE.replace("        return", "        w = student_masks_flat.sum(-1)[student_masks_flat]\n        return")
    assert "whole crops is not told" in _gap(_drafted(tmp_path, losses=text), "ibot_loss").reason


def test_structure_is_enough(tmp_path: Path) -> None:
    """Classes of any name with official's methods are recognised, and told apart by their masks."""
    methods = (
        "    def __init__(self, n_prototypes): ...\n"
        "    def softmax_center_teacher(self, t, teacher_temp): ...\n"
        "    def sinkhorn_knopp_teacher(self, t, teacher_temp{count}): ...\n"
        "    def update_center(self, t): ...\n    def apply_center_update(self): ...\n"
        "    def {forward}: ...\n"
    )
    first = "class Image:\n" + methods.format(count="", forward="forward(self, student, teacher)")
    second = "class Tokens:\n" + methods.format(
        count=", n_masked_patches_tensor", forward="forward_masked(self, student, teacher, masks, masks_weight)"
    )
    made = _drafted(tmp_path, losses=first + second)
    assert "import Image" in _body(made, "dino_loss")
    assert "loss.forward_masked(" in _body(made, "ibot_loss")
    body = _body(made, "sinkhorn")
    assert body.index("import Image") < body.index("import Tokens")
    assert "n_masked_patches_tensor=torch.full((1,), teacher_output.shape[0], dtype=torch.long)" in body
    assert "return centered(loss, teacher_outputs, teacher_temp)" in _body(made, "softmax_center")


def test_half_of_a_pair_is_not_wired(tmp_path: Path) -> None:
    """Without an iBOT loss, `sinkhorn` would raise for one kind: left to do, with what is there."""
    text = "class DINOLoss:\n    def forward(self, student, teacher): ...\n"
    text += "    def sinkhorn_knopp_teacher(self, t, temp): ...\n"
    gap = _gap(_drafted(tmp_path, losses=text), "sinkhorn")
    assert gap.reason == "no ibot loss was found"
    assert gap.found == ("losses.py:1 DINOLoss",)


def test_a_function_serves_both_kinds(tmp_path: Path) -> None:
    """Where the losses have no method, a function of scores and a temperature is taken."""
    made = _drafted(tmp_path, ops="def sinkhorn_knopp(scores, temperature, n_iterations=3): ...\n")
    assert _body(made, "sinkhorn").endswith("return sinkhorn_knopp(scores=teacher_output, temperature=teacher_temp)")


def test_an_own_class_comes_before_the_one_it_derives_from(tmp_path: Path) -> None:
    """The library's class with official's name is not what the fork trains with."""
    (tmp_path / "kit.py").write_text(DENSE)
    folder = tmp_path / "fork"
    folder.mkdir()
    own = (
        "from kit import iBOTPatchLoss as Base\nclass PatchLoss(Base):\n    def forward(self, s, t, token_masks): ...\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        made = _drafted(folder, losses=own)
    assert "import PatchLoss" in _body(made, "ibot_loss")
    assert "#     or losses.py:1 (from kit) Base" in made.text


def test_of_two_own_classes_official_name_counts(tmp_path: Path) -> None:
    """A special case that derives from the fork's own loss is not what it trains with."""
    text = "class DINOLoss:\n    def forward(self, student, teacher): ...\nclass DinoLossOfPairs(DINOLoss): ...\n"
    assert "import DINOLoss\n" in _body(_drafted(tmp_path, losses=text), "dino_loss")


def test_a_forward_of_its_own_counts_before_an_inherited_forward_masked(tmp_path: Path) -> None:
    """A fork that derives from official's loss and overrides `forward` trains with that, unless it calls the other."""
    base = "class Base:\n    def forward_masked(self, student, teacher, student_masks_flat): ...\n"
    own = "class iBOTPatchLoss(Base):\n    def forward(self, student_masked, teacher_masked, token_masks): ...\n"
    assert "return loss(" in _body(_drafted(tmp_path, losses=base + own), "ibot_loss")
    calls = "def step(loss): loss.forward_masked(1, 2, 3)\n"
    assert "loss.forward_masked(" in _body(_drafted(tmp_path, losses=base + own, train=calls), "ibot_loss")


def test_koleo_may_be_a_function(tmp_path: Path) -> None:
    """And is given the tokens alone; one that needs more is left to do."""
    assert _body(_drafted(tmp_path, fork=SINGLE), "koleo_loss").endswith("return koleo_regularizer(student_output)")
    made = _drafted(tmp_path, fork=SINGLE.replace("koleo_regularizer(features)", "koleo_regularizer(features, queue)"))
    assert "`queue`" in _gap(made, "koleo_loss").reason
