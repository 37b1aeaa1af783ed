from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from forward_cases import code, findings, one, rewritten, states

from migrations.engine.model import Level, State
from migrations.engine.project import Project
from migrations.rules.m0002_third_view import MIGRATION

TRANSFORM = code(
    """
    class Views:
        def __init__(self, size=224, n=2):
            self.n = n
            self.global_1 = Compose([RandomResizedCrop(size), Flip()])
            self.global_2 = Compose([RandomResizedCrop(size), Solarize()])

            # for iBOT
            self.global_3 = Compose([RandomResizedCrop(size), Blur()])
            self.local = Compose([RandomResizedCrop(96), Flip()])

        def __call__(self, x):
            crops = []
            crops.append(self.global_1(x))
            crops.append(self.global_2(x))
            for _ in range(self.n):
                crops.append(self.local(x))
            crops.append(self.global_3(x))
            return crops
    """
)
TWO_VIEWS = code(
    """
    class Views:
        def __init__(self, size=224, n=2):
            self.n = n
            self.global_1 = Compose([RandomResizedCrop(size), Flip()])
            self.global_2 = Compose([RandomResizedCrop(size), Solarize()])
            self.local = Compose([RandomResizedCrop(96), Flip()])

        def __call__(self, x):
            crops = []
            crops.append(self.global_1(x))
            crops.append(self.global_2(x))
            for _ in range(self.n):
                crops.append(self.local(x))
            return crops
    """
)
LOOP = code(
    """
    def train(student, teacher, loader, args):
        for it, batch in enumerate(loader):
            batch = [view.to(args.device) for view in batch]
            targets = teacher(batch[:2])
            loss = student(batch[:2], batch[2 : 2 + args.n]) - targets
            loss.backward()
    """
)


def test_the_view_and_its_definition_go_where_nothing_reads_it() -> None:
    """Safe, as the loop takes views by their index, and none from the end; the definition's comment goes too."""
    after = rewritten(MIGRATION, {"data.py": TRANSFORM, "train.py": LOOP}, Level.SAFE)
    assert after == {"data.py": TWO_VIEWS, "train.py": LOOP}


def test_the_rewritten_transform_makes_two_global_views() -> None:
    """With stand-ins that return what they are: two of the large crop, two of the small, in that order."""
    after = rewritten(MIGRATION, {"data.py": TRANSFORM, "train.py": LOOP}, Level.SAFE)
    names: dict[str, Any] = {
        "Compose": lambda parts: lambda x: parts[0],
        "RandomResizedCrop": lambda size: size,
        **dict.fromkeys(("Flip", "Solarize", "Blur"), random.random),
    }
    exec(compile(after["data.py"], "data.py", "exec"), names)  # noqa: S102 - the text is this file's
    assert names["Views"]()(None) == [224, 224, 96, 96]


def test_evidence_names_the_views() -> None:
    """How many, which, and what official makes."""
    (finding,) = findings(MIGRATION, {"data.py": TRANSFORM, "train.py": LOOP})
    assert str(finding.site) == "data.py:17"
    assert finding.evidence == (
        "3 global views per image (self.global_1, self.global_2, self.global_3) and local ones in a loop (self.local); "
        "official makes two, which serve DINO and iBOT; nothing reads the last one, 3 places take views by their index"
    )


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("original = batch[-1].cuda()", "reads `batch[-1]`"),
        ("local = batch[2:-1]", "reads `batch[2:-1]`"),
        ("local = batch[2:]", "reads `batch[2:]`"),
        ("everything = student(batch)", "gives all views to `student`"),
        ("fifth = batch[5]", "reads `batch[5]`"),
        ("n = len(batch)", "reads `len(batch)`"),
        ("for view in batch: student(view)", "reads all views, `batch`"),
    ],
)
def test_a_reader_blocks_the_removal_and_is_named(line: str, why: str) -> None:
    """Whoever counts from the end, or takes all views, would be given others."""
    loop = LOOP.replace("        targets =", f"        {line}\n        targets =")
    (finding,) = findings(MIGRATION, {"data.py": TRANSFORM, "train.py": loop})
    assert (finding.state, finding.level, finding.edits) == (State.DIVERGED, Level.BLOCKED, ())
    assert finding.blocked_by == (f"train.py:4 {why}",)


