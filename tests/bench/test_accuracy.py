"""The accuracy bench: peers by their definitions, one table for any folder in MVTec AD's layout, a fairer split."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist, mahalanobis

from bench import accuracy, disjoint, latency
from bench.harness import splits
from bench.peers.methods import PaDiM, PatchCore
from glance_fast.backends.tolerances import tolerance
from glance_fast.config import TrainConfig
from glance_fast.data.datasets import normal_images, test_samples
from glance_fast.errors import DataError
from glance_fast.teachers import Teacher, load_teacher

ROOT = Path(__file__).parents[2]
TRAIN = TrainConfig(false_alarm_rate=0.25)
SMALL = (
    "image_size=[150, 150]", "stride=24", "global_channels=[4, 4, 4, 4]", "global_convs=2", "features=6", "dad_width=8",
    "dad_holes_per_axis=9", "false_alarm_rate=0.25", "global_steps=2", "dad_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher()


def photos(count: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    return np.random.default_rng(seed).integers(80, 160, (count, *size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in MVTec AD's layout."""
    root = tmp_path_factory.mktemp("root")
    for seed, category in enumerate(("bottle", "cable")):
        for subfolder, count in (("train/good", 12), ("test/good", 4), ("test/hole", 4)):
            folder = root / category / subfolder
            folder.mkdir(parents=True)
            for i, photo in enumerate(photos(count, 10 * seed + count, (100, 120))):
                if subfolder == "test/hole":
                    photo[20:40, 30:60] = 0
                Image.fromarray(photo).save(folder / f"num_{100 * i + len(subfolder)}.png")
        masks = root / category / "ground_truth" / "hole"
        masks.mkdir(parents=True)
        for sample in (root / category / "test" / "hole").iterdir():
            mask = np.zeros((100, 120), np.uint8)
            mask[20:40, 30:60] = 255
            Image.fromarray(mask).save(masks / f"{sample.stem}_mask.png")
    return root


def test_patchcore_is_its_definition(teacher: Teacher) -> None:
    images = photos(30)
    peer = PatchCore(teacher, 0)
    peer.fit(images[:24], images[24:], TRAIN)
    score, grid = peer.distances(images[25:26])
    memory = peer.memory.double().numpy()
    rows = peer.vectors(images[25:26])[0].flatten(1).T.double().numpy()
    distances = cdist(rows, memory)
    assert grid.shape == (8, 12)
    np.testing.assert_allclose(grid.ravel(), distances.min(1), rtol=tolerance("peer map", "fp32"))
    far = int(distances.min(1).argmax())
    match = memory[distances[far].argmin()]
    around = np.argsort(cdist(match[None], memory)[0])[: peer.NEIGHBOURS]
    near = cdist(rows[far][None], memory[around])[0]
    expected = (1 - np.exp(near[0]) / np.exp(near).sum()) * near[0]
    assert score == pytest.approx(expected, rel=tolerance("peer map", "fp32"))
    assert len(memory) == 24 * 8 * 12


def test_padim_is_its_definition(teacher: Teacher) -> None:
    images = photos(200)
    peer = PaDiM(teacher, 0)
    peer.fit(images[:190], images[190:], TRAIN)
    _, grid = peer.distances(images[195:196])
    learned = torch.cat([peer.vectors(images[low : low + 10]) for low in range(0, 190, 10)]).double().numpy()
    vectors = peer.vectors(images[195:196])[0].double().numpy()
    for y, x in ((0, 0), (3, 7), (7, 11)):
        at = learned[:, :, y, x]
        covariance = np.cov(at.T, ddof=0) + 0.01 * np.eye(at.shape[1])
        expected = mahalanobis(vectors[:, y, x], at.mean(0), np.linalg.inv(covariance))
        assert grid[y, x] == pytest.approx(expected, rel=tolerance("peer map", "fp32"))


def test_a_peers_map_is_in_the_images_own_size(teacher: Teacher) -> None:
    images = photos(30)
    peer = PaDiM(teacher, 0)
    peer.fit(images[:24], images[24:], TRAIN)
    image = np.asarray(Image.fromarray(images[3]).resize((71, 50)))
    assert peer.score(image).map.shape == (50, 71)


def test_a_peers_map_of_a_letterboxed_image_is_where_the_image_lies(teacher: Teacher) -> None:
    images = photos(30)
    peer = PaDiM(teacher, 0, "letterbox")
    peer.fit(images[:24], images[24:], TRAIN)
    image = images[3][:, :40]
    framed = peer.score(np.pad(image, ((0, 0), (28, 28), (0, 0)), mode="symmetric"))
    actual = peer.score(image)
    assert actual.score == framed.score and actual.map.shape == (64, 40)
    # Nearer to its ends the smoothing of the map sees them.
    np.testing.assert_allclose(actual.map[:, 16:24], framed.map[:, 44:52], rtol=tolerance("output", "fp32"))


