"""PatchCore and PaDiM on the teacher's own maps: small, from their papers' definitions, to stand beside ours.

Both take the maps F_1 (stride 8) and F_2 (stride 16) of the whole image, the second brought to the first's size, side
by side: [h·w, C] vectors an image.

PatchCore (Roth et al., CVPR 2022): each map averaged over 3x3 cells first. M is a memory of normal vectors; a
location's distance is to its nearest, the image's score that of its farthest location, d*, times
1 − exp(d*) / Σ exp(d_k), the sum over that location's match in M and the match's nearest in M, 9 in all. The paper
thins M by a greedy coreset; here 20,000 vectors are drawn at random, as the greedy one takes longer than all the rest
together on a CPU.

PaDiM (Defard et al., ICPR 2021): a Gaussian a location, N(μ, Σ + 0.01 I); the distance is Mahalanobis'. All channels
are kept where the paper draws some.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import gaussian_filter
from torch import Tensor

from glance_fast.config import TrainConfig
from glance_fast.data.images import resize
from glance_fast.data.resizing import letterbox_window
from glance_fast.models.whitening import LocationWhitening
from glance_fast.plan.patches import Patches
from glance_fast.postprocessing.anomaly_map import map_weights
from glance_fast.postprocessing.calibration import Calibration, calibrate
from glance_fast.postprocessing.result import Result
from glance_fast.teachers import Teacher

Photos = NDArray[np.uint8]

SIGMA = 4.0  # pixels of the Gaussian that smooths the map, in both papers
BATCH = 16


class Peer:
    """A method that learns from photographs uint8 [n, H, W, 3] and scores one image as the engine does."""

    name: str
    averaged: bool

    def __init__(self, teacher: Teacher, seed: int, resize: str = "stretch") -> None:
        self.teacher = teacher
        self.seed = seed
        self.resize = resize
        self.size = (0, 0)
        self.calibration: Calibration | None = None

    def fit(self, photos: Photos, held_out: Photos, train: TrainConfig) -> None:
        """Learn from `photos`, then set the thresholds on `held_out`."""
        self.size = (photos.shape[1], photos.shape[2])
        self.learn([self.vectors(some) for some in track(_batches(photos), f"{self.name} learns", transient=True)])
        looks = [self.look(image[None]) for image in track(held_out, f"{self.name} calibrates", transient=True)]
        grids = np.stack([grid for _, grid in looks])
        rates = (train.false_alarm_rate, train.pixel_false_alarm_rate)
        self.calibration = calibrate([score for score, _ in looks], grids, *rates)

    @torch.inference_mode()
    def vectors(self, photos: Photos) -> Tensor:
        """The maps side by side: [B, C, h, w]."""
        images = torch.tensor(photos).permute(0, 3, 1, 2).float() / 255
        x = ((images - self.teacher.mean) / self.teacher.std).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.teacher.stages:
            x = stage(x)
            maps.append(F.avg_pool2d(x, 3, 1, 1) if self.averaged else x)
        size = maps[0].shape[2:]
        return torch.cat(
            [maps[0], *(F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:])], 1
        )

    @abstractmethod
    def learn(self, batches: list[Tensor]) -> None:
        """Learn from all training vectors, batches [B, C, h, w]."""

    @abstractmethod
    def look(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        """The score and the distances [h, w] of one image, uint8 [1, H, W, 3]."""

    @property
    def threshold(self) -> float:
        assert self.calibration is not None
        return self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        assert self.calibration is not None
        return self.calibration.pixel_threshold

    def score(self, img: NDArray[np.uint8], /) -> Result[NDArray[np.float32]]:
        """Score one image [H, W, 3] of any size, with a map in its own size."""
        assert self.calibration is not None
        score, grid = self.look(resize(img, self.size, self.resize)[None])
        size = (img.shape[0], img.shape[1])
        inside = letterbox_window(size, self.size, self.resize)
        rows, cols = (
            map_weights(own, Patches(side, side // cells, side // cells), part)
            for own, side, cells, part in zip(size, self.size, grid.shape, inside, strict=True)
        )
        # The papers smooth at the networks' size; here that is the same width in the image's own pixels.
        widths = [SIGMA * own / len(part) for own, part in zip(size, inside, strict=True)]
        return Result(
            score=score,
            p_value=self.calibration.p_value(score),
            threshold=self.threshold,
            is_anomalous=score > self.threshold,
            map=gaussian_filter(rows @ grid @ cols.T, widths),
            pixel_threshold=self.pixel_threshold,
        )


class PatchCore(Peer):
    """Nearest neighbours in a memory of normal vectors."""

    name, averaged = "PatchCore", True
    MEMORY, NEIGHBOURS = 20_000, 9

    def learn(self, batches: list[Tensor]) -> None:
        rows = torch.cat([batch.permute(0, 2, 3, 1).flatten(0, 2) for batch in batches])
        chosen = np.random.default_rng(self.seed).permutation(len(rows))[: self.MEMORY]
        self.memory = rows[torch.from_numpy(chosen)]
        self.lengths = self.memory.square().sum(1)

    def _distances(self, rows: Tensor) -> Tensor:
        squared = torch.addmm(self.lengths[None], rows, self.memory.T, alpha=-2) + rows.square().sum(1, keepdim=True)
        return squared.clamp(min=0).sqrt()

    @torch.inference_mode()
    def look(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        vectors = self.vectors(photos)[0]
        nearest, match = self._distances(vectors.flatten(1).T).min(1)
        farthest = int(nearest.argmax())
        around = self._distances(self.memory[match[farthest]][None])[0].topk(self.NEIGHBOURS, largest=False).indices
        distances = (vectors.flatten(1)[:, farthest] - self.memory[around]).norm(dim=1)
        weight = 1 - torch.softmax(torch.cat([nearest[farthest, None], distances[1:]]), 0)[0]
        grid: NDArray[np.float32] = nearest.reshape(vectors.shape[1:]).numpy()
        return float(weight * nearest[farthest]), grid


class PaDiM(Peer):
    """A Gaussian a location."""

    name, averaged = "PaDiM", False

    def learn(self, batches: list[Tensor]) -> None:
        locations, channels = batches[0].shape[2] * batches[0].shape[3], batches[0].shape[1]
        self.norm = LocationWhitening(locations, channels)
        self.norm.fit([batch.flatten(2).mT for batch in batches], absolute=0.01)

    @torch.inference_mode()
    def look(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        vectors = self.vectors(photos)
        white = self.norm(vectors.flatten(2).mT)[0]
        grid: NDArray[np.float32] = white.norm(dim=1).reshape(vectors.shape[2:]).numpy()
        return float(grid.max()), grid


PEERS: tuple[type[Peer], ...] = (PatchCore, PaDiM)


def _batches(photos: Photos) -> Sequence[Photos]:
    return [photos[low : low + BATCH] for low in range(0, len(photos), BATCH)]
