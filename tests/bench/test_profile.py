from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch._C._autograd import DeviceType

from bench.profile import KINDS, OPTIMIZER, TEACHER, Profile, _by_kind, kind_of, main, markdown, profile_step
from bench.settings import Settings

TINY = Settings(
    arch="vit_parity4", batch=2, prototypes=16, local_crops=2, global_size=64, local_size=32, reference="pypi"
)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "matrix products",
            "mm addmm bmm baddbmm _scaled_mm mkldnn_convolution convolution_backward linear matmul dot",
        ),
        ("attention", "_scaled_dot_product_flash_attention_for_cpu_backward _efficient_attention_forward"),
        ("elementwise, sums", "add add_ mul sub rsub gelu gelu_backward sum mean sqrt lerp_ addcmul_ clamp_min where"),
        ("copies, cat, index", "copy_ cat index index_select index_add_ _index_put_impl_ fill_ empty_strided _to_copy"),
        ("normalisation", "native_layer_norm native_layer_norm_backward _weight_norm_interface linalg_vector_norm"),
        ("softmax, exp", "_softmax _log_softmax _log_softmax_backward_data exp exp_ log logsumexp"),
        (OPTIMIZER, "_fused_adamw_ _foreach_lerp_ _foreach_norm"),
        ("other", "view transpose as_strided expand split_with_sizes logspace"),
    ],
)
def test_operations_of_a_step_by_kind(kind: str, names: str) -> None:
    """Those that steps of `port` and of official consist of; `expand` is no exponential."""
    assert {name: kind_of([f"aten::{name}"]) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_what_the_update_calls_belongs_to_it() -> None:
    """Official's AdamW and moving average are elementwise operations like any other, but for their callers."""
    assert kind_of(["aten::mul_"]) == "elementwise, sums"
    assert kind_of(["aten::mul_", "Optimizer.step#AdamW.step"]) == OPTIMIZER
    assert kind_of(["aten::add_", "aten::outer", TEACHER]) == OPTIMIZER
    assert kind_of(["autograd::engine::evaluate_function: MulBackward0"]) == "other"


def test_seconds_are_added_by_kind() -> None:
    """Microseconds of an operation itself, and of the kernels it launched; kernels' own entries are not added again."""
    step = event("Optimizer.step#AdamW.step", 1e6)
    events = [step, event("aten::mul_", 2e6, caller=step), event("aten::mm", 3e6, device=4e6), event("aten::mm", 5e5)]
    kernel = event("aten::mm", 9e6, device=9e6, kind=DeviceType.CUDA)
    cpu, cuda = _by_kind([*events, kernel])
    assert cpu == {OPTIMIZER: 3.0, "matrix products": 3.5}
    assert +cuda == {"matrix products": 4.0}


def event(
    name: str, cpu: float, device: float = 0.0, caller: object = None, kind: DeviceType = DeviceType.CPU
) -> SimpleNamespace:
    """Return an event of the profiler, as far as it is read."""
    return SimpleNamespace(
        name=name, self_cpu_time_total=cpu, self_device_time_total=device, cpu_parent=caller, device_type=kind
    )


def test_the_table_by_hand() -> None:
    """100 GFLOPs in 2 s of a 4 s step, on a machine that does 100 a second: 50 GFLOP/s; half a second is Python's."""
    made = Profile(3.9, 4.0, 100e9, {"other": 0.5, "matrix products": 2.0, OPTIMIZER: 1.0}, {}, {KINDS[0]: 10**11})
    assert markdown(made).splitlines() == [
        "| kind | seconds | share of step | GFLOPs | GFLOP/s | of ceiling |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| matrix products | 2 | 50.0% | 100 | 50 | 50% |",
        "| optimizer, moving average, clipping | 1 | 25.0% | - | - | - |",
        "| other | 0.5 | 12.5% | - | - | - |",
        "| between operations | 0.5 | 12.5% | - | - | - |",
        "| whole step | 4 | 100.0% | 100 | 25 | 25% |",
        "| a large matrix product | - | - | - | 100 | 100% |",
    ]


def test_the_table_of_a_gpu_by_hand() -> None:
    """Shares and rates are the GPU's; the seconds in which the CPU launched kernels stand beside them."""
    made = Profile(2.0, 2.0, 200e9, {"matrix products": 0.5}, {"matrix products": 1.0}, {"matrix products": 10**11})
    lines = markdown(made).splitlines()
    assert lines[0].startswith("| kind | CPU seconds | CUDA seconds | share of step |")
    assert lines[2:4] == [
        "| matrix products | 0.5 | 1 | 50.0% | 100 | 100 | 50% |",
        "| between operations | 1.5 | 1 | 50.0% | - | - | - |",
    ]


@pytest.mark.parametrize("arm", ["unified", "official", "three-view"])
def test_a_step_is_taken_apart(arm: str) -> None:
    """Products and attention have FLOPs; every kind has its time; all are within the step."""
    found = profile_step(TINY, arm)
    assert set(found.flops) == {"matrix products", "attention"}
    assert set(found.cpu) == set(KINDS)
    assert 0 < sum(found.cpu.values()) < 1.1 * found.step
    assert found.cuda == {}


def test_the_command_prints_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Under a line with the arm and the sizes."""
    sizes = [
        "--bench-arch",
        "vit_parity4",
        "--bench-batch",
        "2",
        "--bench-prototypes",
        "16",
        "--bench-local-crops",
        "2",
    ]
    assert main(["--arm", "separate", "--bench-device", "cpu", *sizes]) == 0
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("separate, whole step: ")
    assert "vit_parity4, 2 images, 2 local crops, 16 prototypes; fp32, kernels fast" in first
    assert any(row.startswith("| matrix products | ") for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "packed"], "error: arm packed: variable-length attention needs CUDA"),
        (["--bench-batch", "1"], "error: --bench-batch is 1, expected at least 2"),
    ],
)
def test_what_is_not_possible_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, nothing in the output."""
    assert main(["--bench-device", "cpu", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
