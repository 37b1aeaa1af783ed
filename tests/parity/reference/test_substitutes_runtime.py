from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from parity.errors import ReferenceSourceError
from parity.reference import Reference, open_reference
from parity.reference.substitutes import SUBSTITUTES, attach_fsdp_methods
from parity.reference.substitutes.runtime import cpu_instead_of_cuda, one_rank_group


@pytest.fixture
def reference(official_root: Path) -> Iterator[Reference]:
    """Official code, open for one test."""
    with open_reference(str(official_root)) as opened:
        yield opened


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))


def _real_fsdp(reference: Reference, module: nn.Module) -> nn.Module:
    """Wrap a module with official's own wrapper: one rank, nothing sharded, on the CPU."""
    distributed = vars(reference.module("distributed"))
    distributed.update(_LOCAL_RANK=0, _LOCAL_WORLD_SIZE=1)
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    config = OmegaConf.create({"sharding_strategy": "NO_SHARD", "mixed_precision": precision})
    wrapper: partial[nn.Module] = reference.module("fsdp").get_fsdp_wrapper(config, {nn.Linear})
    on_cpu = {**wrapper.keywords, "device_id": torch.device("cpu"), "sync_module_states": False}
    return partial(wrapper.func, **on_cpu)(module)


def _gradients(module: nn.Module) -> list[Tensor]:
    torch.manual_seed(5)
    module(torch.randn(6, 4)).square().sum().backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


def _meta_arch(module: ModuleType, student: nn.Module, teacher: nn.Module) -> Any:
    """Official's SSLMetaArch with networks of the test, made without its constructor."""
    arch = module.SSLMetaArch.__new__(module.SSLMetaArch)
    nn.Module.__init__(arch)
    arch.student, arch.teacher = nn.ModuleDict({"backbone": student}), nn.ModuleDict({"backbone": teacher})
    arch.need_to_synchronize_fsdp_streams = True
    return arch


@pytest.mark.filterwarnings("ignore:.*FSDP.*")
@pytest.mark.filterwarnings("ignore:.*NO_SHARD.*")
def test_clipping_equals_real_fsdp(reference: Reference) -> None:
    """FSDP's own clip_grad_norm_ gives the norm and the gradients of the attached one, bit for bit."""
    plain = _network(0)
    wrapped = _real_fsdp(reference, copy.deepcopy(plain))
    attach_fsdp_methods(plain)
    ours, theirs = _gradients(plain), _gradients(wrapped)
    norms: list[Tensor] = [module.clip_grad_norm_(0.5) for module in (plain, wrapped)]  # type: ignore[operator]  # added at run time
    assert float(norms[0]) > 0.5
    assert torch.equal(norms[0], norms[1])
    assert all(torch.equal(mine, expected) for mine, expected in zip(ours, theirs, strict=True))


@pytest.mark.filterwarnings("ignore:.*FSDP.*")
@pytest.mark.filterwarnings("ignore:.*NO_SHARD.*")
def test_ema_equals_real_fsdp(reference: Reference) -> None:
    """Official's update_teacher moves plain modules as it moves real FSDP modules, bit for bit."""
    module = reference.module("train.ssl_meta_arch")
    student, teacher = _network(0), _network(1)
    wrapped = [_real_fsdp(reference, copy.deepcopy(network)) for network in (student, teacher)]
    before = copy.deepcopy(list(teacher.parameters()))
    _meta_arch(module, student, teacher).update_teacher(0.9)
    vars(module)["get_fsdp_modules"] = reference.module("fsdp").get_fsdp_modules
    _meta_arch(module, wrapped[0], wrapped[1]).update_teacher(0.9)
    pairs = list(zip(teacher.parameters(), wrapped[1].parameters(), strict=True))
    assert len(pairs) == 4
    assert all(torch.equal(mine, expected) for mine, expected in pairs)
    for new, old, source in zip(teacher.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source)


def test_streams_are_copied_by_official_code(reference: Reference) -> None:
    """fsdp_synchronize_streams runs unmodified on modules that have the attached attribute."""
    module = reference.module("train.ssl_meta_arch")
    arch = _meta_arch(module, _network(0), _network(1))
    for networks in (arch.student, arch.teacher):
        networks["dino_head"] = _network(2)
        attach_fsdp_methods(*networks.values())
    marker = object()
    object.__setattr__(arch.teacher["backbone"], "_streams", marker)
    arch.fsdp_synchronize_streams()
    assert arch.need_to_synchronize_fsdp_streams is False
    assert arch.student["dino_head"]._streams is marker


