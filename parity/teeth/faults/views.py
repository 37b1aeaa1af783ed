"""Faults of what is read and cut: crops, their distortions, the view of evaluation, and the order of images."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Constant, Edit

__all__ = ["FAULTS"]

_INIT = "port.data.augmentations:DataAugmentationDINO.__init__"
_COLOURS = "port.data.augmentations:_colours"
_SHUFFLED = "port.data.samplers:OfficialOrder._shuffled"


def _crops(id_: str, about: str, target: str, before: str, after: str, cause: str, origin: str = "") -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), ("augment.crops",), cause, origin)


def _order(id_: str, about: str, target: str, before: str, after: str, cause: str = r"order|sampler") -> Fault:
    return Fault(id_, about, (Edit(target, before, after),), ("augment.samplers", "augment.training_order"), cause)


FAULTS = (
    _crops(
        "blur-as-declared",
        "blurs as often as official declares",
        "port.data.transforms:gaussian_blur",
        '1 - p if quirk == "official" else p',
        "p",
        "^Q1 ",
        "dinov3#286, and ports that corrected it unsaid",
    ),
    _crops("no-flip", "never flipped", "port.data.augmentations:_flips", "Flip(p=0.5)]\n", "Flip(p=0.0)]\n", "flip"),
    _crops("jitter-rare", "colours jittered in half of the views", _COLOURS, "p=0.8", "p=0.5", "jitter"),
    _crops("grey-half", "half of the views are grey", _COLOURS, "p=0.2", "p=0.5", "gr[ae]y"),
    _crops("grey-first", "grey before the jitter", _COLOURS, "[jitter, transforms.RandomGrayscale(p=0.2)]",
           "[transforms.RandomGrayscale(p=0.2), jitter]", "gr[ae]y|jitter"),
    _crops("solarize-half", "half of the second crops are solarised", _INIT, "p=0.2", "p=0.5", "solari"),
    _crops("solarize-both", "the first crop is solarised too", _INIT, "global_crops_scale, 1.0)",
           "global_crops_scale, 1.0, solarize)", "solari"),
    _crops("crops-bilinear", "crops are resized bilinearly", _INIT, "InterpolationMode.BICUBIC",
           "InterpolationMode.BILINEAR", "bilinear|interpolat"),
    _crops("crops-scale", "global crops show as little as local ones", _INIT,
           "global_crops_size, global_crops_scale, 0.1, solarize",
           "global_crops_size, local_crops_scale, 0.1, solarize", "area|scale"),
    _crops("local-blur", "local crops are never blurred", _INIT, "local_crops_scale, 0.5)", "local_crops_scale, 1.0)",
           "blur"),
    Fault(
        "hue-twice",
        "hue moves twice as far",
        (Constant("port.data.augmentations:_JITTER", {"dinov2": (0.4, 0.4, 0.2, 0.2)}),),
        ("augment.crops",),
        "hue|jitter",
    ),
    Fault(
        "mean-half",
        "normalised by a mean of one half",
        (
            Edit(
                "port.data.transforms:make_normalize_transform",
                "mean=mean, std=std",
                "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)",
            ),
        ),
        ("augment.crops",),
        "mean|normali",
    ),
    Fault(
        "evaluation-bilinear",
        "evaluation resizes bilinearly",
        (
            Edit(
                "port.data.transforms:make_classification_eval_transform",
                "InterpolationMode.BICUBIC",
                "InterpolationMode.BILINEAR",
            ),
        ),
        ("augment.evaluation",),
        "bilinear|interpolat|resize",
    ),
    _order("order-once", "each pass has the order of the first", _SHUFFLED, "(number << 24)", "0"),
    _order("order-seed", "ranks shuffle alike", _SHUFFLED, "self.seed + rank", "self.seed"),
    _order("order-blocks", "a rank has a run of images, not every W-th", _SHUFFLED,
           "rank : rank + self.shard_size * self.world_size : self.world_size",
           "rank * self.shard_size : (rank + 1) * self.shard_size"),
)  # fmt: skip
