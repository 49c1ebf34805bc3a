"""The pictures of a result show what the result says, at every size, and are written whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from glance_fast.errors import ImageError, SaveError
from glance_fast.visualization.overlay import (
    ANOMALOUS_OUTLINE,
    TRUTH_OUTLINE,
    enlargement,
    heat,
    heat_range,
    is_wide,
    outline,
    overlay,
    save_jpeg,
    side_by_side,
)


@dataclass(frozen=True)
class FakeResult:
    """A result with a map and the verdict that the caption shows."""

    map: NDArray[np.float32]
    score: float = 0.9
    threshold: float = 0.5
    p_value: float = 0.01
    is_anomalous: bool = True
    pixel_threshold: float = 0.5


def photo(height: int, width: int, level: int = 120) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def spot(height: int, width: int) -> NDArray[np.float32]:
    """A map of 0.1 with a square of 2.0 in its lower right quarter."""
    values = np.full((height, width), 0.1, np.float32)
    values[height // 2 : height * 3 // 4, width // 2 : width * 3 // 4] = 2.0
    return values


def has_color(pixels: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((pixels == np.array(color, np.uint8)).all(-1).any())


def test_heat_runs_from_the_first_to_the_last_colour_and_is_clipped() -> None:
    colors = heat(np.array([[-5.0, 0.0, 1.0, 3.0, 99.0]], np.float32), 0.0, 3.0)
    assert colors.dtype == np.uint8 and colors.shape == (1, 5, 3)
    assert (colors[0, 0] == colors[0, 1]).all() and (colors[0, 3] == colors[0, 4]).all()
    assert len({tuple(color) for color in colors[0]}) == 3


def test_heat_gets_brighter_with_the_score() -> None:
    luma = heat(np.linspace(0, 1, 20, dtype=np.float32)[None], 0, 1)[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > 0).all()


def test_heat_of_an_empty_range_is_a_picture() -> None:
    assert heat(np.full((2, 3), 7.0, np.float32), 7.0, 7.0).shape == (2, 3, 3)


def test_heat_range_leaves_an_ordinary_map_below_the_alarm_colours() -> None:
    low, high = heat_range(np.full((4, 4), 0.2, np.float32), 1.0)
    assert low == pytest.approx(0.2) and high == pytest.approx(1.8)


def test_heat_range_reaches_the_peak_and_starts_at_the_threshold_at_most() -> None:
    assert heat_range(np.full((4, 4), 9.0, np.float32), 1.0) == (1.0, 9.0)


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((1, 1), 192),
        ((7, 17), 28),
        ((90, 220), 3),
        ((192, 256), 1),
        ((191, 300), 2),
        ((600, 400), 1),
        ((10, 5000), 1),
    ],
)
def test_small_images_are_enlarged_within_bounds(size: tuple[int, int], factor: int) -> None:
    assert enlargement(*size) == factor


@pytest.mark.parametrize("size", [(1, 1), (7, 17), (100, 220), (333, 257), (3, 900)])
def test_an_overlay_is_the_enlarged_photo_over_a_strip(size: tuple[int, int]) -> None:
    factor = enlargement(*size)
    image, result = photo(*size), FakeResult(spot(*size))
    pixels = overlay(image, result)
    assert pixels.dtype == np.uint8 and pixels.shape[1] == size[1] * factor and pixels.shape[0] > size[0] * factor
    assert overlay(image, result, caption=False).shape == (size[0] * factor, size[1] * factor, 3)


def test_a_low_map_leaves_the_photo_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8)
    result = FakeResult(np.full((300, 280), 0.1, np.float32))
    assert (overlay(image, result, caption=False) == image).all()


def test_only_the_marked_region_is_coloured_and_outlined() -> None:
    pixels = overlay(photo(400, 400), FakeResult(spot(400, 400)), caption=False)
    assert (pixels[:190, :190] == 120).all()
    assert not (pixels[250, 250] == 120).all()
    assert has_color(pixels, ANOMALOUS_OUTLINE) and not has_color(pixels, TRUTH_OUTLINE)


def test_the_input_is_not_painted_on() -> None:
    image, result = photo(300, 300), FakeResult(spot(300, 300))
    side_by_side(image, result, result.map > 1)
    assert (image == 120).all() and result.map.max() == 2.0


@pytest.mark.parametrize("pixel", [(0, 0), (0, 6), (4, 6), (2, 3)])
def test_a_single_marked_pixel_is_outlined_everywhere(pixel: tuple[int, int]) -> None:
    mask = np.zeros((5, 7), np.bool_)
    mask[pixel] = True
    assert has_color(outline(photo(50, 70), mask, TRUTH_OUTLINE), TRUTH_OUTLINE)


@pytest.mark.parametrize("factor", [1, 3])
def test_an_outline_is_drawn_at_the_part_where_the_mask_is(factor: int) -> None:
    """The same as drawn on the whole picture, at a border too: what is cut off is what no line reaches."""
    rng = np.random.default_rng(factor)
    for _ in range(20):
        mask, whole = np.zeros((40, 50), np.bool_), np.zeros((40, 50), np.bool_)
        top, left = rng.integers(0, 34, 2)
        mask[top : top + 6, left : left + 6] = rng.random((6, 6)) < 0.3
        whole |= mask
        whole[[0, -1], [0, -1]] = True  # two corners, so that nothing is cut off
        parts = int(rng.integers(10, 60))
        image = photo(40 * factor, 50 * factor)
        outlined, expected = outline(image, mask, TRUTH_OUTLINE, parts), outline(image, whole, TRUTH_OUTLINE, parts)
        rows, cols = np.nonzero((outlined != expected).any(-1))
        near = 3 * (50 * factor // parts + 1) + factor
        corner = np.minimum(np.hypot(rows, cols), np.hypot(rows - 40 * factor + 1, cols - 50 * factor + 1))
        assert (corner <= 2 * near).all()


def test_an_outline_leaves_the_inside_free() -> None:
    mask = np.zeros((300, 300), np.bool_)
    mask[100:200, 100:200] = True
    drawn = outline(photo(300, 300), mask, TRUTH_OUTLINE)
    assert (drawn[100:200, 100:200] == 120).all() and (drawn[99, 150] == TRUTH_OUTLINE).all()


def test_the_caption_contains_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    drawn = ImageDraw.ImageDraw.text

    def listen(self: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, **rest: Any) -> None:
        texts.append(text)
        drawn(self, xy, text, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", listen)
    result = FakeResult(spot(300, 300), score=0.912345, threshold=0.5, p_value=0.0123)
    overlay(photo(300, 300), result)
    overlay(photo(300, 300), replace(result, is_anomalous=False))
    assert texts[:4] == ["anomalous", "score 0.9123", "threshold 0.5", "p-value 0.0123"] and texts[4] == "normal"


def test_a_narrow_caption_takes_more_lines() -> None:
    narrow = overlay(photo(800, 260), FakeResult(spot(800, 260))).shape[0] - 800
    wide = overlay(photo(300, 800), FakeResult(spot(300, 800))).shape[0] - 300
    assert narrow / 13 > wide / (800 // 28)


@pytest.mark.parametrize(("size", "axis"), [((300, 280), 1), ((300, 600), 1), ((300, 601), 0)])
def test_panels_stand_side_by_side_and_wide_ones_below_each_other(size: tuple[int, int], axis: int) -> None:
    image, result = photo(*size), FakeResult(spot(*size))
    without_mask, with_mask = side_by_side(image, result, None), side_by_side(image, result, result.map > 1)
    assert is_wide(image) == (axis == 0)
    assert without_mask.shape[1 - axis] == with_mask.shape[1 - axis] == size[1 - axis]
    assert 2 * size[axis] < without_mask.shape[axis] and 3 * size[axis] < with_mask.shape[axis]
    assert has_color(with_mask, TRUTH_OUTLINE) and not has_color(without_mask, TRUTH_OUTLINE)


def test_sizes_that_differ_are_an_error_that_names_both() -> None:
    with pytest.raises(ImageError, match=r"\[30, 40\].*anomaly map \[40, 30\]"):
        overlay(photo(30, 40), FakeResult(spot(40, 30)))
    with pytest.raises(ImageError, match="ground truth"):
        side_by_side(photo(30, 40), FakeResult(spot(30, 40)), np.zeros((3, 4), np.bool_))
    with pytest.raises(ImageError, match="uint8"):
        overlay(np.zeros((30, 40, 3), np.float32), FakeResult(spot(30, 40)))


def test_a_picture_is_written_with_its_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    pixels = overlay(photo(300, 280), FakeResult(spot(300, 280)))
    path = tmp_path / "new" / "deep" / "picture.jpg"
    save_jpeg(pixels, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["picture.jpg"]
    with Image.open(path) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image, np.float32) - pixels).mean() < 1


def test_a_picture_that_cannot_be_written_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").mkdir()
    with pytest.raises(SaveError, match=r"picture\.jpg"):
        save_jpeg(photo(2, 2), tmp_path / "picture.jpg")
