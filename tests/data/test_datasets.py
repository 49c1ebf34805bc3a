"""Data folders: which file is what, and an error that names the file for every folder that makes no sense."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glance_fast.data.datasets import Sample, expand, normal_images, read_mask, test_samples
from glance_fast.errors import DataError, ImageError


def touch(folder: Path, *names: str) -> Path:
    """Empty files: which file is what depends on names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(paths: Sequence[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


@pytest.mark.parametrize("subfolder", ["train/good/", "train/", ""])
def test_normal_images_are_found_in_every_layout_sorted(tmp_path: Path, subfolder: str) -> None:
    files = [f"{subfolder}{name}" for name in ("b.png", "a.JPG", "c.tiff", ".hidden.png", "notes.txt", "deep/d.png")]
    assert names(normal_images(touch(tmp_path, *files)), tmp_path) == [
        f"{subfolder}a.JPG",
        f"{subfolder}b.png",
        f"{subfolder}c.tiff",
    ]


def test_test_images_are_never_trained_on(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/0.png", "train/bad/1.png", "test/good/2.png", "test/crack/3.png", "4.png")
    assert names(normal_images(tmp_path), tmp_path) == ["train/good/0.png"]


@pytest.mark.parametrize("file", ["notes.txt", "train/good/notes.txt", "train/notes.txt", "train/good/x.png/y.txt"])
def test_a_folder_without_normal_images_is_an_error(tmp_path: Path, file: str) -> None:
    with pytest.raises(DataError, match="holds no images") as caught:
        normal_images(touch(tmp_path, file))
    assert str(tmp_path) in str(caught.value)


def test_an_empty_train_folder_is_not_passed_over(tmp_path: Path) -> None:
    (touch(tmp_path, "0.png") / "train").mkdir()
    with pytest.raises(DataError, match=r"train holds no images"):
        normal_images(tmp_path)


@pytest.mark.parametrize("find", [normal_images, test_samples])
def test_what_is_no_folder_is_an_error(tmp_path: Path, find: object) -> None:
    assert callable(find)
    touch(tmp_path, "file.png")
    with pytest.raises(DataError, match=r"none does not exist"):
        find(tmp_path / "none")
    with pytest.raises(DataError, match=r"file\.png is a file"):
        find(tmp_path / "file.png")


def mvtec(folder: Path) -> Path:
    return touch(
        folder,
        *("test/good/1.png", "test/good/0.png", "test/crack/0.png", "test/crack/1.jpg", "test/notes.txt"),
        *("ground_truth/crack/0_mask.png", "ground_truth/crack/1_mask.png"),
    )


def test_samples_have_their_class_and_mask(tmp_path: Path) -> None:
    test, masks = mvtec(tmp_path) / "test", tmp_path / "ground_truth" / "crack"
    assert test_samples(tmp_path) == [
        Sample(test / "crack" / "0.png", "crack", masks / "0_mask.png"),
        Sample(test / "crack" / "1.jpg", "crack", masks / "1_mask.png"),
        Sample(test / "good" / "0.png", "good", None),
        Sample(test / "good" / "1.png", "good", None),
    ]
    assert [sample.is_normal for sample in test_samples(tmp_path)] == [False, False, True, True]


def test_a_class_without_a_mask_folder_has_no_masks(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "test/hole/0.png")
    assert {sample.mask for sample in test_samples(tmp_path) if sample.defect == "hole"} == {None}


def test_masks_of_normal_images_are_not_used(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "ground_truth/good/0_mask.png")
    assert {sample.mask for sample in test_samples(tmp_path) if sample.is_normal} == {None}


def test_a_missing_mask_is_an_error_that_names_image_and_mask(tmp_path: Path) -> None:
    (mvtec(tmp_path) / "ground_truth" / "crack" / "1_mask.png").unlink()
    with pytest.raises(DataError, match=r"crack/1\.jpg has no mask .*ground_truth/crack/1_mask\.png"):
        test_samples(tmp_path)


@pytest.mark.parametrize("name", ["7_mask.png", "0.png", "0_mask.bmp"])
def test_a_mask_without_its_image_is_an_error(tmp_path: Path, name: str) -> None:
    touch(mvtec(tmp_path), f"ground_truth/crack/{name}")
    with pytest.raises(DataError, match=rf"crack/{name} has no image"):
        test_samples(tmp_path)


def test_masks_of_a_class_without_images_are_an_error(tmp_path: Path) -> None:
    touch(mvtec(tmp_path), "ground_truth/craks/0_mask.png")
    with pytest.raises(DataError, match=r"craks has masks but there is no folder test/craks"):
        test_samples(tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [("0.png", "no test folder"), ("test/0.png", "no images"), ("test/good/a.txt", "no images")],
)
def test_a_folder_without_test_images_is_an_error(tmp_path: Path, file: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        test_samples(touch(tmp_path, file))


def test_a_mask_is_true_from_the_middle_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 127, 128], [255, 1, 200]], np.uint8)).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (2, 3))
    assert mask.dtype == np.bool_ and mask.tolist() == [[False, False, True], [True, False, True]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_of_any_mode_is_read(tmp_path: Path, mode: str) -> None:
    expected = np.random.default_rng(0).random((5, 9)) > 0.5
    Image.fromarray(expected).convert(mode).save(tmp_path / "m.png")
    assert (read_mask(tmp_path / "m.png", (5, 9)) == expected).all()


def test_a_mask_of_16_bits_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (1, 2)).tolist() == [[False, True]]


