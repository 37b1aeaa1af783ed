from __future__ import annotations

from pathlib import Path

import pytest
from forward_cases import code, findings, one, rewritten, states

from migrations.engine.model import Level, State
from migrations.rules.m0001_unified_forward import MIGRATION

FORK = code(
    """
    def train(student, teacher, loader, args):
        for batch in loader:
            batch = [view.cuda() for view in batch]
            global_crops = batch[:2]
            all_crops = global_crops + batch[2 : 2 + args.n]
            third = batch[-1]
            masks = draw_masks(len(third))
            with torch.no_grad():
                targets = teacher(global_crops)
                patch_targets = teacher(third, token_masks=None)
            outputs = student(all_crops)
            patches = student(third, token_masks=masks)
            (loss(targets, outputs) + ibot(patch_targets, patches)).backward()
    """
)
TOKENS = "patch and CLS tokens come from here"
MASKS = "[*masks.chunk(len(global_crops)), *[None] * (len(all_crops) - len(global_crops))]"
SKELETON = code(
    f"""
    def train(student, teacher, loader, args):
        for batch in loader:
            batch = [view.cuda() for view in batch]
            global_crops = batch[:2]
            all_crops = global_crops + batch[2 : 2 + args.n]
            third = batch[-1]
            # TODO[parity 0001] draw the masks for all of global_crops at once
            masks = draw_masks(len(third))
            with torch.no_grad():
                targets = teacher(global_crops)
                # TODO[parity 0001] remove this call: take the patch tokens from the teacher's call on global_crops
                patch_targets = teacher(third, token_masks=None)
            # TODO[parity 0001] the masks need one row for each crop in global_crops: {TOKENS}
            outputs = student(all_crops, token_masks={MASKS})
            # TODO[parity 0001] remove this second call: take the patch tokens of global_crops from the call above
            patches = student(third, token_masks=masks)
            (loss(targets, outputs) + ibot(patch_targets, patches)).backward()
    """
)
FILLED = code(
    """
    def train(student, teacher, loader, args):
        for batch in loader:
            batch = [view.cuda() for view in batch]
            global_crops = batch[:2]
            all_crops = global_crops + batch[2 : 2 + args.n]
            masks = draw_masks(sum(len(crop) for crop in global_crops))
            with torch.no_grad():
                targets = teacher(global_crops)
            outputs = student(all_crops, token_masks=[*masks.chunk(2), *[None] * args.n])
            loss(targets, outputs).backward()
    """
)


def test_the_surviving_call_gets_masks_and_the_rest_is_marked() -> None:
    """A skeleton: the DINO call receives the masks, four places are marked, nothing is removed."""
    assert rewritten(MIGRATION, FORK, Level.SKELETON, settled=False) == {"fork.py": SKELETON}


def test_evidence_says_who_sees_what() -> None:
    """Both calls, and what each is given."""
    finding = one(MIGRATION, FORK)
    assert (finding.state, str(finding.site)) == (State.DIVERGED, "fork.py:11")
    assert finding.evidence == (
        "the student is called 2 times per step: without masks on `batch[:2] + batch[2 : 2 + args.n]` for DINO, and "
        "with masks on another view (`batch[-1]`) for iBOT; official calls it once, with masks on the global crops"
    )
    assert [site.line for site in finding.related] == [7, 10, 11, 12]


def test_holes_are_partial_and_offer_no_edits() -> None:
    """What is left to fill is named by line."""
    finding = one(MIGRATION, SKELETON)
    assert (finding.state, finding.edits) == (State.PARTIAL, ())
    assert finding.evidence == "4 holes `# TODO[parity 0001]` are left, lines 7, 11, 13, 15"


def test_filled_holes_are_aligned() -> None:
    """One student call, with masks."""
    assert states(MIGRATION, FILLED) == {State.ALIGNED}


def test_a_mask_of_none_is_replaced() -> None:
    """The surviving call may have the keyword already."""
    after = rewritten(
        MIGRATION,
        FORK.replace("student(all_crops)", "student(all_crops, token_masks=None)"),
        Level.SKELETON,
        settled=False,
    )
    assert after["fork.py"] == SKELETON


def test_names_wrappers_and_methods_do_not_matter() -> None:
    """Members, other keywords, several lines, an alias of the same views."""
    before = code(
        """
        class Trainer:
            def step(self, views):
                g = views[:2]
                everything = torch.cat([*g, *views[2:8]])
                own = views[8].half()
                m = self.bernoulli(own)
                with torch.no_grad():
                    t = self.ema_teacher.module(g)
                s = self.student.module.backbone(
                    everything,
                )
                p = self.student.module.backbone(own, masks=m)
                return s, t, p
        """
    )
    after = rewritten(MIGRATION, before, Level.SKELETON, settled=False)["fork.py"]
    assert (
        "        s = self.student.module.backbone(\n"
        "            everything, masks=[*m.chunk(len(g)), *[None] * (len(everything) - len(g))],\n"
        "        )\n"
    ) in after
    assert after.count("# TODO[parity 0001]") == 3


