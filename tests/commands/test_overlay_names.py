"""Names of overlays: unique, readable, and never longer than the file system allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glance_fast.commands.overlay_names import distinct_name, fitted, longest_name, overlay_names


def names(tmp_path: Path, *paths: str) -> list[str]:
    return list(overlay_names([tmp_path / path for path in paths], tmp_path))


def test_names_are_the_paths_below_the_common_folder(tmp_path: Path) -> None:
    assert names(tmp_path, "a/x.png", "b/x.png", "x.png") == ["a_x.jpg", "b_x.jpg", "x.jpg"]
    assert names(tmp_path, "a/x.png") == ["x.jpg"]


def test_paths_that_join_to_one_name_are_numbered_also_where_case_does_not_count(tmp_path: Path) -> None:
    assert names(tmp_path, "a/b.png", "a_b.png", "A_b.png", "a_b.jpg") == [
        "a_b.jpg",
        "a_b_2.jpg",
        "A_b_3.jpg",
        "a_b_4.jpg",
    ]


@pytest.mark.parametrize("stem", ["d" * 300, "木" * 100, "é" * 300, os.fsdecode(b"\xff" * 300)])
@pytest.mark.parametrize("longest", [60, 143, 255])
def test_a_long_name_is_cut_between_characters_and_ends_in_a_hash(stem: str, longest: int) -> None:
    name, other = fitted(stem, longest), fitted(stem + "2", longest)
    assert longest - 3 <= len(os.fsencode(name)) <= longest or not stem.isprintable()
    assert name != other and name.endswith(".jpg")
    name.encode("utf-8")


def test_a_name_that_just_fits_stays(tmp_path: Path) -> None:
    assert longest_name(tmp_path) == 255
    assert fitted("d" * 251, 255) == "d" * 251 + ".jpg" != fitted("d" * 252, 255)
    assert len(distinct_name("d" * 251 + ".jpg", "0" * 64, tmp_path)) == 255


def test_a_deep_folder_leaves_less_for_a_name(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3700:
        deep = deep / ("x" * 99)
    deep = deep / ("y" * (3950 - len(str(deep)) - 1))
    deep.mkdir(parents=True)
    assert longest_name(deep) == 4096 - 3950 - 20