def test_views_are_followed_into_a_function_and_under_other_names() -> None:
    """`step(images)` reads the third view under a parameter's name."""
    loop = code(
        """
        def train(loader):
            for data in loader:
                images, labels = data
                first = images[0]
                step(images)
                first.backward()

        def step(views):
            crops = [v.half() for v in views]
            return crops[-1]
        """
    )
    (finding,) = findings(MIGRATION, {"data.py": TRANSFORM, "train.py": loop})
    assert finding.blocked_by == ("train.py:10 reads `crops[-1]`",)


def test_no_loop_at_all_makes_it_unsafe() -> None:
    """Who takes the views is not in these files: on demand only."""
    after = rewritten(MIGRATION, TRANSFORM, Level.UNSAFE)
    assert after["fork.py"] == TWO_VIEWS
    assert "outside of these files" in findings(MIGRATION, TRANSFORM)[0].person


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "        crops = [self.global_1(x), self.global_2(x)]\n"
            "        crops += [self.local(x) for _ in range(self.n)]\n"
            "        crops += [self.global_3(x)]\n"
            "        return crops\n",
            "        crops = [self.global_1(x), self.global_2(x)]\n"
            "        crops += [self.local(x) for _ in range(self.n)]\n"
            "        return crops\n",
        ),
        (
            "        return [self.global_1(x), self.global_2(x), *[self.local(x) for _ in range(self.n)], "
            "self.global_3(x)]\n",
            "        return [self.global_1(x), self.global_2(x), *[self.local(x) for _ in range(self.n)]]\n",
        ),
        (
            "        v = [\n"
            "            self.global_1(x),\n"
            "            self.global_2(img=x),\n"
            "        ]\n"
            "        v.extend(self.local(x) for _ in range(self.n))\n"
            "        v.append(self.global_3(x))  # größe\n"
            "        return v\n",
            "        v = [\n"
            "            self.global_1(x),\n"
            "            self.global_2(img=x),\n"
            "        ]\n"
            "        v.extend(self.local(x) for _ in range(self.n))\n"
            "        return v\n",
        ),
    ],
)
def test_other_ways_to_build_the_list(before: str, after: str) -> None:
    """Lists, comprehensions, stars and generators are views as well."""
    head, old_head = TWO_VIEWS.split("        crops = []")[0], TRANSFORM.split("        crops = []")[0]
    result = rewritten(MIGRATION, {"data.py": old_head + before, "train.py": LOOP}, Level.SAFE)
    assert result["data.py"] == head + after


def test_line_ends_and_tabs_are_kept() -> None:
    """CRLF and tabs: only whole lines of the view go."""
    before = TRANSFORM.replace("    ", "\t").replace("\n", "\r\n")
    after = rewritten(MIGRATION, {"data.py": before, "train.py": LOOP}, Level.SAFE)
    assert after["data.py"] == TWO_VIEWS.replace("    ", "\t").replace("\n", "\r\n")


def test_a_transform_that_something_else_uses_stays() -> None:
    """Only the view goes, and the person is told."""
    files = {"data.py": TRANSFORM + "\n    def show(self, x):\n        return self.global_3(x)\n", "train.py": LOOP}
    after = rewritten(MIGRATION, files, Level.SAFE)
    assert "self.global_3 = " in after["data.py"]
    assert "crops.append(self.global_3" not in after["data.py"]
    assert "other code reads it" in findings(MIGRATION, files)[0].person


def test_a_third_view_in_the_middle_is_a_person_s() -> None:
    """Without it every index behind it means another view."""
    moved = TRANSFORM.replace("        crops.append(self.global_3(x))\n", "").replace(
        "        for _ in", "        crops.append(self.global_3(x))\n        for _ in"
    )
    (finding,) = findings(MIGRATION, {"data.py": moved, "train.py": LOOP})
    assert (finding.state, finding.level) == (State.DIVERGED, Level.MANUAL)


