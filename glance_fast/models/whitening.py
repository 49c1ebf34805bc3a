"""What a location is used to: mean and covariance of z_l − z_g there, over normal images.

A production line shows the same thing in the same place, so what is odd at one location is usual at another. The
difference of the two networks is whitened by its own location's statistics,

    w = W (z_l − z_g − μ),      W = L⁻¹,  L Lᵀ = Σ + ε I   (Cholesky),

so that ‖w‖² is the squared Mahalanobis distance; IAD takes `‖w‖²/n` and DAD's classifier sees w.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from glance_fast.errors import ConfigError


class LocationNorm(nn.Module):
    """Whitens differences [B, locations, n]; until it is fitted it leaves them as they are."""

    mean: Tensor
    whiten: Tensor

    def __init__(self, locations: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(locations, features))
        self.register_buffer("whiten", torch.eye(features).repeat(locations, 1, 1))

    def forward(self, difference: Tensor, which: Tensor | None = None) -> Tensor:
        """w [B, m, n] of differences [B, m, n] at the locations `which` int64 [m], or at all of them.

        Of fewer features than it was fitted to, the first ones, it gives the first of w: W is lower triangular.
        """
        n = difference.shape[-1]
        mean, whiten = self.mean[:, :n], self.whiten[:, :n, :n]
        if which is not None:
            mean, whiten = mean[which], whiten[which]
        out: Tensor = (whiten @ (difference - mean).permute(1, 2, 0)).permute(2, 0, 1)
        return out

    def lower(self) -> Tensor:
        """W of each location, to read the lower triangle of alone; raises ConfigError where more is in it."""
        if self.whiten.triu(1).any():
            raise ConfigError("a location's matrix is not lower triangular, as fitted ones are; train the model again")
        return self.whiten

    @torch.no_grad()
    def fit(self, differences: Iterable[Tensor], shrinkage: float = 0, absolute: float = 0) -> None:
        """Take the statistics of batches [B, locations, n]; ε is `shrinkage` times the mean variance + `absolute`."""
        count, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        products = torch.zeros_like(self.whiten)
        for batch in differences:
            rows = batch.transpose(0, 1)
            count, total = count + len(batch), total + rows.sum(1, dtype=torch.float64)
            products.baddbmm_(rows.mT, rows)
        mean = (total / count).to(self.mean.dtype)
        covariance = products / count - mean[:, :, None] * mean[:, None, :]
        variance = covariance.diagonal(dim1=1, dim2=2)
        covariance.diagonal(dim1=1, dim2=2).add_(shrinkage * variance.mean() + absolute)
        self.mean.copy_(mean)
        self.whiten.copy_(_inverse_cholesky(covariance))


def _inverse_cholesky(covariance: Tensor) -> Tensor:
    """L⁻¹ of each matrix; one at a time, as batches of them fail in some builds of the CPU's linear algebra."""
    inverse = torch.empty_like(covariance)
    eye = torch.eye(covariance.shape[-1], dtype=torch.float64, device=covariance.device)
    for i, matrix in enumerate(covariance):
        inverse[i] = torch.linalg.solve_triangular(torch.linalg.cholesky(matrix.double()), eye, upper=False)
    return inverse
