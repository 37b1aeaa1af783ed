from __future__ import annotations

import pytest
from advisory_cases import found, places

from migrations.advisory.a04_koleo import ADVISORY


def test_a_sum_over_crops_that_is_halved_is_reported() -> None:
    """The whole quotient is the site."""
    (finding,) = found(ADVISORY, "loss = w * (sum(koleo_loss(p) for p in cls.chunk(2)) / 2)\n")
    assert str(finding.site) == "fork.py:2"
    assert finding.evidence == "KoLeo is averaged over crops by `/ 2`; official sums it"


@pytest.mark.parametrize(
    "text",
    [
        "k = torch.stack([self.koleo(p) for p in cls.chunk(2)]).mean()\n",
        "k = torch.mean(torch.stack([koleo(p) for p in crops]))\n",
        "k = (koleo(first) + koleo(second)) * 0.5\n",
        "k = sum(koleo(p) for p in crops) / len(crops)\n",
        "k = sum(koleo(p) for p in crops) / n_global_crops\n",
    ],
)
def test_other_ways_of_a_mean_are_reported_once(text: str) -> None:
    """Means of stacks, products with a half, quotients by the number of crops."""
    assert places(ADVISORY, text) == ["fork.py:2"]


def test_outputs_of_a_head_are_followed_to_the_head() -> None:
    """Through names, slices, `chunk` and a loop, to the line that calls the head."""
    text = """
        def step(self, x):
            features = self.backbone(x)
            scores = self.student.dino_head(features)
            wide = scores[:n]
            return sum(self.koleo_loss(part) for part in wide.chunk(2))

        def other(self, x):
            scores = self.classhead(x)
            for part in scores.chunk(2):
                loss += koleo(part)
    """
    assert places(ADVISORY, text.replace("koleo_loss(part) for part in wide.chunk(2)", "koleo_loss(wide)")) == [
        "fork.py:6",
        "fork.py:11",
    ]
    (first, _) = found(ADVISORY, text.replace("koleo_loss(part) for part in wide.chunk(2)", "koleo_loss(wide)"))
    assert [str(site) for site in first.related] == ["fork.py:4"]


def test_official_s_sum_is_silent_and_so_is_the_half_that_it_logs() -> None:
    """Official divides only what is displayed."""
    text = """
        def forward_backward(self):
            student_cls_tokens = self.student.backbone(x)["x_norm_clstoken"]
            after_head = self.student.dino_head(student_cls_tokens)
            koleo_loss = self.cfg.dino.koleo_loss_weight * sum(
                self.koleo_loss(p) for p in student_cls_tokens.chunk(2)
            )
            loss_accumulator += koleo_loss
            loss_dict["koleo_loss"] = koleo_loss / loss_scales
            shown["koleo"] = sum(self.koleo_loss(p) for p in student_cls_tokens.chunk(2)) / 2
    """
    assert places(ADVISORY, text) == []


def test_a_half_inside_of_the_loss_or_its_weight_is_silent() -> None:
    """A temperature, a factor of one call, and the mean over samples are no mean over crops."""
    text = """
        k = koleo(cls) / 2
        k = sum(koleo(p / 2) for p in crops)
        k = -torch.log(distances + eps).mean()
        k = KoLeoLoss(reduction="mean")
    """
    assert places(ADVISORY, text) == []


def test_a_mean_that_is_scaled_to_a_sum_again_is_silent() -> None:
    """DINOv3 takes the mean of two crops and multiplies by two: official's sum."""
    text = """
        koleo_loss = sum(self.koleo_loss(x) for x in cls_pre_head) / n_global_crops
        loss += weight * koleo_scale * koleo_loss
    """
    assert places(ADVISORY, text) == []


def test_names_that_only_contain_head_are_silent() -> None:
    """`ahead`, `headless` and the heads of attention are not projection heads."""
    text = """
        a = koleo(look_ahead(cls))
        b = koleo(headless(cls))
        c = koleo(split_heads_of(cls))
    """
    assert places(ADVISORY, text) == []
