"""The command line `glance-fast`: train, score, evaluate, export, bench, demo."""

from __future__ import annotations

import logging
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from glance_fast.config import ModelConfig, TrainConfig, checked, renamed
from glance_fast.data.text import printable
from glance_fast.errors import ConfigError, GlanceError, install_hint
from glance_fast.presets import DEFAULT, PRESETS, preset as preset_tables
from glance_fast.storage.atomic_write import append_file
from glance_fast.version import __version__

app = typer.Typer(
    help="Detect and locate defects in photographs with a model trained on normal photographs alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text, in which [model] is no markup
)

# Texts are printed as they are: paths and settings may hold what rich would take for markup or an emoji.
out = Console(markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)

ModelFolder = Annotated[Path, typer.Option("--model", "-m", help="The model folder.")]
Backend = Annotated[str, typer.Option(help="Backend: auto, torch, cuda, openvino, onnxruntime or tensorrt.")]
Precision = Annotated[str, typer.Option(help="Precision of the export to run: fp32, bf16, fp16 or int8.")]
Device = Annotated[str, typer.Option(help="Device: cpu, cuda or cuda:<index>.")]
Method = Annotated[str, typer.Option(help="dense, or loop: the paper's per-patch loop, a slow reference.")]


def main() -> None:
    """Run the command line; a GlanceError or a missing package is one line on stderr and exit status 1."""
    try:
        app()
    except GlanceError as error:
        err.print("error:", style="bold red", end=" ")
        err.print(str(error), highlight=False, soft_wrap=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "glance_fast":
            raise
        err.print(f"error: package {error.name!r} is missing; {install_hint('train')}")
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"glance-fast {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    level = logging.WARNING if quiet else logging.INFO
    handler = RichHandler(console=err, show_path=False, show_time=False, show_level=quiet)
    logger = logging.getLogger("glance_fast")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of normal images, or a data set in MVTec AD's layout.")],
    model: ModelFolder,
    preset: Annotated[str, typer.Option(help=f"Preset of settings: {', '.join(PRESETS)}.")] = DEFAULT,
    config: Annotated[Path | None, typer.Option(help="TOML file with the tables [model] and [train].")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting as name=value; may be repeated.")] = None,
    effort: Annotated[float, typer.Option(help="Factor on the steps of every stage: 0.2 for a quick trial.")] = 1.0,
    teacher_weights: Annotated[Path | None, typer.Option(help="File of the teacher's weights.")] = None,
    distil_data: Annotated[Path | None, typer.Option(help="Folder of images to distil the teacher on.")] = None,
    calibration_data: Annotated[Path | None, typer.Option(help="Folder of normal images to calibrate on.")] = None,
    restart: Annotated[bool, typer.Option(help="Discard an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing model.")] = False,
) -> None:
    """Train and calibrate a model on normal images; an interrupted run is resumed."""
    from glance_fast.training.train import Job, train_model

    model_config, train_config = read_settings(config, set_ or [], effort, preset)
    job = Job(data, model, teacher_weights, distil_data, calibration_data, restart, overwrite)
    calibration = train_model(job, model_config, train_config)
    out.print(
        f"model in {model}: threshold {calibration.threshold:.4f} for {calibration.false_alarm_rate:.1%} false alarms, "
        f"from {len(calibration.scores)} normal images",
        soft_wrap=True,
    )


@app.command()
def score(
    images: Annotated[list[str], typer.Argument(help="Image files, folders (any depth) and globs (** is any depth).")],
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder for overlays and tables.")],
    backend: Backend = "auto",
    device: Device = "cpu",
    precision: Precision = "fp32",
    method: Method = "dense",
    overlays: Annotated[str, typer.Option(help="Images to draw overlays for: all, anomalous or none.")] = "all",
    streams: Annotated[int | None, typer.Option(help="Images scored concurrently on a CPU; 2 if supported.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results of earlier runs in the output folder.")] = False,
    pages: Annotated[bool, typer.Option("--pages", help="Score each page or frame of a file, a row per page.")] = False,
) -> None:
    """Score images: an overlay of the anomaly map per image, and a table of scores as CSV and JSON lines.

    A stopped run goes on when the same command is given again.
    """
    from glance_fast.commands.score_files import ScoreOptions, score_files
    from glance_fast.commands.score_inputs import outside
    from glance_fast.commands.stop_signals import stop_on_signals
    from glance_fast.data.datasets import expand
    from glance_fast.engine import Engine

    options = ScoreOptions(method, overlays, overwrite, pages)
    paths = outside(output, expand(images))
    engine = Engine.load(model, backend, device, precision, streams)
    with stop_on_signals() as stop:
        rows = score_files(engine, paths, output, options, stop)
    failed = [row for row in rows if row.error is not None]
    incomplete = [row for row in rows if row.error is not None or row.overlay_error is not None]
    anomalous = sum(row.is_anomalous is True for row in rows)
    for row in incomplete:
        message = row.error or f"{row.path} has no overlay: {row.overlay_error}"
        err.print(printable(message), style="red", markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(rows) - len(failed)} images scored, {anomalous} anomalous"
    out.print(f"{counts}; tables and overlays in {printable(str(output))}", markup=False, soft_wrap=True)
    if stop.number is not None:
        err.print(f"stopped by a signal after {len(rows)} images; the same command goes on")
        raise typer.Exit(stop.exit_status)
    if incomplete:
        raise typer.Exit(1)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Data set in MVTec AD's layout.")],
    model: ModelFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder for the metrics and the report.")],
    backend: Backend = "auto",
    device: Device = "cpu",
    precision: Precision = "fp32",
) -> None:
    """Evaluate a model on a test set: AUROC, AUPRO and F1-max, a row per defect class, timings, an HTML report."""
    from glance_fast.commands.score_tables import refuse_scores
    from glance_fast.commands.tables import evaluation_table
    from glance_fast.engine import Engine
    from glance_fast.evaluation.evaluate import evaluate as evaluate_folder

    refuse_scores(output)
    engine = Engine.load(model, backend, device, precision)
    evaluation = evaluate_folder(engine, data, output, title=f"{data.resolve().name}", metadata=engine.metadata())
    out.print(evaluation_table(evaluation))
    out.print(f"report: {output / 'report.html'}")


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="The model folder; exports are written to its subfolder exports.")],
    to: Annotated[str, typer.Option(help="Format: onnx, openvino or tensorrt.")] = "openvino",
    precision: Annotated[str, typer.Option(help="Precision: fp32, fp16 or int8; openvino also bf16.")] = "fp32",
    data: Annotated[Path | None, typer.Option(help="Folder of normal images that int8 takes its ranges from.")] = None,
    verify: Annotated[list[str] | None, typer.Option(help="Images to compare all exports on; may be repeated.")] = None,
    loop_images: Annotated[int, typer.Option(help="Number of these images to compare with the slow loop too.")] = 1,
    batch: Annotated[int | None, typer.Option(help="TensorRT: largest batch per launch.")] = None,
    any_version: Annotated[bool, typer.Option("--any-version", help="TensorRT: allow later minor versions.")] = False,
    any_gpu: Annotated[bool, typer.Option("--any-gpu", help="TensorRT: allow other GPUs, from Ampere on.")] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="TensorRT: timing cache file, for faster builds.")] = None,
    plugins: Annotated[bool, typer.Option("--plugins", help="OpenVINO, TensorRT: with our kernels.")] = False,
) -> None:
    """Export a model to run without PyTorch; --verify compares all its exports with the dense pass and the loop."""
    from glance_fast.commands.tables import parity_table
    from glance_fast.data.datasets import expand
    from glance_fast.evaluation.parity import verify as compare
    from glance_fast.export.export import export as export_model
    from glance_fast.export.tensorrt.options import DEFAULT_BATCH, TensorRtOptions

    # Options that are given for another format are passed on, and refused there.
    has_options = to == "tensorrt" or batch is not None or any_version or any_gpu or timing_cache is not None
    max_batch = DEFAULT_BATCH if batch is None else batch
    options = TensorRtOptions(max_batch, any_version, any_gpu, timing_cache) if has_options else None
    export_model(model, to, precision, data, options, plugins)
    if verify:
        out.print(parity_table(compare(model, expand(verify), loop_images)))


