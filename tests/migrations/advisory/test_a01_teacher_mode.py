from __future__ import annotations

from advisory_cases import found, places

from migrations.advisory.a01_teacher_mode import ADVISORY

HOLDER = """
    class Both(nn.Module):
        def __init__(self, student, teacher):
            super().__init__()
            self.student, self.teacher = student, teacher
            self.teacher.eval()

    def main():
        model = Both(vit(), vit()).to("cuda")
        model.train()
"""


def test_a_teacher_that_is_put_in_training_mode_is_reported() -> None:
    """The line and the call are named."""
    (finding,) = found(ADVISORY, "student.train()\nteacher.train()\n")
    assert str(finding.site) == "fork.py:3"
    assert finding.evidence == "`teacher.train()` puts the teacher in training mode, and nothing below takes it back"


def test_attributes_wrappers_and_the_mode_as_an_argument_are_followed() -> None:
    """`self.ema_teacher`, `.module` of DDP, `train(True)` and `train(mode=True)` are the same."""
    text = """
        self.ema_teacher.train(True)
        teacher.module.train()
        teacher_without_ddp.backbone.train(mode=True)
    """
    assert places(ADVISORY, text) == ["fork.py:2", "fork.py:3", "fork.py:4"]


def test_a_model_that_puts_its_teacher_back_is_reported() -> None:
    """`.eval()` in the constructor is undone by `.train()` of the whole, since the class does not override it."""
    (finding,) = found(ADVISORY, HOLDER)
    assert str(finding.site) == "fork.py:10"
    assert [str(site) for site in finding.related] == ["fork.py:6"]


def test_a_teacher_with_drop_path_that_never_leaves_training_mode_is_reported() -> None:
    """Modules are made in training mode: without any `.eval()` the teacher drops paths."""
    assert places(ADVISORY, "teacher = vit(16, drop_path_rate=args.drop_path_rate)\n") == ["fork.py:2"]


def test_a_teacher_without_drop_path_or_with_an_eval_somewhere_is_silent() -> None:
    """Where nothing is dropped the mode changes nothing; an `.eval()` in a loop may be the teacher's."""
    assert places(ADVISORY, "teacher = vit(16)\nteacher_2 = vit(16, drop_path_rate=0.0)\n") == []
    text = "teacher = vit(16, drop_path_rate=0.1)\nfor network in networks(teacher):\n    network.eval()\n"
    assert places(ADVISORY, text) == []


def test_official_s_override_of_train_is_silent() -> None:
    """Official's `train` takes the teacher out each time."""
    override = "    def train(self):\n        super().train()\n        self.teacher.eval()\n\n    def main"
    assert places(ADVISORY, HOLDER.replace("    def main", "    " + override.replace("\n", "\n    ", 2))) == []


def test_a_teacher_that_is_taken_back_is_silent() -> None:
    """`.eval()` below, in the constructor's model or in the function, settles it."""
    assert places(ADVISORY, "teacher.train()\nstudent.train()\nteacher.eval()\n") == []
    assert places(ADVISORY, HOLDER + "        model.teacher.eval()\n") == []


def test_evaluation_mode_by_argument_and_modes_that_are_not_known_are_silent() -> None:
    """`train(False)` is `.eval()`; a mode that the source does not tell is no evidence."""
    assert places(ADVISORY, "teacher.train(False)\nteacher.train(mode)\n") == []


def test_unrelated_train_is_silent() -> None:
    """The student's mode, the training of a teacher on labels, and a project without a student are not meant."""
    assert places(ADVISORY, "student.train()\nteacher.student.train()\nteacher.train(loader, epochs=3)\n") == []
    assert places(ADVISORY, {"evaluation/linear.py": "teacher.train()\n"}) == []
