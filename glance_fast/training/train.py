"""Training from a folder of normal photographs to a calibrated model folder; a killed run can be resumed."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import track

from glance_fast.backends.self_check import make_self_check
from glance_fast.config import ModelConfig, TrainConfig
from glance_fast.errors import SaveError, TrainingError
from glance_fast.models.model import GlanceModel
from glance_fast.postprocessing.anomaly_map import image_score
from glance_fast.postprocessing.calibration import Calibration, calibrate
from glance_fast.stains import default_stains
from glance_fast.storage.atomic_write import recover_folder, remove_unfinished_folders, replace_folder
from glance_fast.storage.folder_lock import LOCK, locked
from glance_fast.storage.model_folder import write_model
from glance_fast.storage.self_check import SelfCheck
from glance_fast.teachers import load_teacher
from glance_fast.training.backbone_init import initialise_from_teacher
from glance_fast.training.base_stage import Context
from glance_fast.training.calibration_grids import calibration_grids
from glance_fast.training.dataset import Split, read_split, read_usable
from glance_fast.training.log import draw_curves, read_rows
from glance_fast.training.runner import TrainingRun, run_stages
from glance_fast.training.schedule import build_stages
from glance_fast.training.usable_photos import Photos, Requirement

# Below this number of photographs, whitening by location detects clearly less surely.
FEW_PHOTOS = 50

log = logging.getLogger("glance_fast")


@dataclass(frozen=True)
class Job:
    """Input and output of a training run: `data` contains normal images, `output` becomes the model folder.

    `teacher_weights` is a file of the teacher's weights that replaces the published ones. `distil_data` is a folder of
    other images for distillation, instead of the normal ones. `calibration_data` is a folder of other normal images to
    calibrate on, instead of a held-out part of `data`. `restart` discards an unfinished run instead of resuming it;
    `overwrite` allows `output` to contain a model already.
    """

    data: Path
    output: Path
    teacher_weights: Path | None = None
    distil_data: Path | None = None
    calibration_data: Path | None = None
    restart: bool = False
    overwrite: bool = False

    @property
    def work(self) -> Path:
        """Folder of the unfinished run: `<output>.training`."""
        return self.output.with_name(f"{self.output.name}.training")


def train_model(job: Job, model_config: ModelConfig, train_config: TrainConfig) -> Calibration:
    """Train in two or four stages, calibrate on held-out normal images, and write the model folder.

    A distilled Local-Net takes the paper's four stages; a pretrained one only Global-Net's and DAD's. The same data,
    settings and number of threads give the same weights. Raises DataError, ImageError or
    ConfigError before any training, TrainingError for a run that cannot go on, SaveError when the disk refuses.
    """
    started = time.monotonic()
    _check_output(job)
    data = _read_data(job, model_config, train_config)
    fabric = _fabric(train_config)
    with _locked(job) if fabric.is_global_zero else nullcontext():
        context = _context(job, model_config, train_config, data, fabric)
        run = _open_run(job, context, data.split, fabric)
        run_stages(run, build_stages(context))
        calibration = _calibrate(context, data.split)
        if fabric.is_global_zero:
            metadata = _metadata(job, context, data.split) | {"training seconds": f"{time.monotonic() - started:.0f}"}
            _write(job, context, calibration, metadata, make_self_check(context.model, data.split.held_out[0]))
        fabric.barrier()
    return calibration


@contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Hold the locks of the unfinished run and of a model that will be replaced; raises SaveError."""
    try:
        with locked(job.work), locked(job.output) if job.output.is_dir() else nullcontext():
            yield
    finally:
        with suppress(OSError):
            job.work.rmdir()  # of a run that ended before it had anything to keep


def _check_output(job: Job) -> None:
    recover_folder(job.output)
    if job.output.exists() and not job.output.is_dir():
        raise SaveError(f"{job.output} is a file; name a folder for the model")
    if job.output.is_dir() and any(job.output.iterdir()) and not job.overwrite:
        raise SaveError(f"{job.output} is not empty; choose another folder, or --overwrite to replace what is in it")