def test_the_command_measures_all_categories_of_a_root_and_resumes(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "bench/accuracy.py", str(root), "--output", str(tmp_path), "--seed", "3"]
    for name in ("fast", "patchcore", "padim"):
        command += ["--method", name]
    for setting in SMALL:
        command += ["--set", setting]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "accuracy.json").read_text())
    assert {(row["category"], row["method"], row["seed"]) for row in rows} == {
        (category, method, 3)
        for category in ("bottle", "cable")
        for method in ("fast", "fast, IAD alone", "fast, DAD alone", "patchcore", "padim")
    }
    for row in rows:
        assert set(row["defects"]) == {"hole"} and row["training_seconds"] > 0 and row["ms_per_image"] > 0
        assert all(0 <= row[name] <= 1 for name in accuracy.METRICS)
        assert {"commit", "torch", "processor"} <= set(row["machine"])
    table = (tmp_path / "accuracy.md").read_text()
    assert "### mean over categories" in table and "published" not in table
    timed = latency.measure(root / "bottle", tmp_path, 3, SMALL)
    assert [row["method"] for row in timed] == ["fast", "patchcore", "padim"]
    assert all(0 < row["low"] <= row["ms"] <= row["high"] for row in timed)
    with pytest.raises(DataError, match="holds no model; make them with"):
        latency.measure(root / "bottle", tmp_path / "none", 1)
    before = (tmp_path / "accuracy.json").read_bytes()
    second_run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (tmp_path / "accuracy.json").read_bytes() == before
    assert "bottle: fast" not in second_run.stdout


def test_with_all_fifteen_categories_the_published_figure_stands_below() -> None:
    row = {"method": "fast", "seed": 0, "defects": {"x": 0.5}, "training_seconds": 1, "ms_per_image": 1}
    rows = [{**row, "category": name, **dict.fromkeys(accuracy.METRICS, 0.75)} for name in accuracy.MVTEC_AD]
    assert re.search(r"as published \|  \|  \| 0\.961", accuracy.as_markdown(rows))
    assert "published" not in accuracy.as_markdown(rows[1:])


def test_seeds_are_reported_as_mean_and_deviation() -> None:
    row = {"method": "fast", "category": "c", "defects": {"x": 0.5}, "training_seconds": 1, "ms_per_image": 1}
    rows = [{**row, "seed": i, **dict.fromkeys(accuracy.METRICS, 0.7 + 0.1 * i)} for i in range(3)]
    assert "| fast | 3 | 0.800 ± 0.100 |" in accuracy.as_markdown(rows)


def test_a_folder_without_tests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MVTec AD's layout"):
        accuracy.categories(tmp_path)


def test_the_fairer_split_leaves_out_related_photographs(root: Path, tmp_path: Path) -> None:
    disjoint.main(root / "bottle", tmp_path / "split", r"num_(\d+)", within=60, normal=2)
    kept = [splits.photograph_number(s.path, r"num_(\d+)") for s in test_samples(tmp_path / "split") if s.is_normal]
    left = [splits.photograph_number(path, r"num_(\d+)") for path in normal_images(tmp_path / "split")]
    assert len(kept) == 2 and len(left) == 10
    assert min(abs(a - b) for a in kept for b in left) > 60
    assert sum(not s.is_normal for s in test_samples(tmp_path / "split")) == 4
    with pytest.raises(DataError, match="every training image"):
        disjoint.main(root / "bottle", tmp_path / "none", r"num_(\d+)", within=5000, normal=2)
    with pytest.raises(DataError, match="no number"):
        splits.photograph_number(tmp_path / "a.png", r"num_(\d+)")


def test_related_photographs_lie_in_the_same_part(root: Path) -> None:
    samples = test_samples(root / "bottle")
    alone = splits.part_of(samples, None, 0)
    assert alone == splits.part_of(samples[::-1], None, 0) and alone.keys() == {sample.path for sample in samples}
    assert set(alone.values()) == set(splits.PARTS), "eight images, not all in one part"
    for within, groups in ((99, 4), (100, 1)):
        paths = [sample.path for sample in samples if sample.is_normal]
        actual = splits.related(paths, r"num_(\d+)", within)
        assert len(actual) == groups and sorted(path for group in actual for path in group) == sorted(paths)
    together = splits.part_of(samples, r"num_(\d+)", 100)
    for defect in ("good", "hole"):
        assert len({together[sample.path] for sample in samples if sample.defect == defect}) == 1


def test_a_row_holds_the_figures_of_both_parts(root: Path, tmp_path: Path) -> None:
    trial = accuracy.Trial("padim", root / "bottle", tmp_path, 0, ("false_alarm_rate=0.25",), 1.0)
    (row,) = accuracy.run(trial)
    for name, measures in row["parts"].items():
        assert name in splits.PARTS and 0 <= measures["image_auroc"] <= 1 and measures["images"] < 8
