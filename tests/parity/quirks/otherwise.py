"""Official code in which another part of each quirk's claim does not hold than the one that `mended` changes.

Evidence for a claim of several parts must fail where any of them does; these are the second parts.
"""

from __future__ import annotations

from mended import Edit

__all__ = ["OTHERWISE"]

_ARCH, _TRAIN, _CONFIG = "train/ssl_meta_arch.py", "train/train.py", "utils/config.py"
_IBOT, _KOLEO, _COLLATE = "loss/ibot_patch_loss.py", "loss/koleo_loss.py", "data/collate.py"
_BLOCK, _VIT, _GROUPS = "layers/block.py", "models/vision_transformer.py", "utils/param_groups.py"
_STREAMS = """\
self.student.dino_head._streams = (
                self.teacher.dino_head._streams
            ) = self.student.backbone._streams = self.teacher.backbone._streams"""
_PAIRS = "[\n                        teacher_dino_softmaxed_centered_list.flatten(0, 1)\n                    ],"
_LOAD = 'load_state_dict(chkpt["model"], strict=False)'
_FITTING = """\
load_state_dict(
                {k: v for k, v in chkpt["model"].items() if v.shape == student_backbone.state_dict()[k].shape},
                strict=False,
            )"""

OTHERWISE = (
    # blurs crop 1 as often as the others
    Edit("Q1", "data/transforms.py", "keep_p = 1 - p", "keep_p = 0.5"),
    # keeps half precision, with an eps that it can hold
    Edit("Q2", _KOLEO, "def forward(self, student_output, eps=1e-8)", "def forward(self, student_output, eps=1e-4)"),
    # gathers over ranks
    Edit("Q5", _KOLEO, "# import torch.distributed as dist", "import torch.distributed as dist"),
    Edit("Q5", _KOLEO, "dots = torch.mm", "assert dist.is_available()\n        dots = torch.mm"),
    # trains the lengths, without weight decay
    Edit("Q9", _GROUPS, 'or "gamma" in name', 'or "gamma" in name or "weight_g" in name'),
    # reduces a copy, still without a guard
    Edit("Q11", _IBOT, "B = n_masked_patches_tensor\n", "B = n_masked_patches_tensor.clone()\n"),
    # takes the mean of no token as 0
    Edit("Q13", _IBOT, "teacher_patch_tokens.mean(1)", "teacher_patch_tokens.mean(1).nan_to_num()"),
    # applies iBOT's update at once
    Edit(
        "Q14",
        _IBOT,
        "self.reduce_center_update(teacher_patch_tokens)",
        "self.reduce_center_update(teacher_patch_tokens)\n        self.apply_center_update()",
    ),
    # logs KoLeo as it is optimised
    Edit("Q15", _ARCH, "koleo_loss / loss_scales", "koleo_loss / 1"),
    # pairs every view with every view
    Edit("Q18", _ARCH, "[student_global_cls_tokens_after_head],", "student_global_cls_tokens_after_head.chunk(2),"),
    Edit("Q18", _ARCH, _PAIRS, "teacher_dino_softmaxed_centered_list,"),
    # collates no local crops
    Edit(
        "Q19",
        _COLLATE,
        "collated_local_crops = torch.stack(",
        "collated_local_crops = torch.zeros(0) if n_local_crops == 0 else torch.stack(",
    ),
    # advances, still by a seed of its own
    Edit("Q21", _TRAIN, "sampler_advance=0,", "sampler_advance=start_iter * cfg.train.batch_size_per_gpu,"),
    # keeps the order of the first pass too
    Edit("Q23", "data/samplers.py", "_make_seed(self._seed, self._start, self._iter_count)", "self._seed"),
    # meets requests of one patch
    Edit("Q26", "data/masking.py", "min_num_patches=4,", "min_num_patches=1,"),
    # draws the ratio in double precision
    Edit("Q29", _COLLATE, "n_samples_masked + 1)", "n_samples_masked + 1, dtype=torch.float64)"),
    # lists ImageNet22k
    Edit("Q31", "data/datasets/image_net_22k.py", "root = self.get_root(root)", "root = root or self.root"),
    # reads the teacher's crops
    Edit(
        "Q32",
        _COLLATE,
        'n_global_crops = len(samples_list[0][0]["global_crops"])',
        'n_global_crops = len(samples_list[0][0].get("global_crops_teacher", samples_list[0][0]["global_crops"]))',
    ),
    # rescales by what was asked for
    Edit(
        "Q33",
        _BLOCK,
        "residual_scale_factor = b / sample_subset_size",
        "residual_scale_factor = 1 / (1 - sample_drop_ratio)",
    ),
    # does not drop at low rates in lists
    Edit(
        "Q34",
        _BLOCK,
        "if self.training and self.sample_drop_ratio > 0.0:\n\n",
        "if self.training and self.sample_drop_ratio > 0.1:\n\n",
    ),
    # makes as many chunks as asked for, or fewer
    Edit("Q38", _VIT, "chunksize = depth // block_chunks", "chunksize = -(-depth // block_chunks)"),
    # gives the patch embedding its factor alone
    Edit("Q39", _GROUPS, 'd["lr_multiplier"] * patch_embed_lr_mult', "patch_embed_lr_mult"),
    # ends at the end
    Edit("Q42", "utils/utils.py", "np.pi * iters / len(iters)", "np.pi * iters / max(len(iters) - 1, 1)"),
    # knows another rule
    Edit("Q43", _CONFIG, "        raise NotImplementedError\n    return cfg", "        pass\n    return cfg"),
    # leaves a teacher that is not wrapped alone
    Edit(
        "Q44",
        _ARCH,
        "torch._foreach_mul_(teacher_param_list, m)",
        "if not teacher_param_list:\n                return\n            torch._foreach_mul_(teacher_param_list, m)",
    ),
    # returns itself, still without a mode
    Edit(
        "Q45",
        _ARCH,
        "super().train()\n        self.teacher.eval()",
        "super().train()\n        self.teacher.eval()\n        return self",
    ),
    # leaves out what does not fit
    Edit("Q46", _ARCH, _LOAD, _FITTING),
    # initialises the projection as it does linears
    Edit(
        "Q47",
        _VIT,
        "    if isinstance(module, nn.Linear):\n        trunc_normal_",
        "    if isinstance(module, (nn.Linear, nn.Conv2d)):\n        trunc_normal_",
    ),
    # does not touch streams
    Edit("Q49", _ARCH, _STREAMS, "pass"),
    # takes a part of torchrun's variables for none
    Edit(
        "Q51",
        "distributed/__init__.py",
        'raise RuntimeError(f"Partially set environment: {collected_env_vars}")',
        "return self._set_from_local()",
    ),
    # reads the period
    Edit("Q52", _TRAIN, "period=3 * OFFICIAL_EPOCH_LENGTH", "period=cfg.train.saveckp_freq * OFFICIAL_EPOCH_LENGTH"),
    # counts epochs otherwise
    Edit("Q57", "configs/ssl_default_config.yaml", "OFFICIAL_EPOCH_LENGTH: 1250", "OFFICIAL_EPOCH_LENGTH: 100"),
    # evaluates
    Edit("Q58", _TRAIN, "if args.eval_only:", "if args.eval_only or args.eval:"),
)