def test_reshard_finds_nothing_in_plain_modules(reference: Reference) -> None:
    """Official's reshard_fsdp_model needs no substitute: it leaves a plain module alone."""
    network = _network(0)
    before = copy.deepcopy(network.state_dict())
    fsdp = reference.module("fsdp")
    fsdp.reshard_fsdp_model(network)
    assert fsdp.get_fsdp_modules(network) == []
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_attached_methods_follow_a_deep_copy() -> None:
    """The copy of a module clips its own gradients, not those of the original."""
    network = _network(0)
    attach_fsdp_methods(network)
    assert vars(network)["_streams"] is None
    twin = copy.deepcopy(network)
    before = [gradient.clone() for gradient in _gradients(network)]
    _gradients(twin)
    twin.clip_grad_norm_(0.1)  # type: ignore[operator]  # added at run time
    norm = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.1), rtol=1e-4, atol=0)
    assert all(torch.equal(p.grad, b) for p, b in zip(network.parameters(), before, strict=True) if p.grad is not None)


def test_cuda_calls_do_nothing_on_a_cpu_and_are_put_back() -> None:
    """Inside, `.cuda()` returns the tensor itself and synchronize returns; afterwards both are torch's own."""
    synchronize = torch.cuda.synchronize
    assert "cuda" not in vars(torch.Tensor)  # torch.Tensor inherits it
    x = torch.ones(2)
    with cpu_instead_of_cuda():
        assert x.cuda(non_blocking=True) is x
        torch.cuda.synchronize()
        assert torch.cuda.synchronize is not synchronize
    assert torch.cuda.synchronize is synchronize
    assert "cuda" not in vars(torch.Tensor)
    with pytest.raises(KeyError), cpu_instead_of_cuda():
        raise KeyError
    assert torch.cuda.synchronize is synchronize


def test_cuda_calls_nest() -> None:
    """A reference opened while another one is open leaves the outer stand-ins in place, and torch's own afterwards."""
    synchronize = torch.cuda.synchronize
    with cpu_instead_of_cuda():
        with cpu_instead_of_cuda():
            torch.cuda.synchronize()
        torch.cuda.synchronize()
        assert torch.ones(1).cuda().device.type == "cpu"
    assert torch.cuda.synchronize is synchronize


def test_group_has_one_rank_and_is_destroyed() -> None:
    """A sum over the group is the value itself, and no group is left, after an exception either."""
    with one_rank_group():
        x = torch.tensor([1.0, 2.0])
        dist.all_reduce(x)
        assert x.tolist() == [1.0, 2.0]
        assert dist.get_world_size() == 1
    assert not dist.is_initialized()
    with pytest.raises(KeyError), one_rank_group():
        raise KeyError
    assert not dist.is_initialized()


def test_group_of_the_user_is_used_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one rank that exists stays; one of more ranks is refused."""
    with one_rank_group():
        with one_rank_group():
            assert dist.is_initialized()
        assert dist.is_initialized()
        monkeypatch.setattr(dist, "get_world_size", lambda: 8)
        with pytest.raises(ReferenceSourceError, match="8 ranks, expected 1"), one_rank_group():
            pass
        monkeypatch.undo()


def test_group_that_cannot_be_made_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without an address of its own is told which variable to set."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Unable to resolve hostname to a (local) address")

    monkeypatch.setattr(dist, "init_process_group", fail)
    with pytest.raises(ReferenceSourceError, match=r"resolve hostname.*GLOO_SOCKET_IFNAME"), one_rank_group():
        pass


def test_grad_scaler_does_not_keep_the_group(reference: Reference) -> None:
    """The default group of the scaler is evaluated on import: parity imports it before it makes one."""
    reference.module("fsdp")
    default = inspect.signature(ShardedGradScaler.__init__).parameters["process_group"].default
    assert dist.is_initialized()
    assert default is None


def test_grad_scaler_of_official_code_is_torchs_own(reference: Reference) -> None:
    """The scaler is left alone; without a CUDA device torch disables it, and a loss passes through."""
    scaler = reference.module("fsdp").ShardedGradScaler()
    assert isinstance(scaler, ShardedGradScaler)
    loss = torch.tensor(3.0)
    assert torch.cuda.is_available() or scaler.scale(loss) is loss


def test_every_substitute_is_described() -> None:
    """Each one has a name, what it does and why that is right, in one line, under one name."""
    assert len({item.name for item in SUBSTITUTES}) == len(SUBSTITUTES) == 12
    for item in SUBSTITUTES:
        assert item.text() == f"{item.name}: {item.stands_for} ({item.why})"
        assert "\n" not in item.text()
    assert {item.group for item in SUBSTITUTES} == {"xformers", "cuda", "fsdp"}
