"""The two heads that judge the difference between z_l and z_g, and the score they give together."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def iad(z_local: Tensor, z_global: Tensor) -> Tensor:
    """Inconsistency: `s_IAD = ‖z_l − z_g‖² / n` over the last axis."""
    return (z_local - z_global).square().mean(dim=-1)


class DistortionHead(nn.Module):
    """DAD, the classifier C: z_l, z_g [..., n] -> logit of "normal" [...].

    The squared difference is given beside z_l and z_g, so that the head starts from what IAD sees.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.classify = nn.Sequential(
            nn.Linear(3 * features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, z_local: Tensor, z_global: Tensor) -> Tensor:
        seen = torch.cat([z_local, z_global, (z_local - z_global).square()], dim=-1)
        logit: Tensor = self.classify(seen).squeeze(-1)
        return logit


def dad(logit_normal: Tensor) -> Tensor:
    """Distortion: `s_DAD = 1 − C`, C the probability "normal"."""
    return torch.sigmoid(-logit_normal)
