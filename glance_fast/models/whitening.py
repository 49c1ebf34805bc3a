"""Whitening of z_l − z_g by its mean and covariance at each location, over normal images.

Images of a production line show the same content at the same location, so a difference that is normal at one location
may be abnormal at another. Each location's difference is whitened by its own statistics,

    w = W (z_l − z_g − μ),      W = L⁻¹,  L Lᵀ = Σ + ε I   (Cholesky),

so that ‖w‖² is the squared Mahalanobis distance. `glance_fast.models.heads` says how the heads use w. Images that the
statistics were fitted to lie closer to their mean than new ones do, the more so the fewer they are: see `left_out`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from glance_fast.errors import ConfigError, TrainingError

# Least ε, in units of the last place of the mean square of all differences: rounding alone leaves as much.
ROUNDING = 10


class LocationWhitening(nn.Module):
    """Whitens differences [B, locations, n]; before `fit` it returns them unchanged."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, locations: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(locations, features))
        self.register_buffer("matrix", torch.eye(features).repeat(locations, 1, 1))

    def forward(self, difference: Tensor, locations: Tensor | None = None) -> Tensor:
        """w [B, m, n] of differences [B, m, n] at `locations` int64 [m], or at all of them.

        From the first k features alone it computes the first k of w: W is lower triangular.
        """
        n = difference.shape[-1]
        mean, matrix = self.mean[:, :n], self.matrix[:, :n, :n]
        if locations is not None:
            mean, matrix = mean[locations], matrix[locations]
        out: Tensor = (matrix @ (difference - mean).permute(1, 2, 0)).permute(2, 0, 1)
        return out

    def lower(self) -> Tensor:
        """W of each location, for code that reads its lower triangle only; ConfigError if the rest is not zero."""
        if self.matrix.triu(1).any():
            raise ConfigError("a location's matrix is not lower triangular, as fitted ones are; train the model again")
        return self.matrix

    @torch.no_grad()
    def fit(self, differences: Iterable[Tensor], shrinkage: float = 0, absolute: float = 0) -> None:
        """Set μ and W from batches [B, locations, n]; ε is `shrinkage` times the mean variance, plus `absolute`."""
        count, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        products = torch.zeros_like(self.matrix)
        for batch in differences:
            rows = batch.transpose(0, 1)
            count, total = count + len(batch), total + rows.sum(1, dtype=torch.float64)
            products.baddbmm_(rows.mT, rows)
        mean = (total / count).to(self.mean.dtype)
        square = products.diagonal(dim1=1, dim2=2).mean() / count
        covariance = products / count - mean[:, :, None] * mean[:, None, :]
        variance = covariance.diagonal(dim1=1, dim2=2)
        epsilon, least = shrinkage * variance.mean() + absolute, ROUNDING * torch.finfo(square.dtype).eps * square
        variance.add_(torch.maximum(epsilon, least))
        self.mean.copy_(mean)
        self.matrix.copy_(_inverse_cholesky(covariance))


def left_out(whitened: Tensor, count: int) -> Tensor:
    """w [..., n] of images among the `count` that μ and W were fitted to, as long as if each were left out of the fit.

    Without image i the matrix Σ + ε I is N/(N−1) · L (I − wwᵀ/(N−1)) Lᵀ (if ε grows with it), and its distance from the
    mean N/(N−1) times as long, so ‖w‖² becomes N/(N−1) · ‖w‖² / (1 − ‖w‖²/(N−1)). The direction is kept.
    """
    square = whitened.square().sum(-1, keepdim=True)
    remainder = (1 - square / (count - 1)).clamp(min=torch.finfo(square.dtype).eps)
    return whitened * (count / (count - 1) / remainder).sqrt()


def _inverse_cholesky(covariance: Tensor) -> Tensor:
    """L⁻¹ of each matrix, in a loop: batched, it fails in some builds of the CPU's linear algebra."""
    inverse = torch.empty_like(covariance)
    eye = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    if not covariance.isfinite().all():
        raise TrainingError(
            "differences of normal images are NaN or infinite; the training diverged: lower learning_rate"
        )
    for i, matrix in enumerate(covariance):
        inverse[i] = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix.double()), eye, upper=False)
    return inverse
