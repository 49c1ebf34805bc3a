"""The command line, as a user meets it: train, score, evaluate on a small folder, and what it says of mistakes."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from glance_fast import cli
from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.data.datasets import normal_images, test_samples
from glance_fast.data.images import read_image
from glance_fast.errors import ConfigError
from glance_fast.models.model import GlanceModel
from glance_fast.plan.patches import grid_starts
from glance_fast.presets import PRESETS
from tests.helpers.command_line import run_command
from tests.helpers.images import save_image
from tests.helpers.models import save_tiny, tiny_config, tiny_model
from tests.helpers.tolerances import assert_near

ROOT = Path(__file__).parents[1]
SETTINGS = """
[model]
image_size = [48, 56]
patch = 16
features = 8
local_channels = [6, 8]
global_channels = [6, 8, 8, 8]
dad_width = 8
[train]
distil_steps = 30
finetune_steps = 30
global_steps = 30
dad_steps = 30
patches_per_step = 16
images_per_step = 2
holes_per_axis = 2
false_alarm_rate = 0.25
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder in MVTec AD's layout: grey noise, defects are white squares."""
    rng = np.random.default_rng(0)
    for i in range(14):
        split = ("train", "test")[i >= 10]
        save_image(tmp_path / "data" / split / "good" / f"{i}.png", rng.integers(90, 150, (60, 70), dtype=np.uint8))
    for i in range(3):
        pixels, mask = rng.integers(90, 150, (60, 70), dtype=np.uint8), np.zeros((60, 70), np.uint8)
        pixels[20:36, 30:50], mask[20:36, 30:50] = 255, 255
        save_image(tmp_path / "data" / "test" / "square" / f"{i}.png", pixels)
        save_image(tmp_path / "data" / "ground_truth" / "square" / f"{i}_mask.png", mask)
    return tmp_path / "data"


