"""The two heads and the score that they make. This is the only place that has the formula; other code refers to it.

With n features of z_g, and z_l of n features, followed by m context features where the model has them:

    d = z_l − z_g                       context features are compared with zero

    the paper    s_IAD = ‖d‖² / n
                 s_DAD = 1 − C(z_l, z_g, d²)

    whitened     w = W (d − μ)          W and μ of the location: `glance_fast.models.whitening`
                 s_IAD = (√(‖w‖² / (n + m)) − o₀) / c₀
                 s_DAD = (−logit C(w₁…wₙ, z_g) − o₁) / c₁

    s = λ · s_IAD + (1 − λ) · s_DAD     then smoothed over the grid: `glance_fast.models.smoothing`

C is the classifier's probability of "normal". Where differences are whitened, √ and the logit replace the paper's
terms: they order locations the same and do not saturate. `score_offset` o and `score_scale` c bring both heads to one
scale: over normal images, each whitened without itself, the median location is 0 and the highest location of a median
image is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def iad(difference: Tensor) -> Tensor:
    """Inconsistency: `s_IAD = ‖d‖² / n` over the last axis of the difference."""
    return difference.square().mean(dim=-1)


class DistortionHead(nn.Module):
    """DAD's classifier C: inputs of a location [..., inputs] -> logit of "normal" [...]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.classify = nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        logit: Tensor = self.classify(inputs).squeeze(-1)
        return logit


def dad(logit_normal: Tensor) -> Tensor:
    """Distortion: `s_DAD = 1 − C`, C the probability of "normal"."""
    return torch.sigmoid(-logit_normal)


def weighted_score(inconsistency: Tensor, distortion: Tensor, iad_weight: float) -> Tensor:
    """`s = λ · s_IAD + (1 − λ) · s_DAD` with λ = `iad_weight`."""
    return iad_weight * inconsistency + (1 - iad_weight) * distortion
