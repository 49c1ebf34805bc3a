"""The two heads that judge the difference between z_l and z_g."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def iad(difference: Tensor) -> Tensor:
    """Inconsistency: `s_IAD = ‖z_l − z_g‖² / n` over the last axis of the difference."""
    return difference.square().mean(dim=-1)


class DistortionHead(nn.Module):
    """DAD, the classifier C: what is seen of a location, [..., inputs] -> logit of "normal" [...]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.classify = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, seen: Tensor) -> Tensor:
        logit: Tensor = self.classify(seen).squeeze(-1)
        return logit


def dad(logit_normal: Tensor) -> Tensor:
    """Distortion: `s_DAD = 1 − C`, C the probability "normal"."""
    return torch.sigmoid(-logit_normal)
