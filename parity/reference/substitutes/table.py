"""The list of substitutes: what each one is, what it stands for, and why it changes no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SUBSTITUTES", "Substitute"]


@dataclass(frozen=True)
class Substitute:
    """One substitute.

    Attributes:
        name: the name under which official code reaches it.
        stands_for: what it computes or does instead.
        why: why the result is official's.
        group: `xformers`, where the real xformers is not used; `cuda`, where there is no CUDA device;
            `fsdp`, always, since parity does not wrap the modules.
    """

    name: str
    stands_for: str
    why: str
    group: Literal["xformers", "cuda", "fsdp"]

    def text(self) -> str:
        """Return the substitute in one line of a report."""
        return f"{self.name}: {self.stands_for} ({self.why})"


SUBSTITUTES: tuple[Substitute, ...] = (
    Substitute(
        "xformers.ops.memory_efficient_attention",
        "torch's scaled_dot_product_attention, one call per run of sequences of equal length",
        "the same formula; a query sees the keys of its own sequence only",
        "xformers",
    ),
    Substitute(
        "xformers.ops.fmha.BlockDiagonalMask",
        "the sequence lengths and the batch sizes, with from_seqlens, from_tensor_list and split",
        "bookkeeping without arithmetic",
        "xformers",
    ),
    Substitute(
        "xformers.ops.fmha.MemoryEfficientAttentionFlashAttentionOp",
        "a name that attention accepts and ignores",
        "it chooses a kernel, not a formula (April 2023 code passes it)",
        "xformers",
    ),
    Substitute("xformers.ops.unbind", "torch.unbind", "the same views", "xformers"),
    Substitute(
        "xformers.ops.index_select_cat",
        "torch.index_select of each source, flattened and concatenated",
        "the formula that xformers documents as equivalent",
        "xformers",
    ),
    Substitute(
        "xformers.ops.scaled_index_add",
        "torch.index_add of source * scaling, into a new tensor",
        "the formula that xformers documents; official never reads again the tensor that xformers overwrites",
        "xformers",
    ),
    Substitute("torch.Tensor.cuda", "the tensor itself", "there is no device to copy to", "cuda"),
    Substitute("torch.cuda.synchronize", "nothing", "a CPU has no streams to wait for", "cuda"),
    Substitute(
        "dinov2.train.ssl_meta_arch.get_fsdp_modules",
        "the module, with its parameters as `params`",
        "FSDP of one rank that shards nothing lists the same parameters; EMA runs official's own lines",
        "fsdp",
    ),
    Substitute(
        "dinov2.train.ssl_meta_arch.get_fsdp_wrapper",
        "a wrapper that returns the module",
        "FSDP of one rank changes where parameters are kept, not what is computed",
        "fsdp",
    ),
    Substitute(
        "clip_grad_norm_, _streams of student and teacher",
        "torch.nn.utils.clip_grad_norm_ as a method, and an attribute that is only copied",
        "on one rank FSDP's method computes the same norm over the same parameters",
        "fsdp",
    ),
    Substitute(
        "torch.distributed process group",
        "gloo (nccl on a CUDA device) with one rank and a store in memory",
        "a sum over one rank is that rank's value; official Sinkhorn demands a group",
        "fsdp",
    ),
)
