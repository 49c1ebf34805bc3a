"""Pixels of many maps: each curve is that of its own maps held in memory, whatever is in memory at a time."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glance_fast.backends.tolerances import tolerance
from glance_fast.errors import DataError, SaveError
from glance_fast.evaluation import array_file, pixel_pool
from glance_fast.evaluation.metrics import PixelCurve
from glance_fast.evaluation.pixel_pool import ALL, PixelPool
from glance_fast.evaluation.results import PixelMetrics

LIMIT = 0.3
Image = tuple[str, NDArray[np.bool_], NDArray[np.float32]]


def images(seed: int, levels: int, dtype: type[np.floating] = np.float32) -> list[Image]:
    """Normal images and two classes of defects in mixed order; a class may have masks without a defect pixel."""
    rng = np.random.default_rng(seed)
    rows: list[Image] = []
    for defect in ("good", "hole", "good", "crack", "hole", "good", "crack", "clean"):
        mask = rng.random((9, 14)) < {"hole": 0.2, "crack": 0.7}.get(defect, 0)
        # Some values are below zero, and zeros have both signs.
        values = (rng.integers(-levels, levels, mask.shape) * 0.1 + rng.integers(0, 2) * mask).astype(dtype)
        rows.append((defect, mask, values))
    return rows


def held(rows: list[Image], defects: set[str]) -> PixelMetrics:
    """The metrics of these classes and the normal images, by a curve that is given all maps at once."""
    chosen = [(mask, values) for defect, mask, values in rows if defect in defects | {"good"}]
    curve = PixelCurve([mask for mask, _ in chosen], [values for _, values in chosen])
    return PixelMetrics(curve.auroc(), curve.aupro(LIMIT), *curve.f1_max())


def assert_same(actual: PixelMetrics, expected: PixelMetrics) -> None:
    assert (actual.f1_max, actual.f1_threshold) == (expected.f1_max, expected.f1_threshold)
    assert actual.auroc == pytest.approx(expected.auroc, abs=tolerance("metric", "fp64"))
    assert actual.aupro == pytest.approx(expected.aupro, abs=tolerance("metric", "fp64"))


def pooled(rows: list[Image], folder: Path) -> dict[str, PixelMetrics]:
    with PixelPool(folder) as pool:
        for defect, mask, values in rows:
            pool.add(defect, mask, values, "mask")
        return pool.metrics(LIMIT)


@pytest.mark.parametrize("levels", [1, 3, 10_000])
@pytest.mark.parametrize("sizes", [(4, 2, 3), (1, 1, 1), (64, 32, 16)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_curves_of_classes_in_pieces_are_those_of_maps_in_memory(
    levels: int,
    sizes: tuple[int, int, int],
    dtype: type[np.floating],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = images(levels, levels, dtype)
    expected = {name: held(rows, {name}) for name in ("hole", "crack")} | {ALL: held(rows, {"hole", "crack", "clean"})}
    for name, size in zip(("BLOCK", "SAMPLE", "BATCH"), sizes, strict=True):
        monkeypatch.setattr(pixel_pool, name, size)
    monkeypatch.setattr(array_file, "MEMORY", 1)
    actual = pooled(rows, tmp_path)
    assert set(actual) == set(expected), "a class without a defect pixel has no curve"
    for name, metrics in expected.items():
        assert_same(actual[name], metrics)


def test_values_lie_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "MEMORY", 1)
    with PixelPool(tmp_path) as pool:
        for defect, mask, values in images(0, 5):
            pool.add(defect, mask, values, "mask")
            assert list(tmp_path.iterdir()) == []
        assert pool.metrics(LIMIT)
    assert list(tmp_path.iterdir()) == []


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    with PixelPool(tmp_path) as pool, pytest.raises(DataError, match=r"a.png: its mask is bool \[2, 3\]"):
        pool.add("crack", np.ones((2, 3), np.bool_), np.ones((3, 2), np.float32), "a.png: its mask")


def test_values_without_room_are_an_error_before_anything_is_written(tmp_path: Path) -> None:
    array_file.require_room(2**20, tmp_path)
    with pytest.raises(SaveError, match=r"need 1000000.0 GB in .* are free; free space there, or choose an output"):
        array_file.require_room(10**15, tmp_path)


def test_arrays_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    turned = rng.random((3, 2, 4)).astype(np.float32).T
    arrays: list[NDArray[Any]] = [rng.random((5, 7)), turned, np.empty((0, 3)), np.arange(9)]
    for memory in (1, 10**6):
        monkeypatch.setattr(array_file, "MEMORY", memory)
        with array_file.ArrayFile(tmp_path) as file:
            stored = [file.append(array) for array in arrays]
            for at, array in reversed([*zip(stored, arrays, strict=True)]):
                np.testing.assert_array_equal(file.read(at), array)
                np.testing.assert_array_equal(file.read(at, 1, 3), array[1:3])
                assert len(at) == len(array) and file.read(at).dtype == array.dtype


def test_a_full_disk_is_a_save_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    with array_file.ArrayFile(tmp_path) as file, pytest.raises(SaveError, match=r"values of the maps in .*: No space"):
        file.append(np.zeros(3))