def test_a_black_mask_marks_nothing(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png", (2, 3)).any()


def test_a_mask_of_class_numbers_is_an_error(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is no brighter than 1 of 255"):
        read_mask(tmp_path / "m.png", (1, 2))


def test_a_mask_of_another_size_is_an_error_that_names_both_sizes(tmp_path: Path) -> None:
    Image.new("L", (9, 5)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is 5x9 pixels and its image 9x5 \(height x width\)"):
        read_mask(tmp_path / "m.png", (9, 5))


def test_a_mask_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"m\.png is empty"):
        read_mask(touch(tmp_path, "m.png") / "m.png", (1, 1))


def test_files_folders_and_globs_expand_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.png", "b/deep/0.jpg", "b/notes.txt", "a/2.png", "a/3.bmp", "a/.4.png", "c.png")
    actual = expand([tmp_path / "c.png", str(tmp_path / "b"), f"{tmp_path}/a/*"])
    assert names(actual, tmp_path) == ["c.png", "b/1.png", "b/deep/0.jpg", "a/2.png", "a/3.bmp"]


def test_a_file_named_twice_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "a/1.png")
    actual = expand([tmp_path / "a" / "1.png", tmp_path / "a", f"{tmp_path}/*/*.png"])
    assert names(actual, tmp_path) == ["a/1.png", "a/0.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.png", ["a/0.png", "a/deep/1.png"]),
        ("a", ["a/0.png", "a/deep/1.png"]),
        ("?", ["a/0.png", "a/deep/1.png"]),
        ("a/[0-3].png", ["a/0.png"]),
        ("a/0*", ["a/0.png"]),
    ],
)
def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]) -> None:
    monkeypatch.chdir(touch(tmp_path, "a/0.png", "a/deep/1.png", "a/0.txt"))
    assert [path.as_posix() for path in expand([pattern])] == expected


def test_names_with_the_signs_of_a_glob_are_files_first(tmp_path: Path) -> None:
    touch(tmp_path, "[1]/a[0].png", "[1]/a0.png")
    assert names(expand([tmp_path / "[1]" / "a[0].png"]), tmp_path) == ["[1]/a[0].png"]
    assert names(expand([tmp_path / "[1]"]), tmp_path) == ["[1]/a0.png", "[1]/a[0].png"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    assert names(expand([touch(tmp_path, "photo.raw") / "photo.raw"]), tmp_path) == ["photo.raw"]


def test_a_name_outside_unicode_is_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert names(expand([touch(tmp_path, name)]), tmp_path) == [name]


@pytest.mark.parametrize("pattern", ["none.png", "*.jpg", "empty", "empty/*", "text/*", "a\0b", "x" * 300])
def test_an_input_without_images_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(touch(tmp_path, "0.png", "text/a.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="leads to no image") as caught:
        expand(["0.png", pattern])
    assert pattern in str(caught.value)


def test_no_inputs_are_no_images() -> None:
    assert expand([]) == []
