"""Command line of the fork: flags, and a training of a few steps on random images."""

import argparse

import numpy as np
import torch
from data.transforms import TMEDinoTransforms
from losses.dino_loss import DINOLoss
from losses.ibot_loss import IBOTPatchLoss
from losses.koleo_loss import KoLeoLoss
from losses.prototype_loss import LinearPrototypeBank, PatchPrototypeLoss
from models.multihead import TMEDinoModel
from PIL import Image
from training.helpers import build_optimizer, build_schedules
from training.trainer import train_one_epoch
from utils import SingleProcess


def get_args_parser():
    parser = argparse.ArgumentParser("TMEDino", add_help=False)
    # Model
    parser.add_argument("--embed_dim", type=int, default=48)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--num_heads", type=int, default=3)
    parser.add_argument("--mlp_ratio", type=float, default=4.0)
    parser.add_argument("--patch_size", type=int, default=16)
    parser.add_argument("--drop_path_rate", type=float, default=0.1)
    parser.add_argument("--layerscale", type=float, default=1e-5)
    parser.add_argument("--ffn_layer", type=str, default="mlp")
    parser.add_argument("--block_chunks", type=int, default=0)
    parser.add_argument("--num_register_tokens", type=int, default=0)
    # Heads
    parser.add_argument("--out_dim", type=int, default=64)
    parser.add_argument("--hidden_dim", type=int, default=64)
    parser.add_argument("--bottleneck_dim", type=int, default=24)
    parser.add_argument("--head_nlayers", type=int, default=3)
    parser.add_argument("--patch_out_dim", type=int, default=64)
    parser.add_argument("--patch_hidden_dim", type=int, default=64)
    parser.add_argument("--patch_bottleneck_dim", type=int, default=24)
    parser.add_argument("--shared_head", action="store_true", help="patch tokens go through the classhead")
    # Views
    parser.add_argument("--global_crops_size", type=int, default=96)
    parser.add_argument("--local_crops_size", type=int, default=48)
    parser.add_argument("--global_crops_scale", type=float, nargs=2, default=(0.32, 1.0))
    parser.add_argument("--local_crops_scale", type=float, nargs=2, default=(0.05, 0.32))
    parser.add_argument("--n_local_crops", type=int, default=2)
    # iBOT and clustering
    parser.add_argument("--token_mask_ratio", type=float, default=0.3)
    parser.add_argument("--use_prototype_clustering", action="store_true")
    parser.add_argument("--clustering_mode", type=str, default="masked", choices=["visible", "masked", "separate"])
    parser.add_argument("--n_prototypes", type=int, default=32)
    parser.add_argument("--clustering_weight", type=float, default=0.5)
    # Losses
    parser.add_argument("--centering", type=str, default="sinkhorn_knopp", choices=["centering", "sinkhorn_knopp"])
    parser.add_argument("--dino_loss_weight", type=float, default=1.0)
    parser.add_argument("--ibot_loss_weight", type=float, default=1.0)
    parser.add_argument("--koleo_loss_weight", type=float, default=0.1)
    parser.add_argument("--teacher_temp", type=float, default=0.07)
    parser.add_argument("--warmup_teacher_temp", type=float, default=0.04)
    parser.add_argument("--warmup_teacher_temp_epochs", type=int, default=2)
    # Optimizer
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--min_lr", type=float, default=1e-6)
    parser.add_argument("--warmup_epochs", type=int, default=1)
    parser.add_argument("--weight_decay", type=float, default=0.04)
    parser.add_argument("--weight_decay_end", type=float, default=0.4)
    parser.add_argument("--clip_grad", type=float, default=3.0)
    parser.add_argument("--adamw_beta1", type=float, default=0.9)
    parser.add_argument("--adamw_beta2", type=float, default=0.999)
    parser.add_argument("--momentum_teacher", type=float, default=0.992)
    parser.add_argument("--final_momentum_teacher", type=float, default=1.0)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--epoch_length", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--device", type=str, default="cuda")
    return parser


def build_losses(args):
    dino_loss = DINOLoss(args.out_dim)
    ibot_patch_loss = IBOTPatchLoss(args.out_dim if args.shared_head else args.patch_out_dim)
    koleo_loss = KoLeoLoss()
    patch_prototype_loss = PatchPrototypeLoss()
    return dino_loss, ibot_patch_loss, koleo_loss, patch_prototype_loss


def random_loader(args, transform):
    """Batches of views, `[g1, g2, l1, ..., lN, g3]`, of images of noise."""
    noise = np.random.default_rng(0)
    for _ in range(args.epoch_length):
        images = [
            Image.fromarray(noise.integers(0, 256, (128, 128, 3), dtype=np.uint8)) for _ in range(args.batch_size)
        ]
        views = [transform(image) for image in images]
        yield [torch.stack(crops) for crops in zip(*views, strict=True)]


def main(args):
    student = SingleProcess(TMEDinoModel(args, drop_path_rate=args.drop_path_rate)).to(args.device)
    teacher = SingleProcess(TMEDinoModel(args, drop_path_rate=0.0)).to(args.device)
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)
    dino_loss, ibot_patch_loss, koleo_loss, patch_prototype_loss = build_losses(args)
    prototype_bank = LinearPrototypeBank(args.embed_dim, args.n_prototypes).to(args.device)
    optimizer_student = build_optimizer(student, args)
    schedules = build_schedules(args)
    transform = TMEDinoTransforms(
        args.global_crops_scale,
        args.local_crops_scale,
        args.n_local_crops,
        args.global_crops_size,
        args.local_crops_size,
    )
    for epoch in range(args.epochs):
        loader = random_loader(args, transform)
        start = epoch * args.epoch_length
        history = train_one_epoch(
            student,
            teacher,
            dino_loss.to(args.device),
            ibot_patch_loss.to(args.device),
            koleo_loss,
            patch_prototype_loss,
            prototype_bank,
            loader,
            optimizer_student,
            schedules,
            start,
            args,
        )
        print(f"epoch {epoch}:", {name: round(float(value), 4) for name, value in history[-1].items()})


if __name__ == "__main__":
    main(argparse.ArgumentParser(parents=[get_args_parser()]).parse_args())
