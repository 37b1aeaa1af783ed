from __future__ import annotations

import inspect
import random

import pytest
from advisory_cases import found, places

from migrations.advisory.a09_blur import ADVISORY


class GaussianBlur:
    """DINO v1's, without PIL: it applies with p."""

    def __init__(self, p: float = 0.5) -> None:
        self.prob = p

    def __call__(self, img: str) -> str:
        """Return the image, blurred or not."""
        do_it = random.random() <= self.prob
        if not do_it:
            return img
        return "blurred"


DINO_V1 = inspect.getsource(GaussianBlur)
OFFICIAL = """
from torchvision import transforms

class GaussianBlur(transforms.RandomApply):
    def __init__(self, *, p: float = 0.5, radius_min: float = 0.1):
        transform = transforms.GaussianBlur(kernel_size=9, sigma=(radius_min, 2.0))
        keep_p = 1 - p
        super().__init__(transforms=[transform], p=keep_p)
"""


def evidence(text: str) -> list[str]:
    """Return what is said of each blur."""
    return [one.evidence for one in found(ADVISORY, text)]


def test_official_s_class_with_official_s_arguments_is_silent() -> None:
    """It inverts 1, 0.1 and 0.5 to 0, 0.9 and 0.5, which are what official's views have."""
    assert evidence(OFFICIAL + "views = [GaussianBlur(p=1.0), GaussianBlur(p=0.1), GaussianBlur(p=0.5)]\n") == []


def test_dino_v1_s_class_applies_what_it_is_given() -> None:
    """Of the same three arguments only 0.5 comes to the same."""
    assert evidence(
        DINO_V1 + "views = [GaussianBlur(1.0), GaussianBlur(p=0.1), GaussianBlur(0.5), GaussianBlur()]\n"
    ) == [
        "`GaussianBlur(1.0)` blurs with probability 1; official's views with 0, 0.9 or 0.5",
        "`GaussianBlur(p=0.1)` blurs with probability 0.1; official's views with 0, 0.9 or 0.5",
    ]


def test_what_is_said_of_dino_v1_s_class_is_what_it_does() -> None:
    """The class, run 2,000 times with 0.1: about one image in ten is filtered."""
    random.seed(0)
    blur = GaussianBlur(0.1)
    share = sum(blur("image") == "blurred" for _ in range(2000)) / 2000
    assert 0.07 < share < 0.13


def test_torchvision_s_transform_always_blurs() -> None:
    """Alone in a Compose; in RandomApply with that probability, 0.5 where none is given."""
    head = "from torchvision import transforms as T\n"
    assert evidence(head + "t = T.Compose([T.GaussianBlur(3, (0.1, 0.15)), T.ToTensor()])\n") == [
        "`T.GaussianBlur(3, (0.1, 0.15))` blurs with probability 1; official's views with 0, 0.9 or 0.5"
    ]
    assert places(ADVISORY, head + "t = T.RandomApply([T.GaussianBlur(9)], p=0.2)\n") == ["fork.py:3"]
    assert places(ADVISORY, head + "t = T.RandomApply([T.GaussianBlur(9)], p=0.9)\n") == []
    assert places(ADVISORY, head + "t = T.RandomApply([T.GaussianBlur(9)])\n") == []


def test_probabilities_multiply() -> None:
    """A blur of 0.5 that is itself applied in half of the cases is applied in a quarter."""
    text = DINO_V1 + ("from torchvision import transforms\nt = transforms.RandomApply([GaussianBlur(0.5)], p=0.5)\n")
    assert "probability 0.25;" in evidence(text)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import albumentations as A\nt = A.GaussianBlur(p=1.0)\n", ["fork.py:3"]),
        ("import albumentations as A\nt = A.GaussianBlur()\n", []),
        ("import kornia.augmentation as K\nt = K.RandomGaussianBlur((9, 9), (0.1, 2.0), p=0.1)\n", ["fork.py:3"]),
        ("import albumentations as A\nt = A.OneOf([A.GaussianBlur(p=1.0), A.MotionBlur()])\n", []),
        ("import albumentations as A\nt = A.GaussianBlur(p=cfg.blur)\n", []),
        ("import albumentations as A\nchance = 0.3\nt = A.GaussianBlur(p=chance)\n", ["fork.py:4"]),
    ],
    ids=["always", "default", "kornia", "one of several", "configured", "a name"],
)
def test_libraries_are_known(text: str, expected: list[str]) -> None:
    """Albumentations and kornia apply with p, 0.5 by default; what is configured elsewhere is not judged."""
    assert places(ADVISORY, text) == expected


@pytest.mark.parametrize(
    ("body", "applied"),
    [
        ("if random.random() < self.p:\n    img = blur(img.filter(2))\nreturn img", 0.1),
        ("if random.random() > self.p:\n    return img\nreturn img.filter(2)", 0.1),
        ("if torch.rand(1) < self.p:\n    return img\nreturn img.filter(2)", 0.9),
        ("if np.random.uniform() >= self.p:\n    img = img.filter(2)\nreturn img", 0.9),
        ("keep = random.random() < self.p\nif keep:\n    return img\nreturn img.filter(2)", 0.9),
    ],
)
def test_hand_written_classes_are_read(body: str, applied: float) -> None:
    """Given 0.1, what is applied follows from the comparison and from the arm that leaves the image alone."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    head = "class GaussianBlur:\n    def __init__(self, p):\n        self.p = p\n\n    def __call__(self, img):\n"
    text = f"{head}{lines}\n"
    said = evidence(text + "view = GaussianBlur(0.1)\n")
    assert said == (
        []
        if applied == 0.9
        else [f"`GaussianBlur(0.1)` blurs with probability {applied:g}; official's views with 0, 0.9 or 0.5"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "from mylib import GaussianBlur\nview = GaussianBlur(p=0.1)\n",
        "class GaussianBlur:\n    def __init__(self, p):\n        self.q = f(p)\n\nview = GaussianBlur(p=0.1)\n",
        "class GaussianBlur:\n    def __init__(self, sigma):\n        self.s = sigma\n\nview = GaussianBlur(0.1)\n",
        "class GaussianBlur:\n    pass\n\nview = GaussianBlur(0.1)\n",
    ],
    ids=["not here", "no draw", "no probability", "no constructor"],
)
def test_what_the_source_does_not_tell_is_silent(text: str) -> None:
    """Nothing is reported of a class whose probability cannot be read."""
    assert evidence(text) == []


def test_the_blur_inside_a_blur_is_not_a_view() -> None:
    """Torchvision's transform, which official's class wraps, is not counted by itself."""
    assert evidence(OFFICIAL) == []
    function = "from torchvision import transforms\n\ndef make_blur(p):\n    return transforms.GaussianBlur(9)\n"
    assert evidence(function) == []