def test_from_photographs_to_a_report(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    model, scored, judged = tmp_path / "model", tmp_path / "scored", tmp_path / "judged"
    settings = ("--preset", "paper", "--config", tmp_path / "settings.toml")
    run_command("train", data, "--model", model, *settings, "--effort", 0.1, "--set", "seed=4")
    printed = capfd.readouterr()
    assert "EfficientNet-Lite0" in printed.err
    assert "threshold" in printed.out
    config = json.loads((model / "config.json").read_text())
    assert (config["train"]["seed"], config["train"]["distil_steps"], config["model"]["patch"]) == (4, 3, 16)

    run_command("score", data / "test", "--model", model, "--output", scored)
    rows = list(csv.DictReader((scored / "scores.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in (scored / "scores.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    assert len(rows) == 7
    for row, line in zip(rows, lines, strict=True):
        assert float(row["score"]) == line["score"]
        assert read_image(Path(row["overlay"])).size > 0
    assert len({row["overlay"] for row in rows}) == 7

    run_command("evaluate", data, "--model", model, "--output", judged)
    assert "square" in capfd.readouterr().out
    assert {path.name for path in judged.iterdir()} == {"evaluation.json", "scores.csv", "report.html"}


def test_a_bad_image_among_good_ones_is_reported_and_the_rest_scored(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "model", tiny_model())
    (data / "test" / "good" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    run_command(
        "score", data / "test" / "good", "--model", model, "--output", tmp_path / "out", "--overlays", "none", status=1
    )
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [True] * 4 + [False]
    assert "broken.png" in rows[-1]["error"]
    assert "broken.png" in capfd.readouterr().err
    assert not (tmp_path / "out" / "overlays").exists()


def test_the_method_option_selects_the_loop(data: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", tiny_model())
    scores = {}
    for method in ("dense", "loop"):
        output = tmp_path / method
        options = ("-m", model, "-o", output, "--method", method, "--overlays", "none")
        run_command("score", data / "test" / "good" / "1*.png", *options)
        scores[method] = [json.loads(line)["score"] for line in (output / "scores.jsonl").read_text().splitlines()]
    for dense, loop in zip(scores["dense"], scores["loop"], strict=True):
        assert_near(dense, loop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "nowhere", "--model", "m", "--output", "o"], "nowhere leads to no image"),
        (["score", "DATA", "--model", "m", "--output", "o"], "glance-fast train"),
        (["score", "DATA", "--model", "MODEL", "--output", "o", "--backend", "magic"], "unknown backend 'magic'"),
        (["score", "DATA", "--model", "MODEL", "--output", "o", "--device", "mps"], "legal"),
        (["evaluate", "DATA/train", "--model", "MODEL", "--output", "o"], "has no test folder"),
        (["train", "DATA", "--model", "x", "--set", "patch=7"], "patch = 7"),
        (["train", "DATA", "--model", "x", "--set", "petch=8"], "legal names are"),
        (["train", "DATA", "--model", "x", "--set", "wide=8"], "setting 'wide' is now 'context_features'"),
        (["train", "DATA", "--model", "x", "--effort", "0"], "--effort must be"),
        (["train", "DATA", "--model", "MODEL"], "--overwrite"),
        (["demo", "--texture", "wool"], "brick, grass, gravel"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    arguments: list[str], message: str, data: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "MODEL", tiny_model())
    data.rename(tmp_path / "DATA")
    run_command(*arguments, status=1)
    stderr = capfd.readouterr().err
    assert message in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", typer.main.get_group(cli.app).commands)
def test_help_shows_every_text_whole(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Also what would be markup, as the tables [model] and [train]."""
    run_command(name, "--help")
    printed = " ".join(capfd.readouterr().out.split())
    command = typer.main.get_group(cli.app).commands[name]
    texts = [text for parameter in command.params if (text := getattr(parameter, "help", None))]
    assert command.help and " ".join(command.help.split()) in printed
    assert texts and all(" ".join(text.split()) in printed for text in texts)
    assert name != "train" or "[model] and [train]" in printed


@pytest.mark.parametrize("name", ["[bold]part[/bold]", "a [red] :warning: photo"])
def test_messages_print_names_as_they_are(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_command("score", tmp_path / name, "--model", "m", "--output", "o", status=1)
    assert f"error: {tmp_path / name} leads to no image" in capfd.readouterr().err
    cli.out.print(tmp_path / name, soft_wrap=True)
    assert str(tmp_path / name) in capfd.readouterr().out


def test_settings_of_the_command_override_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SETTINGS)
    model, train = cli.read_settings(tmp_path / "s.toml", ["patch=24", "precision=bf16-mixed"], 0.5, "paper")
    assert model == tiny_config(patch=24)
    assert (train.precision, train.global_steps) == ("bf16-mixed", 15)
    assert cli.read_settings(None, [], 1.0, "paper") == (ModelConfig(), TrainConfig())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_complete_model_that_settings_change(name: str) -> None:
    model, train = cli.read_settings(None, ["iad_weight=0.125", "seed=9"], 1.0, name)
    assert (model.iad_weight, train.seed) == (0.125, 9)
    assert (
        GlanceModel(model).compile_plan().locations == len(grid_starts(256, model.patch, 8, model.border_padding)) ** 2
    )


@pytest.mark.parametrize("name, billions", [("fast", 6), ("accurate", 38)])
def test_a_preset_costs_no_more_than_documented(name: str, billions: int) -> None:
    model = GlanceModel(cli.read_settings(None, [], 1.0, name)[0])
    macs = model.compile_plan().macs + model.local_macs
    assert macs + len(model.grid[0]) ** 2 * model.config.features**2 <= billions * 1e9


def test_an_unknown_preset_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ConfigError, match="legal are fast, accurate, paper"):
        cli.read_settings(None, [], 1.0, "best")


@pytest.mark.parametrize("text", ["[model", "[modell]\n", "model = 3\n", "[model]\npetch = 3\n"])
def test_a_settings_file_that_is_wrong_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"s\.toml"):
        cli.read_settings(tmp_path / "s.toml", [], 1.0)


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glance_fast", "--version"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("glance-fast ")


def test_the_demos_data_is_in_the_layout_and_shares_no_crop(tmp_path: Path) -> None:
    from glance_fast.commands.demo import DEFECTS, TEST_CROPS, TRAIN_CROPS, make_data

    make_data(tmp_path, "gravel")
    assert len(normal_images(tmp_path)) == TRAIN_CROPS
    samples = test_samples(tmp_path)
    assert len(samples) == TEST_CROPS * (1 + len(DEFECTS))
    assert all(np.asarray(Image.open(mask)).any() for s in samples for mask in s.masks)


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("glance-fast ")]


def test_the_readme_shows_every_command() -> None:
    assert {shlex.split(line)[1] for line in readme_commands()} >= {"train", "score", "evaluate", "demo"}


@pytest.mark.parametrize("line", readme_commands())
def test_a_command_of_the_readme_is_understood(line: str) -> None:
    group = typer.main.get_group(cli.app)
    words = shlex.split(line, comments=True)
    command = group.commands[words[1]]
    command.make_context(words[1], words[2:])
