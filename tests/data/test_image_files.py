"""Which files are images: folders, globs, links, hidden names, and the account of what is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glance_fast.data.datasets import expand, normal_images, test_samples
from glance_fast.errors import DataError
from tests.helpers.images import empty_files, relative_names


def test_files_folders_and_globs_expand_in_their_order(tmp_path: Path) -> None:
    empty_files(tmp_path, "b/1.png", "b/deep/0.jpg", "b/notes.txt", "a/2.png", "a/3.bmp", "a/.4.png", "c.png")
    actual = expand([tmp_path / "c.png", str(tmp_path / "b"), f"{tmp_path}/a/*"])
    assert relative_names(actual, tmp_path) == ["c.png", "b/1.png", "b/deep/0.jpg", "a/2.png", "a/3.bmp"]


def test_a_file_named_twice_is_listed_once(tmp_path: Path) -> None:
    empty_files(tmp_path, "a/0.png", "a/1.png")
    actual = expand([tmp_path / "a" / "1.png", tmp_path / "a", f"{tmp_path}/*/*.png"])
    assert relative_names(actual, tmp_path) == ["a/1.png", "a/0.png"]


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
    monkeypatch.chdir(empty_files(tmp_path, "a/0.png", "a/deep/1.png", "a/0.txt"))
    assert [path.as_posix() for path in expand([pattern])] == expected


def test_names_with_the_signs_of_a_glob_are_files_first(tmp_path: Path) -> None:
    empty_files(tmp_path, "[1]/a[0].png", "[1]/a0.png")
    assert relative_names(expand([tmp_path / "[1]" / "a[0].png"]), tmp_path) == ["[1]/a[0].png"]
    assert relative_names(expand([tmp_path / "[1]"]), tmp_path) == ["[1]/a0.png", "[1]/a[0].png"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    assert relative_names(expand([empty_files(tmp_path, "photo.raw") / "photo.raw"]), tmp_path) == ["photo.raw"]


def test_a_name_outside_unicode_is_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert relative_names(expand([empty_files(tmp_path, name)]), tmp_path) == [name]


@pytest.mark.parametrize("pattern", ["none.png", "*.jpg", "empty", "empty/*", "text/*", "a\0b", "x" * 300])
def test_an_input_without_images_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.chdir(empty_files(tmp_path, "0.png", "text/a.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="leads to no image") as caught:
        expand(["0.png", pattern])
    assert pattern in str(caught.value)


def test_no_inputs_are_no_images() -> None:
    assert expand([]) == []


def line(folder: Path) -> Path:
    """A folder with an image, a link to an image elsewhere, a broken link, and a link to a folder elsewhere."""
    empty_files(folder, "line/today/c.png", "store/day/a.png", "store/day/b.png")
    (folder / "line" / "link.png").symlink_to("../store/day/a.png")
    (folder / "line" / "broken.png").symlink_to("nowhere.png")
    (folder / "line" / "yesterday").symlink_to("../store/day")
    return folder / "line"


@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/**", "/*"])
def test_links_are_followed_and_broken_ones_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    folder = line(tmp_path)
    actual = relative_names(expand([f"{folder}{pattern}"]), folder)
    assert actual == ["link.png", "today/c.png", "yesterday/a.png", "yesterday/b.png"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "4 images" in record.message and f"broken links: 1 ({folder}/broken.png)" in record.message


@pytest.mark.parametrize("pattern", ["", "/**/*.png", "/**", "/*", "/*/a.png", "/day/*"])
def test_loops_of_links_end(tmp_path: Path, pattern: str) -> None:
    folder = empty_files(tmp_path, "line/day/a.png", "other.png") / "line"
    for name, target in {"up": "..", "self": ".", "day/first": "..", "day/second": "../day", "knot": "knot"}.items():
        (folder / name).symlink_to(target)
    assert relative_names(expand([f"{folder}{pattern}"]), folder) == ["day/a.png"]


def test_a_link_to_an_image_of_the_same_folder_is_that_image(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "a.png", "deep/b.png")
    (folder / "0.png").symlink_to("a.png")
    (folder / "deep" / "1.png").symlink_to("../a.png")
    (folder / "again").symlink_to("deep")
    for pattern in ("", "/**/*.png", "/**"):
        assert relative_names(expand([f"{folder}{pattern}"]), folder) == ["a.png", "deep/b.png"]


def test_links_into_a_hidden_folder_are_images(tmp_path: Path) -> None:
    """As some tools for large files keep them."""
    folder = empty_files(tmp_path, ".objects/1.png", ".objects/2.png")
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").symlink_to(f".objects/{1 if name == 'a' else 2}.png")
    assert relative_names(expand([folder]), folder) == ["a.png", "b.png"]


HIDDEN = [".ipynb_checkpoints/a.png", ".Trash-1000/files/a.png", "@eaDir/a.png/S.png", "$RECYCLE.BIN/x.png"]
HIDDEN += ["$Recycle.Bin/x.png", "System Volume Information/a.png", "__MACOSX/a.png", "lost+found/a.png", "._a.png"]


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/**/*.png", "/*.png"])
def test_hidden_and_system_names_are_passed_over_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    folder = empty_files(tmp_path, "a.png", *HIDDEN)
    with caplog.at_level("INFO", logger="glance_fast"):
        assert relative_names(expand([f"{folder}{pattern}"]), folder) == ["a.png"]
    assert "1 images. Left out: hidden or of the system: " in caplog.text


def test_a_system_folder_that_a_shell_names_is_passed_over(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, "a.png", *HIDDEN)
    with pytest.raises(DataError, match="leads to no image"):
        expand([folder / "a.png", folder / "@eaDir"])


def test_a_hidden_file_or_folder_that_is_named_is_taken(tmp_path: Path) -> None:
    folder = empty_files(tmp_path, ".a.png", ".b/c.png")
    assert relative_names(expand([folder / ".a.png", folder / ".b", f"{folder}/.b/*"]), folder) == [
        ".a.png",
        ".b/c.png",
    ]


def test_all_doors_take_the_same_images_of_a_folder(tmp_path: Path) -> None:
    folder = line(tmp_path)
    empty_files(folder, "deep/er/d.jpg", "notes.txt", ".hidden.png", "@eaDir/c.png/e.png")
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "crack").symlink_to(folder)
    expected = relative_names(expand([folder]), folder)
    assert len(expected) == 5
    assert relative_names(normal_images(folder), folder) == expected
    samples = [sample.path for sample in test_samples(tmp_path / "data")]
    assert relative_names(samples, tmp_path / "data" / "test" / "crack") == expected


def test_what_is_left_out_is_reported_in_a_single_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = empty_files(tmp_path, "a.png", "b.dcm", "c.DCM", "d", "Thumbs.db")
    os.mkfifo(folder / "pipe.png")
    with caplog.at_level("INFO", logger="glance_fast"):
        expand([folder, f"{folder}/*"])
    (record,) = caplog.records
    assert record.levelname == "INFO"
    for part in ("no regular files: 1 (", "of other suffixes: 3 (.DCM, .dcm, none)", "hidden or of the system: 1 ("):
        assert part in record.message


def test_nothing_is_reported_where_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="glance_fast"):
        expand([empty_files(tmp_path, "a.png", "b/c.png")])
    assert caplog.records == []


def test_what_this_program_drew_is_no_photograph(tmp_path: Path) -> None:
    drawn = ("scored/overlays/a.jpg", "scored/scores.jsonl", "model/curves.png", "model/log.jsonl")
    folder = empty_files(tmp_path, "a.png", *drawn, "mine/overlays/b.png", "mine/curves.png")
    expected = ["a.png", "mine/curves.png", "mine/overlays/b.png"]
    for pattern in ("", "/**/*.*g"):
        assert relative_names(expand([f"{folder}{pattern}"]), folder) == expected
    assert relative_names(normal_images(folder), folder) == expected


def test_a_broken_link_that_is_named_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("nowhere.png")
    assert expand([tmp_path / "a.png"]) == [tmp_path / "a.png"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scandir = empty_files(tmp_path, "a.png", "locked/b.png"), os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="locked cannot be read: Permission denied"):
        expand([folder])


def test_an_error_says_what_was_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leads to no image .*Left out: of other suffixes: 1 \(\.dcm\)"):
        expand([empty_files(tmp_path, "a.dcm")])
