"""Whatever the kind of stain, image and seed: the mask is what visibly changed, and it is never empty."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glance_fast.errors import ConfigError, ImageError
from glance_fast.stains import (
    VISIBLE,
    Blob,
    Blur,
    Crack,
    Floats,
    OneOf,
    Outline,
    PastedTexture,
    Pit,
    RegionShift,
    Scratch,
    Several,
    Shade,
    Size,
    Stain,
    Stained,
    Tone,
    default_stains,
)

SIZES = ((8, 8), (37, 53), (9, 120), (128, 96))
SEEDS = range(6)


def photo(height: int, width: int, *, grey: bool = False) -> Floats:
    """A surface with a coarse pattern and fine grain."""
    rng = np.random.default_rng(height * 1000 + width)
    wave = np.sin(np.arange(height)[:, None] / 3) * np.cos(np.arange(width)[None, :] / 4)
    image = 0.5 + 0.2 * wave[..., None] + 0.1 * rng.standard_normal((height, width, 3))
    image = image[..., :1].repeat(3, axis=2) if grey else image * np.array([1.0, 0.9, 0.7])
    return image.clip(0, 1).astype(np.float32)


def constant(height: int, width: int, level: float) -> Floats:
    return np.full((height, width, 3), level, np.float32)


KINDS: dict[str, Stain] = {
    "blob": Blob(),
    "pit": Pit(),
    "shade": Shade(),
    "crack": Crack(),
    "scratch": Scratch(),
    "shift": RegionShift(),
    "paste": PastedTexture(),
    "paste others": PastedTexture(others=(photo(20, 31),)),
    "blur": Blur(),
    "several": Several(Blob(), 2, 4),
    "one of": OneOf([Pit(), Crack()], [1, 3]),
    "default": default_stains(),
    "default others": default_stains([photo(16, 16)]),
}
every_kind = pytest.mark.parametrize("stain", KINDS.values(), ids=KINDS.keys())


def check(image: Floats, stained: Stained) -> None:
    assert stained.image.dtype == np.float32 and stained.image.shape == image.shape
    assert stained.mask.dtype == np.bool_ and stained.mask.shape == image.shape[:2]
    assert np.isfinite(stained.image).all() and stained.image.min() >= 0 and stained.image.max() <= 1
    np.testing.assert_array_equal(stained.mask, (np.abs(stained.image - image) > VISIBLE).any(axis=2))
    assert stained.mask.any()


@every_kind
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("grey", [False, True], ids=["rgb", "grey"])
def test_the_mask_is_what_visibly_changed(stain: Stain, size: tuple[int, int], grey: bool) -> None:
    image = photo(*size, grey=grey)
    image.flags.writeable = False
    before = image.copy()
    for seed in SEEDS:
        stained = stain(image, np.random.default_rng(seed))
        check(image, stained)
        assert not np.shares_memory(stained.image, image)
        if grey:
            assert (stained.image == stained.image[..., :1]).all()
    np.testing.assert_array_equal(image, before)


@every_kind
@pytest.mark.parametrize("level", [0.0, 0.02, 0.5, 1.0])
def test_a_constant_image_is_stained_too(stain: Stain, level: float) -> None:
    image = constant(24, 17, level)
    for seed in SEEDS:
        check(image, stain(image, np.random.default_rng(seed)))


@every_kind
def test_a_checkerboard_of_black_and_white_is_stained_too(stain: Stain) -> None:
    image = np.indices((16, 16)).sum(0)[..., None].repeat(3, axis=2) % 2
    for seed in SEEDS:
        check(image.astype(np.float32), stain(image.astype(np.float32), np.random.default_rng(seed)))


@every_kind
def test_a_seed_fixes_the_stain_and_another_seed_gives_another(stain: Stain) -> None:
    image = photo(64, 48)
    first, repeated, other = (stain(image, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, repeated.image)
    np.testing.assert_array_equal(first.mask, repeated.mask)
    assert not np.array_equal(first.image, other.image)


@every_kind
def test_a_view_that_is_not_contiguous_gives_the_same(stain: Stain) -> None:
    image = photo(40, 60)
    view = np.asfortranarray(image)
    first, second = (stain(photo, np.random.default_rng(0)) for photo in (image, view))
    np.testing.assert_array_equal(first.image, second.image)


def test_outside_the_mask_only_invisible_changes_remain() -> None:
    image = photo(96, 96)
    for seed in range(20):
        stained = default_stains()(image, np.random.default_rng(seed))
        assert np.abs(stained.image - image)[~stained.mask].max() <= VISIBLE


def test_an_invisible_edit_becomes_a_strong_one() -> None:
    # All parts of a constant image look alike, so a moved region alone shows nothing.
    stained = RegionShift()(constant(32, 32, 0.4), np.random.default_rng(0))
    assert np.abs(stained.image - np.float32(0.4)).max() == pytest.approx(0.35)


def test_a_pit_has_a_dark_hole_and_a_bright_rim() -> None:
    pit = Pit(Size(8, 8, "px"), Tone(contrast=(0.5, 0.5), darker=1, tint=0, flat=1), rim=(0.3, 0.3))
    moved = pit(constant(64, 64, 0.6), np.random.default_rng(1)).image - np.float32(0.6)
    assert moved.min() < -0.4 and moved.max() > 0.1


def test_sizes_follow_the_unit() -> None:
    outline = Outline(Size(0.5, 0.5), aspect=(1, 1), wobble=(0, 0), softness=(0, 0), boxy=0)
    blob = Blob(outline, Tone(contrast=(0.4, 0.4), tint=0, flat=0), texture=0)
    areas = [blob(constant(80, 80, 0.5), np.random.default_rng(seed)).mask.sum() for seed in range(30)]
    assert max(areas) == pytest.approx(np.pi * 20**2, rel=0.06)


def test_a_tint_needs_a_colour_image() -> None:
    blob = Blob(tone=Tone(contrast=(0.3, 0.3), tint=1))
    colour = photo(32, 32)
    grey = photo(32, 32, grey=True)
    tinted = blob(colour, np.random.default_rng(0))
    moved = (tinted.image - colour)[tinted.mask]
    assert np.ptp(moved, axis=1).max() > 0.05
    assert (np.ptp(blob(grey, np.random.default_rng(0)).image, axis=2) == 0).all()


def test_one_of_keeps_to_its_weights() -> None:
    drawn = []

    def named(name: str) -> Stain:
        def stain(image: Floats, rng: np.random.Generator, /) -> Stained:
            drawn.append(name)
            return Pit()(image, rng)

        return stain

    mixed, rng = OneOf([named("never"), named("rare"), named("often")], [0, 1, 4]), np.random.default_rng(0)
    for _ in range(200):
        mixed(constant(8, 8, 0.5), rng)
    assert "never" not in drawn and 20 <= drawn.count("rare") <= 60


def square(image: Floats, rng: np.random.Generator, /) -> Stained:
    """A stain that a user writes, as the documentation shows it: the upper left quarter, inverted."""
    out, mask = image.copy(), np.zeros(image.shape[:2], np.bool_)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out[:height, :width] = 1 - out[:height, :width]
    mask[:height, :width] = True
    return Stained(out, mask)


def test_several_stains_that_undo_each_other_leave_the_first() -> None:
    image = constant(16, 16, 0.1)
    stained = Several(square, 2, 2)(image, np.random.default_rng(0))
    check(image, stained)
    assert stained.mask.sum() == 64


def test_several_is_the_union_of_what_remains() -> None:
    image = photo(64, 64)
    single, several = (Several(Pit(), n, n)(image, np.random.default_rng(5)) for n in (1, 8))
    check(image, several)
    assert several.mask.sum() > 2 * single.mask.sum()


def test_default_stains_reach_from_a_few_pixels_to_a_large_part() -> None:
    image, stain = photo(64, 64), default_stains()
    shares = [stain(image, np.random.default_rng(seed)).mask.mean() for seed in range(150)]
    assert min(shares) < 0.005 and max(shares) > 0.15


def test_foreign_textures_are_visible() -> None:
    red = np.zeros((12, 12, 3), np.float32)
    red[..., 0] = 1
    paste = PastedTexture(opacity=(1, 1), others=(red,))
    beige = constant(32, 32, 0.5) * np.array([1, 1, 0.8], np.float32)
    images = [paste(beige, np.random.default_rng(seed)).image for seed in range(12)]
    assert any((image[..., 0] > 0.9).any() and (image[..., 1] < 0.1).any() for image in images)


BAD_IMAGES: dict[str, Any] = {
    "uint8": np.zeros((16, 16, 3), np.uint8),
    "float64": np.zeros((16, 16, 3)),
    "flat": np.zeros((16, 16), np.float32),
    "four channels": np.zeros((16, 16, 4), np.float32),
    "too small": np.zeros((7, 16, 3), np.float32),
    "above 1": np.full((16, 16, 3), 1.5, np.float32),
    "below 0": np.full((16, 16, 3), -0.5, np.float32),
    "nan": np.full((16, 16, 3), np.nan, np.float32),
    "list": [[0.0]],
    "none": None,
}


@pytest.mark.parametrize("image", BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
@pytest.mark.parametrize("stain", [Blob(), OneOf([Pit()]), Several(Pit(), 1, 2)], ids=["mark", "single", "several"])
def test_an_image_of_another_kind_is_refused(stain: Stain, image: Any) -> None:
    with pytest.raises(ImageError, match=r"float32 image \[H, W, 3\] in 0..1"):
        stain(image, np.random.default_rng(0))


BAD_SETTINGS: dict[str, Callable[[], Any]] = {
    "Size.unit": lambda: Size(1, 2, "inch"),  # type: ignore[arg-type]
    "Size must": lambda: Size(3, 1),
    "Size": lambda: Size(float("nan"), 1),
    "Outline.size": lambda: Outline(3),  # type: ignore[arg-type]
    "Outline.aspect": lambda: Outline(aspect=(0.5, 2)),
    "Outline.wobble": lambda: Outline(wobble=(0, 1)),
    "Outline.softness": lambda: Outline(softness=(0, 2)),
    "Outline.boxy": lambda: Outline(boxy=2),
    "Tone.contrast": lambda: Tone(contrast=(0, 0.5)),
    "Tone.tint": lambda: Tone(tint=-0.1),
    "Blob.texture": lambda: Blob(texture=float("inf")),
    "Blob.tone": lambda: Blob(tone=None),  # type: ignore[arg-type]
    "Pit.rim": lambda: Pit(rim=(0.5, 0.1)),
    "Crack.width": lambda: Crack(width=(0.1, 3)),
    "Crack.branches": lambda: Crack(branches=(0, 1.5)),  # type: ignore[arg-type]
    "Crack.rough": lambda: Crack(rough=(0,)),  # type: ignore[arg-type]
    "Scratch.lines": lambda: Scratch(lines=(0, 2)),
    "Scratch.bend": lambda: Scratch(bend=(0, 9)),
    r"RegionShift.quarter \+ turned": lambda: RegionShift(quarter=0.6, turned=0.6),
    "RegionShift.mirrored": lambda: RegionShift(mirrored=True + 1),
    "PastedTexture.textures": lambda: PastedTexture(textures=("felt",)),  # type: ignore[arg-type]
    r"PastedTexture.others\[0\]": lambda: PastedTexture(others=(np.zeros((16, 16, 3), np.uint8),)),
    r"PastedTexture.others\[1\]": lambda: default_stains([photo(8, 8), photo(8, 7)]),
    "PastedTexture.opacity": lambda: PastedTexture(opacity=(0, 1)),
    "Blur.radius": lambda: Blur(radius=(0, 2)),
    "Blur.gain": lambda: Blur(gain=(0, 2)),
    "OneOf.stains": lambda: OneOf([]),
    "OneOf.stains must": lambda: OneOf(["blob"]),  # type: ignore[list-item]
    "OneOf.weights must be 2": lambda: OneOf([Blob(), Pit()], [1]),
    "OneOf.weights must be 0 or more": lambda: OneOf([Blob(), Pit()], [0, 0]),
    "OneOf.weights": lambda: OneOf([Blob(), Pit()], [1, -1]),
    "Several.stain": lambda: Several(3, 1, 2),  # type: ignore[arg-type]
    "Several.low, high": lambda: Several(Blob(), 0, 2),
    "Several.low, high must": lambda: Several(Blob(), 3, 2),
}


@pytest.mark.parametrize("name", BAD_SETTINGS.keys())
def test_an_impossible_setting_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        BAD_SETTINGS[name]()


def test_stains_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Blob().texture = 0.1  # type: ignore[misc]


def test_the_examples_of_the_page_run() -> None:
    page = (Path(__file__).parents[2] / "docs" / "stains.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/stains.md", "exec", dont_inherit=True), names)  # noqa: S102 (our own page)
        check(names["image"], names["stained"])
    assert len(blocks) == 3
