"""The training loop."""

import torch
from utils import clip_gradients, update_teacher

from training.helpers import generate_random_token_masks


def compute_clustering_loss(
    args,
    student,
    teacher,
    original_images,
    student_patch_tokens,
    teacher_patch_tokens,
    random_token_masks,
    patch_prototype_loss,
    prototype_bank,
    teacher_temp,
):
    if args.clustering_mode == "visible":
        # Use visible (unmasked) patch tokens
        visible_mask = ~random_token_masks
        clustering_loss = patch_prototype_loss(
            teacher_patch_tokens, student_patch_tokens, visible_mask, prototype_bank, teacher_temp
        )

    elif args.clustering_mode == "masked":
        # Use masked patch tokens
        clustering_loss = patch_prototype_loss(
            teacher_patch_tokens, student_patch_tokens, random_token_masks, prototype_bank, teacher_temp
        )

    elif args.clustering_mode == "separate":
        # A forward pass of its own, with all tokens
        student_cluster = student(original_images, token_masks=None, mode="ibot")
        teacher_cluster = teacher(original_images, token_masks=None, mode="ibot")
        all_mask = torch.ones_like(random_token_masks, dtype=torch.bool)
        clustering_loss = patch_prototype_loss(
            teacher_cluster["patchtokens"], student_cluster["patchtokens"], all_mask, prototype_bank, teacher_temp
        )
    return clustering_loss


def train_one_epoch(
    student,
    teacher,
    dino_loss,
    ibot_patch_loss,
    koleo_loss,
    patch_prototype_loss,
    prototype_bank,
    data_loader,
    optimizer_student,
    schedules,
    start_iteration,
    args,
):
    student.train()
    teacher.eval()
    history = []
    for current_iteration, batch_data in enumerate(data_loader, start_iteration):
        for i, param_group in enumerate(optimizer_student.param_groups):
            param_group["lr"] = schedules["lr"][current_iteration]
            if i == 0:  # only the regularized group
                param_group["weight_decay"] = schedules["wd"][current_iteration]
        current_teacher_temp = schedules["teacher_temp"][current_iteration]

        batch_data = [crops.to(args.device, non_blocking=True) for crops in batch_data]
        teacher_global_crops = batch_data[:2]
        student_local_crops = batch_data[2 : 2 + args.n_local_crops]
        student_all_crops = teacher_global_crops + student_local_crops
        original_images = batch_data[-1]

        n_patches_h = n_patches_w = args.global_crops_size // args.patch_size
        random_token_masks = generate_random_token_masks(
            original_images.shape[0], n_patches_h, n_patches_w, args.token_mask_ratio, original_images.device
        )

        # DINO: the teacher sees the global crops, the student sees all of them
        with torch.no_grad():
            teacher_output = teacher(teacher_global_crops)
            teacher_first, teacher_second = teacher_output["cls_outputs"].chunk(2)
            teacher_cls = dino_loss.teacher_targets(
                torch.cat((teacher_second, teacher_first)), current_teacher_temp, args.centering
            )
        student_output = student(student_all_crops)

        # iBOT: a view and a forward pass of its own
        with torch.no_grad():
            teacher_ibot_output = teacher(original_images, token_masks=None, mode="ibot")
            teacher_patch_outputs = teacher_ibot_output["patch_outputs"]
            teacher_patch_tokens = teacher_ibot_output["patchtokens"]
        student_ibot_output = student(original_images, token_masks=random_token_masks, mode="ibot")
        student_patch_outputs = student_ibot_output["patch_outputs"]
        student_patch_tokens = student_ibot_output["patchtokens"]

        # DINO loss, over all pairs of a global target and another crop
        n_global_rows = teacher_cls.shape[0]
        student_cls_global = student_output["cls_outputs"][:n_global_rows]
        student_cls_local = student_output["cls_outputs"][n_global_rows:]
        n_terms = 2 + max(2 * args.n_local_crops, 1)
        dino_global_loss = dino_loss([student_cls_global], [teacher_cls]) * 2 / n_terms
        loss = args.dino_loss_weight * dino_global_loss
        shown = {"dino_global_crops_loss": dino_global_loss}
        if args.n_local_crops > 0:
            dino_local_loss = dino_loss(student_cls_local.chunk(args.n_local_crops), teacher_cls.chunk(2)) / n_terms
            loss = loss + args.dino_loss_weight * dino_local_loss
            shown["dino_local_crops_loss"] = dino_local_loss

        # KoLeo loss, on the CLS tokens of each global crop
        if args.koleo_loss_weight > 0:
            cls_tokens = student_output["clstoken"][:n_global_rows]
            koleo_term = args.koleo_loss_weight * sum(koleo_loss(crop) for crop in cls_tokens.chunk(2))
            loss = loss + koleo_term
            shown["koleo_loss"] = koleo_term / 2

        # iBOT loss, on the masked tokens
        teacher_patch_targets = ibot_patch_loss.teacher_targets(
            teacher_patch_outputs[random_token_masks], current_teacher_temp, args.centering
        )
        ibot_loss = ibot_patch_loss(
            student_patch_outputs[random_token_masks], teacher_patch_targets, random_token_masks
        )
        loss = loss + args.ibot_loss_weight * ibot_loss
        shown["ibot_loss"] = ibot_loss / 2

        if args.use_prototype_clustering:
            clustering_loss = compute_clustering_loss(
                args,
                student,
                teacher,
                original_images,
                student_patch_tokens,
                teacher_patch_tokens,
                random_token_masks,
                patch_prototype_loss,
                prototype_bank,
                current_teacher_temp,
            )
            loss = loss + args.clustering_weight * clustering_loss
            shown["clustering_loss"] = clustering_loss

        optimizer_student.zero_grad(set_to_none=True)
        loss.backward()
        for submodule in (student.module.backbone, student.module.classhead, student.module.patchhead):
            clip_gradients(submodule, args.clip_grad)
        optimizer_student.step()
        update_teacher(student, teacher, schedules["momentum"][current_iteration])
        history.append({name: value.detach() for name, value in shown.items()})
    return history
