"""The network that is trained twice, as student and as teacher: a backbone and two heads."""

import torch
from torch import nn

from models.vision_transformer import build_vit
from port.models import DINOHead


class SharedHead(nn.Module):
    """Passes patches through the classhead; owns no parameters."""

    def __init__(self, head):
        super().__init__()
        self._owned_elsewhere = [head]

    def forward(self, x):
        return self._owned_elsewhere[0](x)


def group_by_size(crops, token_masks):
    """Join neighbouring crops of one size, and their masks, into batches."""
    token_masks = token_masks or [None] * len(crops)
    grouped, masks = [], []
    for crop, mask in zip(crops, token_masks, strict=True):
        if grouped and grouped[-1][-1].shape[-1] == crop.shape[-1]:
            grouped[-1].append(crop)
            masks[-1].append(mask)
        else:
            grouped.append([crop])
            masks.append([mask])
    joined = [None if any(m is None for m in group) else torch.cat(group) for group in masks]
    return [torch.cat(group) for group in grouped], joined


class TMEDinoModel(nn.Module):
    def __init__(self, args, drop_path_rate=0.0):
        super().__init__()
        self.backbone = build_vit(args, drop_path_rate)
        self.classhead = DINOHead(
            args.embed_dim,
            args.out_dim,
            nlayers=args.head_nlayers,
            hidden_dim=args.hidden_dim,
            bottleneck_dim=args.bottleneck_dim,
        )
        if args.shared_head:
            self.patchhead = SharedHead(self.classhead)
        else:
            self.patchhead = DINOHead(
                args.embed_dim,
                args.patch_out_dim,
                nlayers=args.head_nlayers,
                hidden_dim=args.patch_hidden_dim,
                bottleneck_dim=args.patch_bottleneck_dim,
            )

    def forward(self, x, token_masks=None, mode="dino"):
        if mode == "ibot":
            features = self.backbone(x, masks=token_masks, is_training=True)
            patch_tokens = features["x_norm_patchtokens"]
            return {"patchtokens": patch_tokens, "patch_outputs": self.patchhead(patch_tokens)}
        crops, masks = group_by_size(x, token_masks)
        features = self.backbone(crops, masks=masks, is_training=True)
        cls_tokens = torch.cat([group["x_norm_clstoken"] for group in features])
        return {
            "clstoken": cls_tokens,
            "cls_outputs": self.classhead(cls_tokens),
            "patchtokens": features[0]["x_norm_patchtokens"],
        }
