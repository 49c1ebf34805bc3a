"""Layouts of data sets: a plain folder of normal images, MVTec AD's layout and its relatives; files and globs to score.

`glance_fast.data.image_files` is the rule by which a folder's images are found, `glance_fast.data.masks` that of masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from pathlib import Path

from glance_fast.data.image_files import ImageSearch
from glance_fast.data.images import IMAGE_SUFFIXES
from glance_fast.data.masks import masks_of
from glance_fast.errors import DataError

NORMAL = "good"
# Names of folders, in any case, that say what their images are: normal, defective, or masks.
NORMAL_NAMES = frozenset({NORMAL, "normal", "ok"})
DEFECTIVE_NAMES = frozenset(
    {"anomalies", "anomalous", "anomaly", "bad", "defect", "defective", "defects", "ko", "ng", "nok", "rejects"}
)
MASK_NAMES = frozenset({"ground_truth", "gt", "mask", "masks"})


@dataclass(frozen=True)
class Sample:
    """A test image, its class ("good" if normal) and the paths of its masks, which mark its defects together."""

    path: Path
    defect: str
    masks: tuple[Path, ...] = ()

    @property
    def is_normal(self) -> bool:
        """Whether the image shows no defect."""
        return self.defect == NORMAL


def normal_images(folder: Path) -> list[Path]:
    """The normal images to train on, sorted: those below `train/good`, else `train`, else `folder`, at any depth.

    Raises DataError for a missing folder, one without images, and one whose subfolders' names say that it holds other
    images than normal ones. Logs what is left out.
    """
    _require_folder(folder)
    search = ImageSearch()
    directory = _normal_folder(folder, search)
    paths = search.images(directory)
    if not paths:
        raise DataError(
            f"{directory} holds no images ({_suffixes()}); put normal photographs into "
            f"{folder / 'train' / NORMAL}, or name a folder that holds them{search.left_out()}"
        )
    _require_normal(paths, directory)
    search.report(directory, len(paths))
    return paths


def test_samples(folder: Path) -> list[Sample]:
    """All test images of MVTec AD's layout and its relatives: `test/<class>`, masks in `ground_truth/<class>`.

    A class without a `ground_truth` folder has no masks. Raises DataError for a missing folder, an image without
    its mask, a mask without its image, and an image in two classes. Logs what is left out.
    """
    _require_folder(folder)
    if not (folder / "test").is_dir():
        raise DataError(f"{folder} has no test folder; MVTec AD's layout has test/{NORMAL} and test/<defect>")
    search = ImageSearch()
    classes = search.subfolders(folder / "test")
    masks = folder / "ground_truth"
    _require_classes(classes, masks, search)
    samples = [sample for directory in classes for sample in _samples_in(directory, masks / directory.name, search)]
    if not samples:
        raise DataError(f"{folder / 'test'} holds no images in folders {NORMAL} and <defect>{search.left_out()}")
    _require_one_class(samples)
    search.report(folder / "test", len(samples))
    return samples


test_samples.__test__ = False  # type: ignore[attr-defined]  # its name is the field's; pytest must not collect it


def expand(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files of paths, folders (searched to any depth) and globs, each once, in the order of `inputs`.

    A file that is named is taken whatever its suffix; a broken link too, so that it is reported like any other image
    that cannot be read. Raises DataError naming an input that leads to no image. Logs what is left out.
    """
    search, unique, resolved = ImageSearch(), dict[str, Path](), cache(os.path.realpath)
    inputs = list(inputs)
    for pattern in inputs:
        paths = _expand(pattern, search)
        if not paths:
            raise DataError(f"{pattern} leads to no image ({_suffixes()}); check the path{search.left_out()}")
        for path in paths:
            unique.setdefault(os.path.join(resolved(path.parent), path.name), path)
    search.report(", ".join(map(str, inputs[:2])) + (", ..." if len(inputs) > 2 else ""), len(unique))
    return list(unique.values())


def _expand(pattern: str | Path, search: ImageSearch) -> list[Path]:
    path = Path(pattern)
    if os.path.isdir(path):  # unlike Path.is_dir, no OSError for a name that is too long
        return [] if search.is_system(path) else search.images(path)
    if os.path.lexists(path):
        return [path]
    return search.glob(str(pattern)) if has_magic(str(pattern)) else []


def _normal_folder(folder: Path, search: ImageSearch) -> Path:
    """The folder whose images are to be trained on."""
    train = folder / "train"
    if not train.is_dir():
        other = next((name for name in ("test", "ground_truth") if (folder / name).is_dir()), None)
        if other is not None:
            raise DataError(
                f"{folder} has a folder {other} but no folder train; put the normal photographs into "
                f"{train / NORMAL}, or name the folder that holds them"
            )
        return folder
    normal = [path for path in ImageSearch().subfolders(train) if path.name.casefold() in NORMAL_NAMES]
    if len(normal) > 1:
        raise DataError(f"{normal[0]} and {normal[1]} both hold normal images; put them into one folder")
    return normal[0] if normal else train


def _require_normal(paths: Sequence[Path], folder: Path) -> None:
    """Raise DataError if names of folders below `folder` say that it holds other images than normal ones."""
    kinds = dict[str, Path]()
    for path in paths:
        names = {part.casefold() for part in path.relative_to(folder).parts[:-1]}
        if names & (DEFECTIVE_NAMES | MASK_NAMES):
            raise DataError(
                f"{path.parent} is among the normal images of {folder}, and its name says that it holds defects or "
                "masks; name the folder of the normal images"
            )
        kinds.setdefault("normal" if names & NORMAL_NAMES else "other", path.parent)
    if len(kinds) > 1:
        raise DataError(
            f"{kinds['normal']} holds normal images by its name, {kinds['other']} does not; "
            f"name {kinds['normal']} to train on its images alone"
        )


def _samples_in(directory: Path, masks: Path, search: ImageSearch) -> list[Sample]:
    """The samples of a class; its name is that of its `directory`."""
    images = search.images(directory)
    for path in images:
        if any(part.casefold() in MASK_NAMES for part in path.relative_to(directory).parts[:-1]):
            raise DataError(f"{path.parent} lies among test images; put masks into {masks}")
    if directory.name.casefold() in NORMAL_NAMES:
        return [Sample(path, NORMAL) for path in images]
    if not masks.is_dir():
        return [Sample(path, directory.name) for path in images]
    assigned = masks_of(images, directory, search.images(masks), masks)
    return [Sample(path, directory.name, assigned[path]) for path in images]


def _require_classes(classes: Sequence[Path], masks: Path, search: ImageSearch) -> None:
    """Raise DataError for masks of a class without images: the class is misspelt or missing."""
    names = {directory.name for directory in classes}
    for directory in search.subfolders(masks):
        if directory.name not in names and ImageSearch().images(directory):
            raise DataError(
                f"{directory} has masks but there is no folder test/{directory.name}; add it, or take the masks out"
            )


def _require_one_class(samples: Sequence[Sample]) -> None:
    """Raise DataError for a file that is in two classes, through a link."""
    by_file = dict[str, Sample]()
    for sample in samples:
        other = by_file.setdefault(os.path.realpath(sample.path), sample)
        if other.defect != sample.defect:
            raise DataError(
                f"{other.path} and {sample.path} are one file, of the classes {other.defect} and {sample.defect}; "
                "take it out of one of them"
            )


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        fault = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {fault}; give a folder of images, or one in MVTec AD's layout")


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))
