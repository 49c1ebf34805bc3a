"""Data folders: which file is what, and an error that names the file for every folder that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from glance_fast.data.datasets import Sample, normal_images, test_samples
from glance_fast.errors import DataError
from tests.helpers.images import empty_files, relative_names


@pytest.mark.parametrize("subfolder", ["train/good/", "train/", ""])
def test_normal_images_are_found_in_every_layout_sorted(tmp_path: Path, subfolder: str) -> None:
    files = [f"{subfolder}{name}" for name in ("b.png", "a.JPG", "c.tiff", ".hidden.png", "notes.txt", "deep/d.png")]
    assert relative_names(normal_images(empty_files(tmp_path, *files)), tmp_path) == [
        f"{subfolder}a.JPG",
        f"{subfolder}b.png",
        f"{subfolder}c.tiff",
        f"{subfolder}deep/d.png",
    ]


def test_test_images_are_never_trained_on(tmp_path: Path) -> None:
    empty_files(tmp_path, "train/good/0.png", "train/bad/1.png", "test/good/2.png", "test/crack/3.png", "4.png")
    assert relative_names(normal_images(tmp_path), tmp_path) == ["train/good/0.png"]


@pytest.mark.parametrize("file", ["notes.txt", "train/good/notes.txt", "train/notes.txt", "train/good/x.png/y.txt"])
def test_a_folder_without_normal_images_is_an_error(tmp_path: Path, file: str) -> None:
    with pytest.raises(DataError, match="holds no images") as caught:
        normal_images(empty_files(tmp_path, file))
    assert str(tmp_path) in str(caught.value)


def test_an_empty_train_folder_is_not_passed_over(tmp_path: Path) -> None:
    (empty_files(tmp_path, "0.png") / "train").mkdir()
    with pytest.raises(DataError, match=r"train holds no images"):
        normal_images(tmp_path)


@pytest.mark.parametrize("find", [normal_images, test_samples])
def test_what_is_no_folder_is_an_error(tmp_path: Path, find: object) -> None:
    assert callable(find)
    empty_files(tmp_path, "file.png")
    with pytest.raises(DataError, match=r"none does not exist"):
        find(tmp_path / "none")
    with pytest.raises(DataError, match=r"file\.png is a file"):
        find(tmp_path / "file.png")


def mvtec(folder: Path) -> Path:
    return empty_files(
        folder,
        *("test/good/1.png", "test/good/0.png", "test/crack/0.png", "test/crack/1.jpg", "test/notes.txt"),
        *("ground_truth/crack/0_mask.png", "ground_truth/crack/1_mask.png"),
    )


def test_samples_have_their_class_and_mask(tmp_path: Path) -> None:
    test, masks = mvtec(tmp_path) / "test", tmp_path / "ground_truth" / "crack"
    assert test_samples(tmp_path) == [
        Sample(test / "crack" / "0.png", "crack", (masks / "0_mask.png",)),
        Sample(test / "crack" / "1.jpg", "crack", (masks / "1_mask.png",)),
        Sample(test / "good" / "0.png", "good"),
        Sample(test / "good" / "1.png", "good"),
    ]
    assert [sample.is_normal for sample in test_samples(tmp_path)] == [False, False, True, True]


def test_a_class_without_a_mask_folder_has_no_masks(tmp_path: Path) -> None:
    empty_files(mvtec(tmp_path), "test/hole/0.png")
    assert {sample.masks for sample in test_samples(tmp_path) if sample.defect == "hole"} == {()}


def test_masks_of_normal_images_are_not_used(tmp_path: Path) -> None:
    empty_files(mvtec(tmp_path), "ground_truth/good/0_mask.png")
    assert {sample.masks for sample in test_samples(tmp_path) if sample.is_normal} == {()}


def test_a_missing_mask_is_an_error_that_names_image_and_mask(tmp_path: Path) -> None:
    (mvtec(tmp_path) / "ground_truth" / "crack" / "1_mask.png").unlink()
    with pytest.raises(DataError, match=r"crack/1\.jpg has no mask .*ground_truth/crack/1_mask\.png"):
        test_samples(tmp_path)


@pytest.mark.parametrize("name", ["7_mask.png", "7.png", "7/0.png", "0/deep/0.png"])
def test_a_mask_without_its_image_is_an_error(tmp_path: Path, name: str) -> None:
    empty_files(mvtec(tmp_path), f"ground_truth/crack/{name}")
    with pytest.raises(DataError, match=rf"crack/{name} has no image"):
        test_samples(tmp_path)


@pytest.mark.parametrize(
    "masks",
    [
        ["crack/0_mask.png", "crack/1_mask.jpg"],
        ["crack/0.bmp", "crack/1.PNG"],
        ["crack/0_MASK.tiff", "crack/1/000.png", "crack/1/001.png"],
    ],
)
def test_masks_are_found_as_users_name_them(tmp_path: Path, masks: list[str]) -> None:
    empty_files(tmp_path, "test/crack/0.png", "test/crack/1.jpg", *(f"ground_truth/{mask}" for mask in masks))
    expected = [{mask for mask in masks if mask.startswith(f"crack/{stem}")} for stem in "01"]
    actual = [set(relative_names(s.masks, tmp_path / "ground_truth")) for s in test_samples(tmp_path)]
    assert actual == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["test/crack/0.png", "ground_truth/crack/0.png", "ground_truth/crack/0_mask.png"], "0.png has several masks"),
        (["test/crack/0.png", "ground_truth/crack/0.png", "ground_truth/crack/0/1.png"], "0.png has several masks"),
        (["test/crack/0.png", "test/crack/0.jpg", "ground_truth/crack/0.png"], "would have the same mask"),
        (["test/crack/0.png", "test/crack/0_mask.png", "ground_truth/crack/0_mask.png"], "could belong to"),
        (["test/crack/0.png", "test/crack/masks/0.png"], "put masks into .*ground_truth/crack"),
    ],
)
def test_masks_that_could_mean_two_things_are_an_error(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        test_samples(empty_files(tmp_path, *files))


def test_masks_lie_in_folders_as_their_images_do(tmp_path: Path) -> None:
    empty_files(tmp_path, "test/crack/monday/0.png", "ground_truth/crack/monday/0_mask.png")
    (sample,) = test_samples(tmp_path)
    assert relative_names(sample.masks, tmp_path) == ["ground_truth/crack/monday/0_mask.png"]


def test_normal_images_may_be_called_ok(tmp_path: Path) -> None:
    empty_files(tmp_path, "train/ok/0.bmp", "test/ok/1.bmp", "test/ko/2.bmp", "ground_truth/ko/2.png")
    assert relative_names(normal_images(tmp_path), tmp_path) == ["train/ok/0.bmp"]
    assert [(sample.defect, sample.is_normal, len(sample.masks)) for sample in test_samples(tmp_path)] == [
        ("ko", False, 1),
        ("good", True, 0),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["0.png", "test/good/1.png"], "has a folder test but no folder train"),
        (["0.png", "ground_truth/crack/1.png"], "has a folder ground_truth but no folder train"),
        (["train/good/0.png", "train/OK/1.png"], "both hold normal images"),
        (["0.png", "Bad/1.png"], "Bad is among the normal images"),
        (["train/a/0.png", "train/a/masks/0.png"], "masks is among the normal images"),
        (["Data/Images/Normal/0.JPG", "Data/Images/Scratch/1.JPG"], "name .*Normal to train on its images alone"),
    ],
)
def test_images_that_may_not_be_normal_are_not_trained_on(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        normal_images(empty_files(tmp_path, *files))


def test_hidden_and_system_folders_are_no_classes(tmp_path: Path) -> None:
    hidden = [
        f"{split}/{name}/0.png" for split in ("test", "ground_truth") for name in (".ipynb_checkpoints", "@eaDir")
    ]
    empty_files(mvtec(tmp_path), *hidden, "test/crack/.thumbnails/0.png", "ground_truth/crack/._0_mask.png")
    assert {sample.defect for sample in test_samples(tmp_path)} == {"good", "crack"}
    assert len(test_samples(tmp_path)) == 4


def test_a_file_of_two_classes_is_an_error(tmp_path: Path) -> None:
    (mvtec(tmp_path) / "test" / "good" / "2.png").symlink_to(tmp_path / "test" / "crack" / "0.png")
    with pytest.raises(DataError, match="are one file, of the classes crack and good"):
        test_samples(tmp_path)


def test_images_outside_of_classes_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="glance_fast"):
        test_samples(empty_files(mvtec(tmp_path), "test/2.png", "ground_truth/2.png"))
    assert "beside the folders of classes: 2" in caplog.text


def test_masks_of_a_class_without_images_are_an_error(tmp_path: Path) -> None:
    empty_files(mvtec(tmp_path), "ground_truth/craks/0_mask.png")
    with pytest.raises(DataError, match=r"craks has masks but there is no folder test/craks"):
        test_samples(tmp_path)


@pytest.mark.parametrize(
    ("file", "words"),
    [("0.png", "no test folder"), ("test/0.png", "no images"), ("test/good/a.txt", "no images")],
)
def test_a_folder_without_test_images_is_an_error(tmp_path: Path, file: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        test_samples(empty_files(tmp_path, file))
