"""Official code without its quirks: for each, the lines that a commit which mends it would change."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MENDED", "Edit"]


class Edit(NamedTuple):
    """A text of April 2023's official code, and what takes its place; every occurrence is replaced.

    Attributes:
        quirk: the id of what is mended.
        path: below `dinov2/`.
        before: official's text, after the edits above.
        after: without the quirk.
    """

    quirk: str
    path: str
    before: str
    after: str


_ARCH, _TRAIN = "train/ssl_meta_arch.py", "train/train.py"
_DINO, _IBOT, _KOLEO = "loss/dino_clstoken_loss.py", "loss/ibot_patch_loss.py", "loss/koleo_loss.py"
_MASKS, _COLLATE, _SAMPLERS = "data/masking.py", "data/collate.py", "data/samplers.py"
_BLOCK, _VIT, _GROUPS = "layers/block.py", "models/vision_transformer.py", "utils/param_groups.py"
_EXPONENTIAL = "torch.exp(teacher_output / teacher_temp)"
_STABLE = "torch.exp((teacher_output - teacher_output.max()) / teacher_temp)"
_LENGTHS = "self.last_layer.weight_g.data.fill_(1)"
_FROZEN = f"{_LENGTHS}\n        self.last_layer.weight_g.requires_grad = False"
_SEPARATE = "for v in model.student.values():\n                    v.clip_grad_norm_(cfg.optim.clip_grad)"
_TOGETHER = "torch.nn.utils.clip_grad_norm_(model.student.parameters(), cfg.optim.clip_grad)"
_FORWARD = "loss_dict = model.forward_backward(data, teacher_temp=teacher_temp)"
_EARLY_CHECK = (
    f"{_FORWARD}\n        if any(math.isnan(v.item()) for v in loss_dict.values()):\n            raise AssertionError"
)
_LOAD = "def load(self, *args, **kwargs):"
_LOAD_ALL = (
    f'def _load_file(self, f):\n        return torch.load(f, map_location="cpu", weights_only=False)\n\n    {_LOAD}'
)

MENDED = (
    Edit("Q1", "data/transforms.py", "keep_p = 1 - p", "keep_p = p"),
    Edit("Q2", _KOLEO, "F.normalize(student_output, eps", "F.normalize(student_output.float(), eps"),
    Edit(
        "Q3",
        _TRAIN,
        "0.5 * img_size // patch_size * img_size // patch_size",
        "0.5 * (img_size // patch_size) ** 2",
    ),
    Edit("Q4", _KOLEO, ".fill_(-1)", ".fill_(-2)"),
    Edit("Q5", _ARCH, "for p in student_cls_tokens.chunk(2)", "for p in student_cls_tokens.chunk(1)"),
    Edit("Q6", _IBOT, "F.log_softmax(s / temp", "F.log_softmax(s.float() / temp"),
    Edit("Q7", _DINO, "F.log_softmax(s / self.student_temp", "F.log_softmax(s.float() / self.student_temp"),
    Edit("Q8", _DINO, _EXPONENTIAL, _STABLE),
    Edit("Q8", _IBOT, _EXPONENTIAL, _STABLE),
    Edit("Q9", "layers/dino_head.py", _LENGTHS, _FROZEN),
    Edit(
        "Q10",
        "layers/dino_head.py",
        _LENGTHS,
        f"trunc_normal_(self.last_layer.weight_v.data, std=0.02)\n        {_LENGTHS}",
    ),
    Edit(
        "Q11",
        _IBOT,
        "B = n_masked_patches_tensor\n        dist.all_reduce(B)",
        "B = n_masked_patches_tensor.clone()\n        if dist.is_initialized():\n            dist.all_reduce(B)",
    ),
    Edit(
        "Q12",
        _IBOT,
        "self.len_teacher_patch_tokens = len(teacher_patch_tokens)",
        "self.len_teacher_patch_tokens = torch.tensor([float(teacher_patch_tokens.shape[1])])\n"
        "        dist.all_reduce(self.len_teacher_patch_tokens)",
    ),
    Edit("Q12", _IBOT, "torch.sum(teacher_patch_tokens.mean(1), dim=0", "torch.sum(teacher_patch_tokens.sum(1), dim=0"),
    Edit(
        "Q13",
        _IBOT,
        "(self.len_teacher_patch_tokens * world_size)",
        "self.len_teacher_patch_tokens.clamp(min=1)",
    ),
    Edit(
        "Q14",
        _DINO,
        "self.reduce_center_update(teacher_output)",
        "self.reduce_center_update(teacher_output)\n        self.apply_center_update()",
    ),
    Edit("Q15", _ARCH, 'loss_dict["ibot_loss"] = ibot_patch_loss / 2', 'loss_dict["ibot_loss"] = ibot_patch_loss'),
    Edit("Q16", _IBOT, "-loss.sum() / student_masks_flat.shape[0]", "-loss.sum() / student_masks_flat.any(-1).sum()"),
    Edit("Q17", _ARCH, "masks=[masks, None]", "masks=[None, None]"),
    Edit(
        "Q18", _ARCH, "(teacher_cls_tokens[1], teacher_cls_tokens[0])", "(teacher_cls_tokens[0], teacher_cls_tokens[1])"
    ),
    Edit("Q19", _ARCH, "max(n_local_crops * n_global_crops, 1)", "n_local_crops * n_global_crops"),
    Edit("Q20", _ARCH, "if self.do_dino or self.do_ibot:", "if self.do_dino:"),
    Edit("Q21", _TRAIN, "seed=start_iter,", "seed=cfg.train.seed + start_iter,"),
    Edit(
        "Q22",
        _SAMPLERS,
        "self._advance // self._sample_count",
        "self._advance // (self._sample_count // self._step)",
    ),
    Edit(
        "Q22",
        _SAMPLERS,
        "iter_count * self._sample_count",
        "iter_count * (self._sample_count // self._step)",
    ),
    Edit(
        "Q23",
        _SAMPLERS,
        "# Re-seed on each iteration to allow skipping whole permutations",
        "perm = torch.randperm(self._sample_count, generator=torch.Generator().manual_seed(self._iter_count))",
    ),
    Edit("Q24", _SAMPLERS, "count = stop // step", "count = len(tensor[start::step])"),
    Edit("Q25", _TRAIN, "SamplerType.SHARDED_INFINITE", "SamplerType.SHARDED_INFINITE_NEW"),
    Edit(
        "Q26",
        _MASKS,
        "if delta == 0:\n                break\n            else:\n                mask_count += delta",
        "if delta == 0:\n                mask.flat[mask.argmin()] = delta = True\n            mask_count += delta",
    ),
    Edit("Q27", _MASKS, "if w < self.width and h < self.height:", "if w <= self.width and h <= self.height:"),
    Edit("Q28", _COLLATE, "upperbound += int(N * prob_max)", "upperbound += int(masks_list[-1].sum())"),
    Edit("Q29", _COLLATE, "random.uniform(prob_min, prob_max)", "random.uniform(float(prob_min), float(prob_max))"),
    Edit("Q30", _TRAIN, "inputs_dtype = torch.half", "inputs_dtype = torch.float32"),
    Edit("Q31", "data/datasets/image_net.py", "assert len(self._entries) == self.split.length", "pass"),
    Edit("Q32", "data/augmentations.py", 'output["global_crops_teacher"] = [', 'output["views"] = ['),
    Edit("Q33", _BLOCK, "max(int(b * (1 - sample_drop_ratio)), 1)", "max(round(b * (1 - sample_drop_ratio)), 1)"),
    Edit("Q34", _BLOCK, "self.drop_path1(ffn_residual_func(x))", "self.drop_path2(ffn_residual_func(x))"),
    Edit("Q35", _BLOCK, "self.ls2.gamma if isinstance(self.ls1", "self.ls2.gamma if isinstance(self.ls2"),
    Edit("Q36", _BLOCK, "(torch.randperm(b, device=x.device))", "torch.rand(b).argsort()"),
    Edit("Q37", _GROUPS, 'elif ".blocks." in name', 'elif not chunked_blocks and ".blocks." in name'),
    Edit("Q38", _VIT, "block_chunks=1,", "block_chunks=0,"),
    Edit("Q39", _GROUPS, 'or "gamma" in name', 'or "gamma" in name or "token" in name or "pos_embed" in name'),
    Edit("Q40", _TRAIN, _SEPARATE, _TOGETHER),
    Edit("Q41", _TRAIN, "] = 0  # mimicking", "] += 0  # mimicking"),
    Edit("Q42", "utils/utils.py", "base_value, warmup_iters)", "base_value, warmup_iters, endpoint=False)"),
    Edit("Q43", "utils/config.py", "cfg.optim.lr = base_lr", "cfg.optim.lr = base_lr\n        cfg.optim.min_lr *= 0.5"),
    Edit(
        "Q44",
        _ARCH,
        "self.teacher = nn.ModuleDict(teacher_model_dict)",
        "self.teacher = nn.ModuleDict(teacher_model_dict)\n"
        "        self.teacher.load_state_dict(self.student.state_dict())",
    ),
    Edit(
        "Q45",
        _ARCH,
        "def train(self):\n        super().train()\n        self.teacher.eval()",
        "def train(self, mode=True):\n        super().train(mode)\n        self.teacher.eval()\n        return self",
    ),
    Edit("Q46", _ARCH, 'chkpt["model"]', 'chkpt.get("model", chkpt)'),
    Edit("Q47", _VIT, "self.mask_token = nn.Parameter(torch.zeros", "self.mask_token = nn.Parameter(torch.ones"),
    Edit("Q48", _ARCH, "assert XFORMERS_AVAILABLE", "assert True"),
    Edit("Q49", "fsdp/__init__.py", "handles = x._handles", "handles = [x._handle]"),
    Edit(
        "Q51",
        "distributed/__init__.py",
        "if _is_slurm_job_process():",
        'if _is_slurm_job_process() and "RANK" not in os.environ:',
    ),
    Edit("Q52", _TRAIN, "max_to_keep=3", "max_to_keep=5"),
    Edit("Q53", "fsdp/__init__.py", _LOAD, _LOAD_ALL),
    Edit("Q55", _TRAIN, _FORWARD, _EARLY_CHECK),
    Edit(
        "Q56",
        "logging/helpers.py",
        "total_time / n_iterations",
        "total_time / max(n_iterations - start_iteration, 1)",
    ),
    Edit(
        "Q57",
        "logging/helpers.py",
        "for obj in iterable:",
        "for obj in iterable:\n            if i >= n_iterations:\n                break",
    ),
    Edit(
        "Q58",
        "utils/config.py",
        "default_cfg = OmegaConf.create(dinov2_default_config)",
        "default_cfg = OmegaConf.create(dinov2_default_config)\n    OmegaConf.set_struct(default_cfg, True)",
    ),
)
