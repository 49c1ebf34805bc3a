"""Whitening of z_l − z_g by its mean and covariance at each location, over normal images.

Images of a production line show the same content at the same location, so a difference that is normal at one location
may be abnormal at another. Each location's difference is whitened by its own statistics, and by those of all locations
as far as its own are too few, or too alike, to be told apart:

    w = W (z_l − z_g − μ),      W = L⁻¹,  L Lᵀ = (1 − a) Σ + a Σ̄ + ε I   (Cholesky),

μ and Σ of the location, Σ̄ the mean of Σ over all locations. ‖w‖² is the squared Mahalanobis distance, and
`glance_fast.models.heads` says how the heads use w. Images that the statistics were fitted to lie closer to their mean
than new ones do, the more so the fewer they are: see `left_out`.

The fraction a is chosen by normal images alone (`highest_over_median`): where products are aligned a small one fits
best, where they lie in any direction or are few a large one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from glance_fast.errors import ConfigError, TrainingError

# Least ε, in units of the last place of the mean square of all differences: rounding alone leaves as much.
ROUNDING = 10
# The fractions a that `fit` chooses from. Not 1: the location's mean alone would say what is normal there.
POOLED_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
# The smallest fraction that is this near to the best is chosen: a location's own covariance is given up for a gain.
NEAR_BEST = 1.01
# Images that a is chosen by. Their differences take less memory than the matrices, which have as many rows and more.
JUDGED_IMAGES = 64


class LocationWhitening(nn.Module):
    """Whitens differences [B, locations, n]; before `fit` it returns them unchanged.

    `pooled_fraction` is the a of the fit, and `count` the number of images that it was made of.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, locations: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(locations, features))
        self.register_buffer("matrix", torch.eye(features).repeat(locations, 1, 1))
        self.pooled_fraction, self.count = 0.0, 0

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

    def left_out(self, whitened: Tensor) -> Tensor:
        """w [..., n] of images that μ and W were fitted to, as long as if each were left out of the fit."""
        return left_out(whitened, self.count, 1 - self.pooled_fraction)

    def lower(self) -> Tensor:
        """W of each location, for code that reads its lower triangle only; ConfigError if the rest is not zero."""
        if self.matrix.triu(1).any():
            raise ConfigError("a location's matrix is not lower triangular, as fitted ones are; train the model again")
        return self.matrix

    @torch.no_grad()
    def fit(
        self, differences: Iterable[Tensor], shrinkage: float = 0, absolute: float = 0, pooled: float | None = 0
    ) -> None:
        """Set μ and W from batches [B, locations, n].

        ε is `shrinkage` times the mean variance, plus `absolute`. `pooled` is the fraction a; None: the smallest of
        `POOLED_FRACTIONS` whose `highest_over_median` is near the lowest. Raises TrainingError for differences that are
        not finite.
        """
        count, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        products = torch.zeros_like(self.matrix)
        judged = []
        for batch in differences:
            if pooled is None and count < JUDGED_IMAGES:
                judged.append(batch[: JUDGED_IMAGES - count])
            rows = batch.transpose(0, 1)
            count, total = count + len(batch), total + rows.sum(1, dtype=torch.float64)
            products.baddbmm_(rows.mT, rows)
        self.count = count
        self.mean.copy_((total / count).to(self.mean.dtype))
        square = products.diagonal(dim1=1, dim2=2).mean() / count
        covariance = products.div_(count).sub_(self.mean[:, :, None] * self.mean[:, None, :])
        variance = covariance.diagonal(dim1=1, dim2=2)
        least = ROUNDING * torch.finfo(square.dtype).eps * square
        epsilon = torch.maximum(shrinkage * variance.mean() + absolute, least)
        if pooled is None:
            pooled = self._best_fraction(covariance, epsilon, torch.cat(judged))
        self._set(covariance, epsilon, pooled)

    def _set(self, covariance: Tensor, epsilon: Tensor, pooled: float) -> None:
        mixed = (1 - pooled) * covariance + pooled * covariance.mean(0)
        mixed.diagonal(dim1=1, dim2=2).add_(epsilon)
        self.matrix.copy_(_inverse_cholesky(mixed))
        self.pooled_fraction = pooled

    def _best_fraction(self, covariance: Tensor, epsilon: Tensor, judged: Tensor) -> float:
        """The smallest fraction whose `highest_over_median` of normal images is near the lowest."""
        if self.count < 2:
            return 0.0  # an image that is left out leaves none
        heights = []
        for fraction in POOLED_FRACTIONS:
            self._set(covariance, epsilon, fraction)
            heights.append(highest_over_median(self.left_out(self(judged))))
        best = NEAR_BEST * min(heights)
        return next(a for a, height in zip(POOLED_FRACTIONS, heights, strict=True) if height <= best)


def highest_over_median(whitened: Tensor) -> float:
    """How far the highest ‖w‖ of a median image is above the median ‖w‖ of all locations, for w [B, locations, n].

    A defect must be higher to be seen, so the lower the better, whatever the defect.
    """
    lengths = whitened.square().sum(-1).sqrt()
    return float(lengths.amax(1).median() / lengths.median().clamp(min=torch.finfo(lengths.dtype).tiny))


def left_out(whitened: Tensor, count: int, own: float = 1.0) -> Tensor:
    """w [..., n] of images among the `count` that μ and W were fitted to, as long as if each were left out of the fit.

    `own` is the weight 1 − a of the location's own covariance. Without image i the matrix is
    N/(N−1) · L (I − (1−a) wwᵀ/(N−1)) Lᵀ (if a Σ̄ + ε I grows with it), and its distance from the mean N/(N−1) times as
    long, so ‖w‖² becomes N/(N−1) · ‖w‖² / (1 − (1−a) ‖w‖²/(N−1)). The direction is kept.
    """
    square = whitened.square().sum(-1, keepdim=True)
    remainder = (1 - own * square / (count - 1)).clamp(min=torch.finfo(square.dtype).eps)
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
