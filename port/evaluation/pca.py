"""Pictures of patch features: the first three principal components as red, green and blue.

Shapes: n images, N patches per image, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from port.data.transforms import make_classification_eval_transform
from port.evaluation.views import check_views, denormalised, frozen

__all__ = ["eval_views", "patch_components", "pca_image", "save_columns", "shown"]

_TILE, _GAP, _TITLE = 160, 8, 20  # pixels
_SHARES = (0.02, 0.98)  # of the patches that lie below black and below full colour


def pca_image(
    backbone: nn.Module,
    images: Sequence[Image.Image],
    path: Path,
    *,
    crop_size: int,
    resize_size: int = 0,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Write a PNG with one row per image: what the backbone sees, and its patch features in colour.

    To put several networks side by side, call `eval_views` once, `patch_components` for each, and `save_columns`.

    Args:
        backbone: a `DinoVisionTransformer` on `device`.
        images: RGB, at least one.
        path: of the PNG; its folder exists.
        crop_size: side of the centre crop, in pixels, a multiple of the patch size.
        resize_size: shorter side before the crop, in pixels; 0 for 8/7 of `crop_size`.
        device: where the backbone is.
        autocast: entered around the forward pass.

    Raises:
        ValueError: there is no image, or a size does not fit.
        OSError: the file cannot be written.
    """
    views = eval_views(backbone, images, crop_size, resize_size)
    components = patch_components(backbone, views, device=device, autocast=autocast)
    save_columns({"image": shown(views), "patch features (PCA)": components}, path)


def eval_views(backbone: nn.Module, images: Sequence[Image.Image], crop_size: int, resize_size: int = 0) -> Tensor:
    """Return the views that evaluation takes, float32 (n, 3, crop_size, crop_size); see `pca_image` for errors."""
    if not images:
        raise ValueError("there is no image to show, expected at least one")
    check_views(backbone, crop_size)
    view = make_classification_eval_transform(crop_size=crop_size, resize_size=resize_size)
    return torch.stack([view(image) for image in images])


def patch_components(
    backbone: nn.Module,
    views: Tensor,
    *,
    device: torch.device | str = "cpu",
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> list[Image.Image]:
    """Return pictures of one pixel per patch, coloured by the components of all patches of all views together.

    Equal colours are similar features, within one picture and between pictures of one call; which colour it is means
    nothing. No random number is drawn, and the backbone's mode is as before.

    Args:
        backbone: a `DinoVisionTransformer` on `device`, with D of at least 3.
        views: from `eval_views`.
        device: where the backbone is.
        autocast: entered around the forward pass.
    """
    with frozen(backbone), autocast():
        tokens: Tensor = backbone(views.to(device), is_training=True)["x_norm_patchtokens"]
    colours = _colours(tokens.flatten(0, 1).float().cpu().double())
    patch_size = backbone.patch_size
    assert isinstance(patch_size, int)
    grid = (len(views), views.shape[-2] // patch_size, views.shape[-1] // patch_size, 3)
    return [_picture(picture) for picture in colours.reshape(grid)]


def _colours(tokens: Tensor) -> Tensor:
    """Project tokens, float64 (n * N, D), to their first three components, each stretched to 0 to 1: (n * N, 3)."""
    centred = tokens - tokens.mean(dim=0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -3:].flip(1)
    # An eigenvector's sign is arbitrary: its largest entry is made positive, so that runs can be compared.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    values = centred @ (directions * largest.sign())
    low, high = torch.quantile(values, torch.tensor(_SHARES, dtype=values.dtype), dim=0)
    stretched: Tensor = (values - low) / (high - low).clamp(min=1e-12)
    return stretched.clamp(0, 1)


def shown(views: Tensor) -> list[Image.Image]:
    """Return normalised views (n, 3, height, width) as images again."""
    return [_picture(image) for image in denormalised(views).clamp(0, 1).permute(0, 2, 3, 1)]


def _picture(colours: Tensor) -> Image.Image:
    """Turn (height, width, 3), 0 to 1, into an image."""
    return Image.fromarray((colours * 255).round().to(torch.uint8).numpy())


def save_columns(columns: Mapping[str, Sequence[Image.Image]], path: Path) -> None:
    """Write a PNG with one titled column of pictures per entry.

    Args:
        columns: pictures by title; columns are equally long. Each becomes 160 pixels wide and high; smaller ones are
            enlarged without smoothing, so that patches stay squares.
        path: of the PNG; its folder exists.

    Raises:
        ValueError: there are no pictures, or columns differ in length.
        OSError: the file cannot be written.
    """
    lengths = {title: len(pictures) for title, pictures in columns.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise ValueError(f"columns of pictures {lengths}, expected at least one, of equal length above 0")
    n_rows = next(iter(lengths.values()))
    size = (_GAP + len(columns) * (_TILE + _GAP), _TITLE + _GAP + n_rows * (_TILE + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, (title, pictures) in enumerate(columns.items()):
        left = _GAP + column * (_TILE + _GAP)
        draw.text((left, _GAP), title, fill="black")
        for row, picture in enumerate(pictures):
            enlarged = max(picture.size) <= _TILE
            tile = picture.resize((_TILE, _TILE), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, _TITLE + _GAP + row * (_TILE + _GAP)))
    sheet.save(path, format="PNG")