@dataclass(frozen=True)
class _Data:
    """The normal photographs, split, and those of the distillation."""

    split: Split
    distil_photos: Photos


def _read_data(job: Job, model: ModelConfig, train: TrainConfig) -> _Data:
    split = read_split(job.data, model, train, job.calibration_data)
    if job.distil_data is None:
        return _Data(split, split.train)
    return _Data(split, read_usable(job.distil_data, model, Requirement(1, "distillation"))[0])


def _fabric(train: TrainConfig) -> Fabric:
    if train.accelerator == "cuda" and not torch.cuda.is_available():
        raise TrainingError("accelerator = 'cuda' was requested, but no CUDA device is available; use 'cpu' or 'auto'")
    fabric = Fabric(accelerator=train.accelerator, devices=train.devices, precision=train.precision)
    fabric.launch()
    return fabric


def _context(job: Job, model_config: ModelConfig, train: TrainConfig, data: _Data, fabric: Fabric) -> Context:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        model = GlanceModel(model_config).to(fabric.device)
    model.compile_plan()  # raises now, not after an hour, where a hole hides all that Global-Net reads
    teacher = load_teacher(model_config.teacher, job.teacher_weights).to(fabric.device)
    log.info("teacher: %s, %s", teacher.name, teacher.source)
    log.info("images: %d to train on, %d held out for calibration", len(data.split.train), len(data.split.held_out))
    if model_config.location_whitening and len(data.split.train) < FEW_PHOTOS:
        log.warning(
            "%d images to train on are few for the statistics of each location: defects are detected less surely than "
            "with %d and more; the false-alarm rate holds all the same", len(data.split.train), FEW_PHOTOS,
        )  # fmt: skip
    context = Context(
        model, teacher, train, data.split.train, data.split.statistics, data.distil_photos, default_stains()
    )
    initialise_from_teacher(context, lambda photos: track(photos, "fitting z_l", transient=True))
    return context


def _open_run(job: Job, context: Context, split: Split, fabric: Fabric) -> TrainingRun:
    settings = [context.model.config.model_dump(mode="json"), context.train.model_dump(mode="json")]
    inputs = json.dumps([*settings, context.teacher.source, split.fingerprint], sort_keys=True)
    distil = hashlib.sha256(context.distil_photos.data).hexdigest()
    run = TrainingRun(job.work, context.train, hashlib.sha256((inputs + distil).encode()).hexdigest(), fabric)
    if fabric.is_global_zero:
        if job.restart:
            for path in set(job.work.iterdir()) - {job.work / LOCK}:
                path.unlink()
        if run.state.exists():
            log.info("resuming the unfinished run in %s (--restart discards it)", job.work)
    fabric.barrier()
    return run


def _calibrate(context: Context, split: Split) -> Calibration:
    train, grids = context.train, calibration_grids(context, split)
    scores = [image_score(grid, context.model.config.top_k) for grid in grids]
    return calibrate(scores, grids, train.false_alarm_rate, train.pixel_false_alarm_rate)


def _metadata(job: Job, context: Context, split: Split) -> dict[str, str]:
    whitening = context.model.whitening
    pooled = {} if whitening is None else {"pooled covariance": f"{whitening.pooled_fraction:.0%}"}
    return pooled | {
        "data": job.data.resolve().name,
        "normal images": f"{len(split.train)} trained on, {len(split.held_out)} held out",
        "teacher": f"{context.teacher.name}, {context.teacher.source}",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


def _write(job: Job, context: Context, calibration: Calibration, metadata: dict[str, str], check: SelfCheck) -> None:
    log_file = job.work / "log.jsonl"
    remove_unfinished_folders(job.output)
    with replace_folder(job.output) as folder:
        write_model(folder, context.model, context.train, calibration, metadata, check)
        shutil.copyfile(log_file, folder / log_file.name)
        draw_curves(read_rows(log_file), folder / "curves.png")
    shutil.rmtree(job.work, ignore_errors=True)