def test_the_same_crops_twice_are_diverged_too() -> None:
    """Global crops without masks for DINO and again with masks for iBOT: each passes twice."""
    before = FORK.replace("third = batch[-1]", "third = global_crops")
    finding = one(MIGRATION, before)
    assert finding.state is State.DIVERGED
    assert "with masks on the same crops again for iBOT" in finding.evidence


def test_line_ends_tabs_and_comments_are_kept() -> None:
    """CRLF, tabs and text beyond ASCII around the marks."""

    def converted(text: str) -> str:
        return (
            text.replace("    ", "\t").replace("third = batch[-1]", "third = batch[-1]  # 第三").replace("\n", "\r\n")
        )

    after = rewritten(MIGRATION, converted(FORK), Level.SKELETON, settled=False)
    assert after["fork.py"] == converted(SKELETON)


def test_what_is_no_plain_name_is_a_person_s() -> None:
    """Without names for crops and masks no argument can be written: diverged, manual."""
    before = FORK.replace("token_masks=masks", "token_masks=draw_masks(len(third))")
    finding = one(MIGRATION, before)
    assert (finding.state, finding.level, finding.edits) == (State.DIVERGED, Level.MANUAL, ())


NO_OPS = {
    "iBOT's split of the same crops": (
        code(
            """
            def train(student, teacher, loader, args):
                for images, masks in loader:
                    teacher_output = teacher(images[:args.n])
                    student_output = student(images[:args.n], mask=masks[:args.n])
                    student.module.backbone.masked_im_modeling = False
                    student_local = student(images[args.n:])[0]
                    loss(teacher_output, student_output, student_local).backward()
            """
        ),
        State.ALIGNED,
    ),
    "DINO v1, without masks": (
        code(
            """
            def train(student, teacher, loader):
                for images, _ in loader:
                    teacher_output = teacher(images[:2])
                    student_output = student(images)
                    loss(student_output, teacher_output).backward()
            """
        ),
        State.NOT_APPLICABLE,
    ),
    "one call with lists, as official": (
        code(
            """
            def forward_backward(self, images):
                global_crops = images["collated_global_crops"].cuda()
                local_crops = images["collated_local_crops"].cuda()
                masks = images["collated_masks"].cuda()
                def teacher_output():
                    x, n = global_crops, 2
                    return self.teacher.backbone(x, is_training=True)
                out = self.student.backbone([global_crops, local_crops], masks=[masks, None], is_training=True)
                return out
            """
        ),
        State.ALIGNED,
    ),
    "one of two branches runs": (
        code(
            """
            def features(self, batch):
                g, l, masks = batch["g"], batch["l"], batch["m"]
                if len(l) == 0:
                    return self.student["backbone"]([g], masks=[masks])
                return self.student["backbone"]([g, l], masks=[masks, None])
            """
        ),
        State.ALIGNED,
    ),
    "masks that are all None": (
        code(
            """
            def step(student, crops, ibot):
                out = student(crops, masks=[None] * len(crops))
                return ibot(out)
            """
        ),
        State.UNKNOWN,
    ),
    "crops that cannot be followed": (
        code(
            """
            def step(student, teacher, batch, masks):
                a, b = split(batch)
                targets = teacher(pick(batch))
                return student(a, mask=masks), student(b)
            """
        ),
        State.UNKNOWN,
    ),
    "heads and questions are no forward pass": (
        code(
            """
            def step(student, x, masks):
                student.train(True)
                student_head(x)
                student.load_state_dict(masks)
                return build_student(x, masks=masks)
            """
        ),
        State.UNKNOWN,
    ),
    "no student": ("def f(model, x, mask):\n    return model(x, mask=mask)\n", State.UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_OPS)
def test_other_code_is_never_diverged(name: str) -> None:
    """Aligned where each crop passes the student once; unknown where it cannot be followed; no edits."""
    text, state = NO_OPS[name]
    finding = one(MIGRATION, text)
    assert (finding.state, finding.edits) == (state, ())


def test_official_code_is_aligned(official_root: Path) -> None:
    """One student call, with masks on the global crops."""
    texts = {str(path.relative_to(official_root)): path.read_text() for path in official_root.rglob("*.py")}
    finding = one(MIGRATION, texts)
    assert (finding.state, finding.site and finding.site.path) == (State.ALIGNED, "dinov2/train/ssl_meta_arch.py")


def test_port_is_aligned() -> None:
    """This project's own step calls the student once."""
    root = Path(__file__).parents[3] / "port"
    texts = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    assert states(MIGRATION, texts) == {State.ALIGNED}


def test_the_miniature_fork_is_diverged_in_its_trainer() -> None:
    """The trainer's loop, and not the helper of a clustering mode that migration 0004 removes."""
    root = Path(__file__).parents[1] / "fork"
    texts = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*.py")}
    (finding,) = findings(MIGRATION, texts)
    assert (finding.state, finding.level) == (State.DIVERGED, Level.SKELETON)
    assert finding.site is not None
    assert texts["training/trainer.py"].splitlines()[finding.site.line - 1].strip() == (
        "student_output = student(student_all_crops)"
    )
