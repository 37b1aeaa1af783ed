"""Clustering of patch tokens over a bank of prototypes."""

import torch
import torch.nn.functional as F
from torch import nn

from port.losses.sinkhorn import sinkhorn_knopp


class LinearPrototypeBank(nn.Module):
    def __init__(self, embed_dim, n_prototypes):
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(n_prototypes, embed_dim), dim=-1))

    def forward(self, features):
        return F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).t()


class PatchPrototypeLoss(nn.Module):
    def __init__(self, student_temp=0.1):
        super().__init__()
        self.student_temp = student_temp

    def forward(self, teacher_features, student_features, token_masks, prototype_bank, teacher_temp):
        """
        Args:
            teacher_features: [B, N, D] teacher patch tokens
            student_features: [B, N, D] student patch tokens
            token_masks: [B, N] boolean, True = tokens that are clustered
            prototype_bank: LinearPrototypeBank module
            teacher_temp: current temperature
        """
        B, N, D = student_features.shape
        with torch.no_grad():
            teacher_scores = prototype_bank(teacher_features.reshape(B * N, D))
            Q_tilde = sinkhorn_knopp(teacher_scores, teacher_temp, n_samples=B * N).view(B, N, -1)
        Q_tilde_masked = Q_tilde[token_masks]
        student_norm_masked = student_features[token_masks]
        student_log_probs_masked = F.log_softmax(prototype_bank(student_norm_masked) / self.student_temp, dim=-1)
        M_total = student_norm_masked.shape[0]
        clustering_loss = -torch.sum(Q_tilde_masked * student_log_probs_masked) / M_total
        return clustering_loss