NO_OPS = {
    "already migrated": (TWO_VIEWS, State.ALIGNED),
    "as official, under keys": (
        code(
            """
            class Augmentation:
                def __call__(self, image):
                    output = {}
                    a = self.color_1(self.crop_global(image))
                    b = self.color_2(self.crop_global(image))
                    output["global_crops"] = [a, b]
                    output["local_crops"] = [self.crop_local(image) for _ in range(self.n)]
                    output["offsets"] = ()
                    return output
            """
        ),
        State.ALIGNED,
    ),
    "a list of transforms, as lightly builds it": (
        code(
            """
            class Transform(MultiView):
                def __init__(self, global_crop_size=224, local_crop_size=96, n_local=6):
                    first = View(crop_size=global_crop_size)
                    second = View(crop_size=global_crop_size, solarize=0.2)
                    small = View(crop_size=local_crop_size)
                    views = [first, second]
                    local = [small] * n_local
                    views.extend(local)
                    super().__init__(transforms=views)
            """
        ),
        State.ALIGNED,
    ),
    "as many global views as a number says": (
        TWO_VIEWS.replace(
            "        crops.append(self.global_2(x))\n",
            "        for _ in range(self.more):\n            crops.append(self.global_2(x))\n",
        ),
        State.UNKNOWN,
    ),
    "a view under a condition": (
        TRANSFORM.replace(
            "        crops.append(self.global_3(x))\n",
            "        if self.ibot:\n            crops.append(self.global_3(x))\n",
        ),
        State.UNKNOWN,
    ),
    "local views under a condition": (
        TWO_VIEWS.replace(
            "        for _ in range(self.n):\n            crops.append(self.local(x))\n",
            "        if self.n:\n            crops += [self.local(x) for _ in range(self.n)]\n",
        ),
        State.ALIGNED,
    ),
    "a last view of its own size": (
        TRANSFORM.replace(
            "self.global_3 = Compose([RandomResizedCrop(size)", "self.global_3 = Compose([CenterCrop(64)"
        ),
        State.UNKNOWN,
    ),
    "two views and no local ones": (
        "def views(x):\n    crop = RandomCrop(9)\n    return [crop(x) for _ in range(2)]\n",
        State.UNKNOWN,
    ),
    "no views": ("def crop(x):\n    return x[1:]\n", State.UNKNOWN),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_other_code_is_never_diverged(name: str) -> None:
    """Two global views are aligned; what cannot be counted is unknown; nothing is rewritten."""
    text, state = NO_OPS[name]
    finding = one(MIGRATION, {"data.py": text, "train.py": LOOP})
    assert (finding.state, finding.edits) == (state, ())


def test_official_code_is_aligned(official_root: Path) -> None:
    """Two global crops, and local ones."""
    texts = {str(path.relative_to(official_root)): path.read_text() for path in official_root.rglob("*.py")}
    finding = one(MIGRATION, texts)
    assert (finding.state, finding.site and finding.site.path) == (State.ALIGNED, "dinov2/data/augmentations.py")


def test_port_is_aligned() -> None:
    """This project's own augmentation makes two global crops."""
    root = Path(__file__).parents[3] / "port"
    texts = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    assert State.DIVERGED not in states(MIGRATION, texts)
    assert any(
        f.state is State.ALIGNED and f.site and f.site.path == "data/augmentations.py"
        for f in findings(MIGRATION, texts)
    )


def test_the_miniature_fork_is_blocked_by_its_trainer() -> None:
    """The trainer reads `batch_data[-1]`: named, and nothing is rewritten; without that line it is safe."""
    root = Path(__file__).parents[1] / "fork"
    texts = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*.py")}
    (finding,) = findings(MIGRATION, texts)
    trainer = texts["training/trainer.py"]
    line = next(i for i, text in enumerate(trainer.splitlines(), 1) if "batch_data[-1]" in text)
    assert finding.blocked_by == (f"training/trainer.py:{line} reads `batch_data[-1]`",)
    texts["training/trainer.py"] = trainer.replace("        original_images = batch_data[-1]\n", "")
    assert "global_3" not in rewritten(MIGRATION, texts, Level.SAFE)["data/transforms.py"].split("def __init__")[1]


def test_an_empty_list_times_a_number_is_no_view() -> None:
    """`crops = [] * n` has no element to look at, and is no error."""
    text = (
        "def make(image, n):\n    crops = [] * n\n    for _ in range(n):\n        crops += [] * 2\n    return crops\n"
    )
    assert [finding.site for finding in MIGRATION.find(Project.of_texts({"a.py": text}))] == [None]
