"""The output folder of `glance-fast score` is never read as input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.command_line import run_command
from tests.helpers.images import save_images


def test_repeated_runs_score_the_same_images(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path / "in", 2)
    for output in ("in/found", "in/found", "in/found2"):
        run_command("score", tmp_path / "in", "--model", tiny_folder, "--output", tmp_path / output)
        assert "2 images scored" in capfd.readouterr().out


def test_images_in_the_output_folder_are_left_out_and_counted(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where they are named, and where the folder is a link."""
    first, *others = save_images(tmp_path / "in", 3)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    options = ("--model", tiny_folder, "--output", tmp_path / "link")
    run_command("score", first, *others, *options, status=1)
    assert "all 3 images lie in the output folder" in capfd.readouterr().err
    other = first.rename(tmp_path / "other.png")
    run_command("-q", "score", other, tmp_path / "in", *options)
    printed = capfd.readouterr()
    assert "2 images in the output folder" in printed.err and "1 images scored" in printed.out


def test_an_evaluation_never_replaces_the_tables_of_scores(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_images(tmp_path / "in", 1)
    run_command("score", tmp_path / "in", "--model", tiny_folder, "--output", tmp_path / "out")
    table = (tmp_path / "out" / "scores.csv").read_bytes()
    run_command("evaluate", tmp_path / "in", "--model", tiny_folder, "--output", tmp_path / "out", status=1)
    assert "holds the tables of 'glance-fast score'; choose another --output" in capfd.readouterr().err
    assert (tmp_path / "out" / "scores.csv").read_bytes() == table


def test_names_that_no_terminal_can_show_are_spelled_out(
    tiny_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    [path] = save_images(tmp_path / "in", 1)
    path.with_name(os.fsdecode(b"\xff[red]\nx.png")).write_bytes(b"no image")
    output = tmp_path / os.fsdecode(b"out \xff[red]\n")
    run_command("score", tmp_path / "in", "--model", tiny_folder, "--output", output, status=1)
    printed = capfd.readouterr()
    assert r"\udcff[red]\nx.png is not an image" in printed.err
    assert (
        r"1 images scored, 1 anomalous; tables and overlays in" in printed.out and r"out \udcff[red]\n" in printed.out
    )