@app.command()
def bench(
    images: Annotated[list[str] | None, typer.Argument(help="Images to time on. Default: an image of noise.")] = None,
    *,
    model: ModelFolder,
    turns: Annotated[int, typer.Option(help="Repetitions per image and backend.", min=1)] = 30,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to append JSON lines to.")] = None,
) -> None:
    """Time all backends that can run a model, after checking that their maps agree within the precision's tolerance."""
    from glance_fast.commands.benchmark import as_lines, time_backends
    from glance_fast.commands.tables import timing_table
    from glance_fast.data.datasets import expand
    from glance_fast.data.images import read_rgb
    from glance_fast.data.meaning import InputSettings
    from glance_fast.storage.model_folder import read_model

    settings = InputSettings.of(read_model(model).model)
    rows = time_backends(model, [read_rgb(path, settings) for path in expand(images or [])], turns)
    out.print(timing_table(rows))
    if output is not None:
        append_file(output, as_lines(rows, model).encode())


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("demo"),
    texture: Annotated[str, typer.Option(help="Texture of the normal class: brick, grass or gravel.")] = "brick",
) -> None:
    """Train on crops of a photograph, detect drawn defects on held-out crops, compare the dense pass with the loop."""
    from glance_fast.commands.demo import run_demo

    run_demo(output, texture, out)


def read_settings(
    config: Path | None, assignments: list[str], effort: float, preset: str = DEFAULT
) -> tuple[ModelConfig, TrainConfig]:
    """Settings of a preset, overridden by a TOML file, then by `name=value` assignments; steps times `effort`.

    Raises ConfigError.
    """
    tables = preset_tables(preset)
    for name, values in (_read_toml(config) if config is not None else {}).items():
        tables[name] |= values
    source = str(config) if config is not None else "--set"
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        table = next((t for t, kind in _KINDS.items() if name in kind.model_fields), None)
        if message := renamed(name, *_KINDS.values()):
            raise ConfigError(f"--set {assignment!r}: {message}")
        if not equals or table is None:
            legal = ", ".join(field for kind in _KINDS.values() for field in kind.model_fields)
            raise ConfigError(f"--set {assignment!r}: give name=value; legal names are {legal}")
        tables[table][name] = _value(value)
    train_config = checked(TrainConfig, tables["train"], source)
    if not 0 < effort <= 100:
        raise ConfigError(f"--effort must be above 0 and at most 100, got {effort}")
    steps = {name: max(1, round(getattr(train_config, name) * effort)) for name in _STEPS}
    return checked(ModelConfig, tables["model"], source), train_config.model_copy(update=steps)


_KINDS: dict[str, type[ModelConfig] | type[TrainConfig]] = {"model": ModelConfig, "train": TrainConfig}
_STEPS = ("distil_steps", "finetune_steps", "global_steps", "dad_steps")


def _read_toml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    unknown = [name for name, table in tables.items() if name not in _KINDS or not isinstance(table, dict)]
    if unknown:
        raise ConfigError(f"{path}: unknown entries {', '.join(unknown)}; legal tables are [model] and [train]")
    return tables


def _value(text: str) -> Any:
    """A value in TOML's syntax (12, 0.5, [256, 256]); any other text is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
