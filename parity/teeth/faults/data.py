"""Faults of masks and of what a batch is made of."""

from __future__ import annotations

from parity.teeth.catalogue import Fault
from parity.teeth.edit import Constant, Edit

__all__ = ["FAULTS"]

_GENERATOR = "port.data.masking:MaskingGenerator."
_COLLATE = "port.data.collate:"

_POSITIONS = (
    "top = random.randrange(self.height - h + 1)\n        left = random.randrange(self.width - w + 1)\n",
    "left = random.randrange(self.width - w + 1)\n        top = random.randrange(self.height - h + 1)\n",
)


def _mask(id_: str, about: str, before: str, after: str, method: str = "_mask", cause: str = "masks") -> Fault:
    edit = Edit(f"{_GENERATOR}{method}", before, after)
    return Fault(f"mask-{id_}", about, (edit,), ("masks.bitwise",), cause)


def _counts(id_: str, about: str, before: str, after: str, cause: str = "counts") -> Fault:
    edit = Edit(f"{_COLLATE}draw_masks", before, after)
    return Fault(f"counts-{id_}", about, (edit,), ("masks.counts", "collate.batch[default]"), cause)


def _batch(id_: str, about: str, before: str, after: str, cause: str, function: str = "collate_data_and_cast") -> Fault:
    return Fault(f"batch-{id_}", about, (Edit(_COLLATE + function, before, after),), ("collate.batch[default]",), cause)


FAULTS = (
    _mask(
        "random",
        "tokens are masked one by one",
        "    mask_count = 0\n",
        "    mask.flat[random.sample(range(mask.size), num_masking_patches)] = True\n    mask_count = mask.size\n",
        "__call__",
        "^0003",
    ),
    Fault(
        "mask-attempts",
        "nine attempts for a block, not ten",
        (Constant("port.data.masking:ATTEMPTS_PER_BLOCK", 9),),
        ("masks.bitwise",),
        "masks",
    ),
    _mask(
        "whole-width",
        "blocks may span the grid",
        "w < self.width and h < self.height",
        "w <= self.width and h <= self.height",
    ),
    _mask(
        "aspect",
        "height and width swapped",
        "h = round(math.sqrt(target_area * aspect_ratio))",
        "h = round(math.sqrt(target_area / aspect_ratio))",
    ),
    _mask(
        "truncated",
        "sides rounded down",
        "round(math.sqrt(target_area * aspect_ratio))",
        "int(math.sqrt(target_area * aspect_ratio))",
    ),
    _mask("delta", "a block must add two patches", "0 < delta", "1 < delta"),
    _mask("overfull", "a block may exceed what is left", "0 < delta <= max_mask_patches", "delta > 0"),
    _mask(
        "area",
        "twice the area",
        "random.uniform(self.min_num_patches, max_mask_patches)",
        "random.uniform(self.min_num_patches, 2 * max_mask_patches)",
    ),
    _mask("smallest", "blocks of one patch", "random.uniform(self.min_num_patches, ", "random.uniform(1, "),
    _mask("draw-order", "left is drawn before top", *_POSITIONS),
    _mask(
        "linear-aspect",
        "aspect drawn uniformly",
        "math.exp(random.uniform(*self.log_aspect_ratio))",
        "random.uniform(*map(math.exp, self.log_aspect_ratio))",
    ),
    _mask("off-by-one", "blocks never reach the last row", "self.height - h + 1", "max(self.height - h, 1)"),
    Fault(
        "mask-cap",
        "half the grid, without official's early floor",
        (
            Edit(
                "port.data.masking:max_num_patches",
                "half_grid = 0.5 * img_size // patch_size\n    return half_grid * img_size // patch_size",
                "return 0.5 * (img_size // patch_size) ** 2",
            ),
        ),
        ("collate.cap[vitl14]",),
        "Q3|cap",
    ),
    _counts("rounded", "masked rows rounded", "int(n_rows * mask_probability)", "round(n_rows * mask_probability)"),
    _counts(
        "per-image",
        "counted over images",
        "int(n_rows * mask_probability)",
        "int(n_rows // 2 * mask_probability)",
        "^0003",
    ),
    _counts(
        "one-ratio",
        "one ratio for all",
        "ratio = prob_min + (prob_max - prob_min) * random.random()",
        "ratio = (ratio_min + ratio_max) / 2 + 0 * random.random()",
    ),
    _counts("bin-middle", "the middle of each bin", "* random.random()", "* 0.5"),
    _counts("rounded-up", "counts rounded", "int(n_tokens * ratio)", "round(float(n_tokens * ratio))"),
    _counts(
        "upperbound", "bound by the lower ratio", "int(n_tokens * prob_max)", "int(n_tokens * prob_min)", "upperbound"
    ),
    _counts("unshuffled", "masked rows first", "random.shuffle(masks_list)", "pass", "batch"),
    _batch(
        "weights-total",
        "weights by all masked tokens",
        "collated_masks.sum(-1).clamp(min=1.0)",
        "collated_masks.sum().clamp(min=1.0).expand(len(collated_masks))",
        "0005|masks_weight",
    ),
    _batch(
        "weights-root",
        "weights by the root of the count",
        "collated_masks.sum(-1).clamp(min=1.0)",
        "collated_masks.sum(-1).clamp(min=1.0).sqrt()",
        "0005|masks_weight",
    ),
    _batch("indices", "indices reversed", "nonzero().flatten()", "nonzero().flatten().flip(0)", "mask_indices_list"),
    _batch(
        "uncast", "local crops keep their type", '"local_crops").to(dtype)', '"local_crops")', "collated_local_crops"
    ),
    _batch(
        "count",
        "one masked patch less",
        "fill_value=mask_indices_list.shape[0]",
        "fill_value=mask_indices_list.shape[0] - 1",
        "n_masked_patches",
    ),
    _batch(
        "crop-order",
        "crops of an image side by side",
        "for i in range(n_crops) for sample in samples_list",
        "for sample in samples_list for i in range(n_crops)",
        "collated_global_crops",
        "_stack_crops",
    ),
    _batch(
        "third-view",
        "a third global crop",
        '"collated_global_crops": global_crops.to(dtype)',
        '"collated_global_crops": torch.cat((global_crops, global_crops[: len(samples_list)])).to(dtype)',
        "0002|collated_global_crops",
    ),
)
