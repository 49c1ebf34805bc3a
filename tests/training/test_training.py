"""Training: reproducible, resumable after a kill at any moment, and clear about what it cannot do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.engine import Engine
from glance_fast.errors import DataError, ImageError, SaveError, TrainingError
from glance_fast.models.model import GlanceModel
from glance_fast.stains import default_stains
from glance_fast.storage.model_folder import build_model, read_model
from glance_fast.teachers import Teacher, load_teacher
from glance_fast.training import dad_stage
from glance_fast.training.base_stage import STAINED_PIXELS, Context, balanced_bce
from glance_fast.training.checkpoint import RunPosition, load_state, read_state, save_state
from glance_fast.training.dataset import fitting_size, read_photos
from glance_fast.training.distillation import FineTuningStage, compactness
from glance_fast.training.log import TrainingLog, read_rows
from glance_fast.training.runner import learning_rate
from glance_fast.training.sampling import (
    FEATURE_SCALE_STREAM,
    changed_pixels,
    corners_near,
    draw_grid_subset,
    stained_pixels,
    step_rng,
)
from glance_fast.training.schedule import build_stages
from glance_fast.training.train import Job, train_model
from tests.helpers.models import tiny_config, tiny_model

TRAIN = TrainConfig(
    seed=5, distil_steps=3, finetune_steps=3, global_steps=3, dad_steps=3, patches_per_step=16,
    images_per_step=2, holes_per_axis=2, dad_images_per_step=2,
    false_alarm_rate=0.25,
)  # fmt: skip

SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests.training.test_training import TRAIN, tiny_config
from glance_fast.training.train import Job, train_model
train_model(Job(Path(sys.argv[1]), Path(sys.argv[2])), tiny_config(), TRAIN)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of 12 normal images, grey and in colour, none of the networks' size."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(12):
        shape = (61, 70) if i % 2 else (61, 70, 3)
        Image.fromarray(rng.integers(60, 190, shape, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher()


def run(data: Path, output: Path) -> subprocess.Popen[bytes]:
    """Training in a process of its own, that can be killed."""
    command = [sys.executable, "-c", SCRIPT, str(data), str(output)]
    root = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": root}
    return subprocess.Popen(command, env=env, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    finish(run(photos, output))
    return output


def done_steps(work: Path) -> int:
    log = work / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_killed_run_goes_on_to_the_same_weights(photos: Path, trained: Path, tmp_path: Path, after: int) -> None:
    output = tmp_path / "model"
    process = run(photos, output)
    while process.poll() is None and done_steps(tmp_path / "model.training") < after:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
    assert not output.exists()
    finish(run(photos, output))
    for name in ("weights.safetensors", "calibration.json", "log.jsonl"):
        assert (output / name).read_bytes() == (trained / name).read_bytes(), name
    assert not (tmp_path / "model.training").exists()


def test_a_model_folder_holds_all_that_a_run_leaves(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {"config.json", "weights.safetensors", "calibration.json", "log.jsonl", "curves.png"}
    files = read_model(trained)
    assert files.train == TRAIN
    assert "EfficientNet-Lite0" in files.metadata["teacher"]
    rows = read_rows(trained / "log.jsonl")
    assert [row["stage"] for row in rows] == [n for n in ("distil", "fine-tune", "global", "dad") for _ in range(3)]
    assert all(np.isfinite(list(row["losses"].values())).all() for row in rows)


def test_every_stage_moved_its_own_weights_and_the_fold_held(trained: Path) -> None:
    torch.manual_seed(TRAIN.seed)
    from glance_fast.models.model import GlanceModel

    before = GlanceModel(tiny_config()).state_dict()
    after = build_model(read_model(trained)).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"local_net", "global_net", "distortion"}


def context(teacher: Teacher, train: TrainConfig = TRAIN) -> Context:
    pixels = np.random.default_rng(1).integers(40, 220, (6, 48, 56, 3), dtype=np.uint8)
    return Context(tiny_model(), teacher, train, pixels, pixels, default_stains())


def test_after_fine_tuning_the_features_have_mean_0_and_variance_1(teacher: Teacher) -> None:
    c = context(teacher)
    stage = build_stages(c)[1]
    stage.finish()
    assert isinstance(stage, FineTuningStage)
    patches = c.model.normalise(stage.patches(step_rng(TRAIN.seed, FEATURE_SCALE_STREAM, 0, 0), c.photos))
    z = c.model.local_net(patches).flatten(1)
    assert z.mean().abs() < 0.5
    assert 0.3 < z.std(0).mean() < 2


@pytest.mark.parametrize("index", range(4))
def test_a_stage_trains_its_own_parameters_alone(teacher: Teacher, index: int) -> None:
    c = context(teacher)
    stage = build_stages(c)[index]
    losses = stage(*stage.draw(step_rng(0, index, 0, 0)))
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    trained = {id(parameter) for parameter in stage.parameters()}
    everything = [*c.model.parameters(), *c.teacher.parameters()]
    assert all((p.grad is not None) == (id(p) in trained) for p in everything)
    assert all(p.grad is not None for p in stage.parameters())


def test_each_step_draws_the_same_again(teacher: Teacher) -> None:
    c = context(teacher)
    for index in range(4):
        # Stages of their own, as DAD's keeps what it drew.
        first, second, other = (build_stages(c)[index].draw(step_rng(7, index, step, 0)) for step in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], other[0])


def test_dad_learns_from_what_earlier_steps_drew_also_in_a_run_that_goes_on(teacher: Teacher) -> None:
    c = context(teacher)
    whole, resumed = build_stages(c)[3], build_stages(c)[3]
    for step in range(3):
        whole.draw(step_rng(1, 3, step, 0))
    resumed.resume([step_rng(1, 3, step, 0) for step in range(3)])
    expected, actual = (stage.draw(step_rng(1, 3, 3, 0)) for stage in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(expected, actual, strict=True))
    assert not torch.equal(expected[0], build_stages(c)[3].draw(step_rng(1, 3, 3, 0))[0])


def test_a_full_pool_forgets_the_oldest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dad_stage, "POOL_ROWS", 10)
    pool = dad_stage.SamplePool(1)
    assert len(pool.draw(5, np.random.default_rng(0))) == 0
    for first in range(0, 24, 4):
        pool.add(torch.arange(first, first + 4.0)[:, None])
    assert set(pool.draw(500, np.random.default_rng(0)).flatten().tolist()) == set(range(14, 24))


def test_a_change_belongs_to_the_location_whose_middle_is_nearest(teacher: Teacher) -> None:
    c = context(teacher)
    subset = draw_grid_subset((5, 6), 9, np.random.default_rng(0))
    mask = np.zeros((48, 56), bool)
    mask[0, 0] = mask[20:22, 30] = mask[47, 55] = True
    changed = dad_stage._changed_per_location(c, mask, subset, 0).reshape(5, 6)
    # Middles lie at 8, 16, ... and each has the 8 pixels round it; the outermost have the border too.
    assert changed[0, 0] == 1 and changed[4, 5] == 1 and changed.sum() == 4
    assert changed[2, 3] == 2
    assert dad_stage._changed_per_location(c, mask, subset, 2).reshape(5, 6)[0, 3] == 2


def test_a_change_belongs_to_the_location_whose_offset_point_is_nearest(teacher: Teacher) -> None:
    c = context(teacher)
    offset = replace(c, model=GlanceModel(c.model.config.model_copy(update={"center_offset": 3})))
    subset = draw_grid_subset((5, 6), 9, np.random.default_rng(0))
    mask = np.random.default_rng(1).random((48, 56)) < 0.2
    moved = np.pad(mask, ((3, 0), (3, 0)))[:48, :56]
    inner = (slice(1, 4), slice(1, 5))  # the outermost own the border
    expected = dad_stage._changed_per_location(c, moved, subset, 1).reshape(5, 6)[inner]
    np.testing.assert_array_equal(
        dad_stage._changed_per_location(offset, mask, subset, 1).reshape(5, 6)[inner], expected
    )


PRETRAINED = TRAIN.model_copy(update={"dad_holes_per_axis": 9, "dad_images_per_step": 3, "images_per_step": 4})


def test_a_run_with_the_pretrained_local_net_has_two_stages_and_survives_a_stop(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(60, 190, (90, 101, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    config = ModelConfig(
        local_net="pretrained", image_size=(150, 150), patch=83, stride=24, border_padding=38, location_whitening=True,
        features=6, context_features=3, global_channels=(4, 4, 4, 4), global_convs=2, dad_width=8,
    )  # fmt: skip
    train_model(Job(photos, tmp_path / "whole"), config, PRETRAINED)
    assert {row["stage"] for row in read_rows(tmp_path / "whole" / "log.jsonl")} == {"global", "dad"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dad_stage.DadStage, "finalize_statistics", _stop)
        with pytest.raises(KeyboardInterrupt):
            train_model(Job(photos, tmp_path / "halves"), config, PRETRAINED)
    train_model(Job(photos, tmp_path / "halves"), config, PRETRAINED)
    for name in ("weights.safetensors", "calibration.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "halves" / name).read_bytes()
    result = Engine.load(tmp_path / "whole").score(photos / "0.png")
    assert result.map.shape == (90, 101) and np.isfinite(result.map).all()


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_compactness_is_the_mean_absolute_off_diagonal_correlation() -> None:
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 5)) @ np.random.default_rng(1).normal(size=(5, 5)))
    correlation = np.abs(np.corrcoef(z.numpy().T))
    expected = (correlation.sum() - 5) / 20
    assert float(compactness(z)) == pytest.approx(expected, rel=1e-4)


def test_barely_stained_locations_count_as_neither_kind() -> None:
    logit = torch.tensor([2.0, 50.0, -1.0])
    changed = torch.tensor([0, STAINED_PIXELS - 1, STAINED_PIXELS])
    normal, stained = balanced_bce(logit, changed)
    assert float(normal) == pytest.approx(np.log1p(np.exp(-2.0)), rel=1e-5)
    assert float(stained) == pytest.approx(np.log1p(np.exp(-1.0)), rel=1e-5)


def test_stained_pixels_counts_what_slicing_counts() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((37, 53)) < 0.3
    corners = np.array([(0, 0), (21, 37), (5, 9), (21, 0)])
    assert stained_pixels(mask, corners, 16).tolist() == [int(mask[y : y + 16, x : x + 16].sum()) for y, x in corners]


def test_corners_near_a_mask_hold_some_of_it() -> None:
    mask = np.zeros((40, 50), bool)
    mask[0, 0] = mask[39, 49] = True
    corners = corners_near(mask, 16, 200, np.random.default_rng(0))
    assert (stained_pixels(mask, corners, 16) >= 1).all()
    assert corners.min() >= 0
    assert (corners.max(0) <= (24, 34)).all()


def test_a_grid_subset_is_the_product_of_distinct_rows_and_columns() -> None:
    subset = draw_grid_subset((4, 6), 3, np.random.default_rng(0))
    assert len(set(subset.rows)) == len(set(subset.cols)) == 3
    assert subset.indices.tolist() == [y * 6 + x for y in subset.rows for x in subset.cols]
    assert draw_grid_subset((4, 6), 9, np.random.default_rng(0)).indices.tolist() == list(range(24))


def test_changed_pixels_counts_what_slicing_counts() -> None:
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    rows, cols = np.array([(0, 9), (5, 37), (8, 8)]), np.array([(0, 53), (52, 53)])
    expected = [mask[a:b, c:d].sum() for a, b in rows for c, d in cols]
    assert changed_pixels(mask, rows, cols).tolist() == expected


def test_the_learning_rate_warms_up_and_ends_at_a_hundredth() -> None:
    rates = [learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1.0
    assert rates[-1] < 0.02
    assert learning_rate(1.0, 0, 1) == 1.0


def test_the_log_drops_what_will_run_again_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"stage": "a", "stage_index": 0, "step": step, "losses": {}} for step in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "a", "st')
    TrainingLog(path, 0, 2)
    assert [row["step"] for row in read_rows(path)] == [0, 1]


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    optimizers = [torch.optim.AdamW(net.parameters()) for net in nets]
    nets[0](torch.ones(1, 3)).sum().backward()
    optimizers[0].step()
    save_state(tmp_path / "state", RunPosition(1, 7, "x"), nets[0], optimizers[0])
    position, tensors = read_state(tmp_path / "state")
    load_state(tensors, nets[1], optimizers[1])
    assert position == RunPosition(1, 7, "x")
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
        for name, value in optimizers[0].state[a].items():
            assert torch.equal(value, optimizers[1].state[b][name])


def test_a_state_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    path, net = tmp_path / "state", nn.Linear(3, 2)
    save_state(path, RunPosition(0, 1, "x"), net, torch.optim.AdamW(net.parameters()))
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(TrainingError, match="state is damaged"):
            read_state(path)


def test_an_unfinished_run_of_other_settings_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    net = nn.Linear(1, 1)
    save_state(work / "state.safetensors", RunPosition(0, 1, "other"), net, torch.optim.AdamW(net.parameters()))
    with pytest.raises(TrainingError, match="--restart"):
        train_model(Job(photos, tmp_path / "model"), tiny_config(), TRAIN)
    train_model(Job(photos, tmp_path / "model", restart=True), tiny_config(), TRAIN)
    assert read_model(tmp_path / "model").model == tiny_config()


def test_an_unfinished_run_of_version_0_1_0_is_refused(photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "model.training"
    work.mkdir()
    position = json.dumps({"stage": 0, "step": 1, "fingerprint": "x"})
    save_file({"module.weight": torch.zeros(1)}, work / "state.safetensors", metadata={"place": position})
    with pytest.raises(
        TrainingError, match="of an earlier version of glance_fast; finish it with that version, or use"
    ):
        train_model(Job(photos, tmp_path / "model"), tiny_config(), TRAIN)


def test_a_model_that_is_there_is_not_replaced_unasked(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("x")
    with pytest.raises(SaveError, match="--overwrite"):
        train_model(Job(photos, tmp_path / "model"), tiny_config(), TRAIN)
    assert (tmp_path / "model" / "precious").read_text() == "x"


def test_bad_data_fails_before_any_training(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="false-alarm rate"):
        train_model(Job(photos, tmp_path / "m"), tiny_config(), TRAIN.model_copy(update={"false_alarm_rate": 0.01}))
    with pytest.raises(DataError, match="does not exist"):
        train_model(Job(tmp_path / "none", tmp_path / "m"), tiny_config(), TRAIN)
    large = ModelConfig(patch=64)
    with pytest.raises(DataError, match="smaller than one 64x64 patch"):
        train_model(Job(photos, tmp_path / "m"), large, TRAIN)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no image")
    with pytest.raises((ImageError, DataError), match="bad"):
        train_model(Job(bad, tmp_path / "m"), tiny_config(), TRAIN)
    assert not (tmp_path / "m.training").exists()


@pytest.mark.parametrize(
    ("shapes", "better"),
    [
        ([(480, 640), (240, 322)], (192, 256)),
        ([(1000, 300)], (256, 80)),
        ([(50, 1000)], (32, 256)),  # not smaller than a patch
        ([(480, 640), (640, 480)], None),
        ([(500, 512)], None),
    ],
)
def test_images_of_one_aspect_are_told_of_a_size_that_has_it(
    shapes: list[tuple[int, int]], better: tuple[int, int] | None
) -> None:
    assert fitting_size(shapes, ModelConfig()) == better


def test_the_better_size_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.zeros((60, 120, 3), np.uint8)).save(tmp_path / "wide.png")
    with caplog.at_level("INFO", logger="glance_fast"):
        read_photos([tmp_path / "wide.png"], tiny_config(image_size=(48, 48)))
    assert "--set 'image_size=[24, 48]' has it too, and costs 50% less" in caplog.text


def test_calibration_images_of_their_own_are_used_instead_of_held_out_ones(photos: Path, tmp_path: Path) -> None:
    job = Job(photos, tmp_path / "model", calibration_data=photos)
    assert len(train_model(job, tiny_config(), TRAIN).scores) == 12
    assert read_model(tmp_path / "model").metadata["normal images"] == "12 trained on, 12 held out"


def test_two_processes_share_a_step(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.replace("TRAIN)", "TRAIN.model_copy(update={'devices': 2}))"))
    root = str(Path(__file__).parents[2])
    command = [sys.executable, str(script), str(photos), str(tmp_path / "model")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": root}, cwd=root, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert read_model(tmp_path / "model").train.devices == 2
