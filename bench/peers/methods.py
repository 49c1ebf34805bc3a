"""PatchCore and PaDiM by their papers' definitions on the teacher's feature maps, fitted and judged as ours are.

`bench.peers.networks` has the published networks, for timing. Both methods take the maps F_1 (stride 8) and F_2 (stride
16) of the whole image, the second resized to the first and concatenated to it: [h·w, C] vectors per image.

PatchCore (Roth et al., CVPR 2022): each map is first averaged over 3x3 cells. M is a memory of normal vectors; the
distance of a location is that to its nearest vector in M. The image's score is the largest distance d*, times
1 − exp(d*) / Σ exp(d_k), the sum over that location's match in M and the match's nearest in M, 9 in all. The paper
reduces M to a greedy coreset; here 20,000 vectors are drawn at random, as the greedy one takes longer than everything
else together on a CPU.

PaDiM (Defard et al., ICPR 2021): one Gaussian N(μ, Σ + 0.01 I) per location, and the Mahalanobis distance. All channels
are used; the paper selects some at random.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bench.peers.features import average_3x3, concatenate_maps
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
PEER_BATCH = 16  # photographs


class Peer:
    """A method that is fitted to photographs uint8 [n, H, W, 3] and scores one image as the engine does."""

    name: str
    averaged: bool

    def __init__(self, teacher: Teacher, seed: int, resize: str = "stretch") -> None:
        self.teacher = teacher
        self.seed = seed
        self.resize = resize
        self.size = (0, 0)
        self.calibration: Calibration | None = None

    def fit(self, photos: Photos, held_out: Photos, train: TrainConfig) -> None:
        """Fit to `photos`, then set the thresholds on `held_out`."""
        self.size = (photos.shape[1], photos.shape[2])
        batches = track(_batches(photos), f"{self.name}: fitting", transient=True)
        self.fit_vectors([self.vectors(batch) for batch in batches])
        scored = [self.distances(image[None]) for image in track(held_out, f"{self.name}: thresholds", transient=True)]
        grids = np.stack([grid for _, grid in scored])
        rates = (train.false_alarm_rate, train.pixel_false_alarm_rate)
        self.calibration = calibrate([score for score, _ in scored], grids, *rates)

    @torch.inference_mode()
    def vectors(self, photos: Photos) -> Tensor:
        """The concatenated maps: [B, C, h, w]."""
        images = torch.tensor(photos).permute(0, 3, 1, 2).float() / 255
        x = ((images - self.teacher.mean) / self.teacher.std).contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.teacher.stages:
            x = stage(x)
            maps.append(average_3x3(x) if self.averaged else x)
        return concatenate_maps(maps)

    @abstractmethod
    def fit_vectors(self, batches: list[Tensor]) -> None:
        """Fit to the vectors of all training images, batches [B, C, h, w]."""

    @abstractmethod
    def distances(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        """The score and the locations' distances [h, w] of one image, uint8 [1, H, W, 3]."""

    @property
    def threshold(self) -> float:
        assert self.calibration is not None
        return self.calibration.threshold

    @property
    def pixel_threshold(self) -> float:
        assert self.calibration is not None
        return self.calibration.pixel_threshold

    def score(self, img: NDArray[np.uint8], /) -> Result[NDArray[np.float32]]:
        """Score one image uint8 [H, W, 3] of any size; the map has the image's size."""
        assert self.calibration is not None
        score, grid = self.distances(resize(img, self.size, self.resize)[None])
        size = (img.shape[0], img.shape[1])
        inside = letterbox_window(size, self.size, self.resize)
        rows, cols = (
            map_weights(image_side, Patches(side, side // cells, side // cells), part)
            for image_side, side, cells, part in zip(size, self.size, grid.shape, inside, strict=True)
        )
        # The papers smooth at the networks' size; this is the same width in pixels of the image.
        widths = [SIGMA * image_side / len(part) for image_side, part in zip(size, inside, strict=True)]
        return Result(
            score=score,
            p_value=self.calibration.p_value(score),
            threshold=self.threshold,
            is_anomalous=score > self.threshold,
            map=gaussian_filter(rows @ grid @ cols.T, widths),
            pixel_threshold=self.pixel_threshold,
        )


class PatchCore(Peer):
    """Distances to nearest neighbours in a memory of normal vectors."""

    name, averaged = "PatchCore", True
    MEMORY, NEIGHBOURS = 20_000, 9

    def fit_vectors(self, batches: list[Tensor]) -> None:
        rows = torch.cat([batch.permute(0, 2, 3, 1).flatten(0, 2) for batch in batches])
        selected = np.random.default_rng(self.seed).permutation(len(rows))[: self.MEMORY]
        self.memory = rows[torch.from_numpy(selected)]
        self.lengths = self.memory.square().sum(1)

    def _to_memory(self, rows: Tensor) -> Tensor:
        squared = torch.addmm(self.lengths[None], rows, self.memory.T, alpha=-2) + rows.square().sum(1, keepdim=True)
        return squared.clamp(min=0).sqrt()

    @torch.inference_mode()
    def distances(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        vectors = self.vectors(photos)[0]
        nearest, match = self._to_memory(vectors.flatten(1).T).min(1)
        farthest = int(nearest.argmax())
        around = self._to_memory(self.memory[match[farthest]][None])[0].topk(self.NEIGHBOURS, largest=False).indices
        distances = (vectors.flatten(1)[:, farthest] - self.memory[around]).norm(dim=1)
        weight = 1 - torch.softmax(torch.cat([nearest[farthest, None], distances[1:]]), 0)[0]
        grid: NDArray[np.float32] = nearest.reshape(vectors.shape[1:]).numpy()
        return float(weight * nearest[farthest]), grid


class PaDiM(Peer):
    """One Gaussian per location."""

    name, averaged = "PaDiM", False

    def fit_vectors(self, batches: list[Tensor]) -> None:
        locations, channels = batches[0].shape[2] * batches[0].shape[3], batches[0].shape[1]
        self.norm = LocationWhitening(locations, channels)
        self.norm.fit([batch.flatten(2).mT for batch in batches], absolute=0.01)

    @torch.inference_mode()
    def distances(self, photos: Photos) -> tuple[float, NDArray[np.float32]]:
        vectors = self.vectors(photos)
        white = self.norm(vectors.flatten(2).mT)[0]
        grid: NDArray[np.float32] = white.norm(dim=1).reshape(vectors.shape[2:]).numpy()
        return float(grid.max()), grid


PEERS: tuple[type[Peer], ...] = (PatchCore, PaDiM)


def _batches(photos: Photos) -> Sequence[Photos]:
    return [photos[low : low + PEER_BATCH] for low in range(0, len(photos), PEER_BATCH)]
