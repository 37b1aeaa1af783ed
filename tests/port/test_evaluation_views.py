from __future__ import annotations

import pytest
import torch
from evaluation_images import MemorySource, backbone, noise
from PIL import Image
from torch import Tensor

from port.data.transforms import make_classification_eval_transform
from port.evaluation.views import check_views, denormalised, frozen, labelled_views


def red(image: Image.Image) -> Tensor:
    """Return the image's first red value as a view of one pixel."""
    value = image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return torch.full((3, 1, 1), float(value[0]))


def grey(value: int) -> Image.Image:
    """Return an image of one colour."""
    return Image.new("RGB", (2, 2), (value, value, value))


def test_batches_keep_the_order() -> None:
    """Seven images, three at a time, although several threads read them."""
    source = MemorySource([grey(i) for i in range(7)], [i % 3 for i in range(7)])
    batches = list(labelled_views(source, red, 3))
    assert [batch.views[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert {batch.labels.dtype for batch in batches} == {torch.int64}


def test_damaged_images_are_left_out_with_their_labels() -> None:
    """Also a whole batch of them; each is named where it was."""
    source = MemorySource([grey(0), None, None, None, grey(4)], [0, 1, 2, 0, 1])
    batches = list(labelled_views(source, red, 2))
    assert [len(batch.views) for batch in batches] == [1, 0, 1]
    assert [batch.labels.tolist() for batch in batches] == [[0], [], [1]]
    assert [[bad.name for bad in batch.skipped] for batch in batches] == [["1.png"], ["2.png", "3.png"], []]
    assert batches[0].skipped[0].reason == "it is truncated"


@pytest.mark.parametrize(
    ("source", "batch_size", "words"),
    [
        (MemorySource([], []), 2, "0 images in memory: no image to evaluate on"),
        (MemorySource([grey(0), grey(1)], [0, None]), 2, r"1\.png has no label, expected one for k-NN"),
        (MemorySource([grey(0)], [0]), 0, "batch_size is 0, expected 1 or more"),
    ],
)
def test_what_cannot_be_read_at_all_is_refused(source: MemorySource, batch_size: int, words: str) -> None:
    """No image, no label, no batch: each with what to do."""
    with pytest.raises(ValueError, match=words):
        list(labelled_views(source, red, batch_size))


@pytest.mark.parametrize(("crop_size", "nearest"), [(18, 16), (0, 4), (23, 24)])
def test_crops_that_are_no_whole_patches_are_refused(crop_size: int, nearest: int) -> None:
    """The message names the nearest size that is."""
    with pytest.raises(
        ValueError, match=rf"{crop_size} pixels wide, .* patch size 4, such as knn.crop_size={nearest}$"
    ):
        check_views(backbone(), crop_size)


def test_whole_patches_are_accepted_at_other_sizes_than_in_training() -> None:
    """A backbone trained at 16 pixels takes 24."""
    check_views(backbone(), 24)


def test_colours_come_back() -> None:
    """Denormalised views are the image's own values, of 255."""
    view = make_classification_eval_transform(crop_size=16, resize_size=16)
    image = noise(0, 16, 16)
    expected = torch.tensor(list(image.tobytes())).view(16, 16, 3).permute(2, 0, 1) / 255
    torch.testing.assert_close(denormalised(view(image).unsqueeze(0))[0], expected, rtol=0, atol=1e-6)


def test_each_module_gets_its_own_mode_back() -> None:
    """A block that was frozen by hand stays frozen, the others train again; also after an error."""
    network = backbone()
    network.blocks[0].eval()
    before = [module.training for module in network.modules()]

    def fail() -> None:
        with frozen(network):
            assert not any(module.training for module in network.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert [module.training for module in network.modules()] == before
    assert torch.is_grad_enabled()
