from __future__ import annotations

import pytest
import torch

from port.losses.precision import autocast_off, widened


def test_products_are_not_rounded_inside() -> None:
    """Autocast makes matrix products bfloat16 outside, and leaves them float32 inside."""
    x = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with autocast_off(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_a_device_without_autocast_is_no_error() -> None:
    """On the meta device torch refuses an autocast context, and there is nothing to switch off."""
    with autocast_off(torch.device("meta")):
        assert torch.ones(2, device="meta").is_meta


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_only_half_precision_is_widened(dtype: torch.dtype, expected: torch.dtype) -> None:
    """Single and double precision stay the tensors that they are."""
    x = torch.tensor([1.5], dtype=dtype)
    assert widened(x).dtype == expected
    assert (widened(x) is x) is (dtype == expected)
