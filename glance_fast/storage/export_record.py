"""Exports of a model: folders in the model folder's `exports/`, each with a record that describes and checks it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.atomic_write import recover_folder, remove_unfinished_folders, replace_folder
from glance_fast.storage.checked_files import faults, read_checked, read_file, sha256
from glance_fast.storage.config_file import ModelDigests
from glance_fast.storage.model_folder import ModelFiles
from glance_fast.storage.strict_json import parse_object
from glance_fast.version import __version__

EXPORT_RECORD_FORMAT = 2
# The newest format of model folders whose exports may have records of format 1, which name the weights alone.
FORMER_FOLDER_FORMAT = 2
FOLDER = "exports"
MAX_RECORD_BYTES = 2**16
# The most that an ONNX graph can take, of which all exports are made.
MAX_EXPORT_BYTES = 2**31
# The formats to export to, and the precisions of each.
EXPORT_FORMATS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
# The suffixes of each format's files.
SUFFIXES: Mapping[str, tuple[str, ...]] = {"onnx": (".onnx",), "openvino": (".xml", ".bin"), "tensorrt": (".plan",)}
# The format that each backend runs, the fastest backend first.
RUNTIME_FORMAT: Mapping[str, str] = {"tensorrt": "tensorrt", "openvino": "openvino", "onnxruntime": "onnx"}


class ExportRecord(BaseModel):
    """The content of `exports/<form>-<precision>/<form>-<precision>.json`.

    `format` and `version`: of the record and of the glance_fast that wrote it. `form`: the export's format, of
    `EXPORT_FORMATS`. `model`, `settings`, `calibration`: SHA-256 of what was exported, as in `ModelDigests`; format 1
    has the first alone, of the weights. `sha256`: of each file, by suffix. `built_for`: of an engine the TensorRT
    version, the GPU and the build options; whether our kernels are nodes of the export. Empty for portable exports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    version: str
    form: str
    precision: str
    model: str
    settings: str | None = None
    calibration: str | None = None
    sha256: dict[str, str]
    built_for: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of all its files, by their suffixes and hashes."""
        return sha256("".join(f"{suffix} {self.sha256[suffix]}\n" for suffix in sorted(self.sha256)).encode())

    @property
    def plugins(self) -> bool:
        """Whether our kernels are nodes of the export."""
        return self.built_for.get("plugins") == "True"


@dataclass(frozen=True)
class Export:
    """A checked export: its record, the record's path, and the bytes of its files by suffix.

    `rebuild_command`: the command line that exports it again.
    """

    record: ExportRecord
    path: Path
    files: dict[str, bytes]
    rebuild_command: str


def export_path(folder: Path, export_format: str, precision: str) -> Path:
    """The path of an export's record; its files lie beside it and have the same stem.

    They are a folder of their own, which is replaced whole. Those of version 0.1.0 lie in `exports/` itself.
    """
    path = folder / FOLDER / f"{export_format}-{precision}" / f"{export_format}-{precision}.json"
    former = folder / FOLDER / path.name
    return former if os.path.lexists(former) and not os.path.lexists(path) else path


def exported_precisions(folder: Path, export_format: str) -> list[str]:
    """The precisions at which a model folder has an export to `export_format`."""
    legal = EXPORT_FORMATS[export_format]
    return [precision for precision in legal if os.path.lexists(export_path(folder, export_format, precision))]


def export_command(folder: Path, export_format: str, precision: str) -> str:
    """The command line that exports a model."""
    return f"glance-fast export {folder} --to {export_format} --precision {precision}"


def write_export(
    folder: Path,
    export_format: str,
    precision: str,
    model: ModelDigests,
    files: Mapping[str, bytes],
    built_for: Mapping[str, str],
) -> Path:
    """Replace an export of `model` in its folder, whose lock the caller holds, as a whole; raises SaveError."""
    name = f"{export_format}-{precision}"
    record = ExportRecord(
        format=EXPORT_RECORD_FORMAT,
        version=__version__,
        form=export_format,
        precision=precision,
        model=model.weights,
        settings=model.settings,
        calibration=model.calibration,
        sha256={suffix: sha256(data) for suffix, data in files.items()},
        built_for=dict(built_for),
    )
    remove_unfinished_folders(folder / FOLDER / name)
    with replace_folder(folder / FOLDER / name) as unfinished:
        for suffix, data in {**files, ".json": (record.model_dump_json(indent=1) + "\n").encode()}.items():
            (unfinished / f"{name}{suffix}").write_bytes(data)
    for suffix in (".json", *files):
        with suppress(OSError):  # of version 0.1.0, and of no more use: the new export is found first
            (folder / FOLDER / f"{name}{suffix}").unlink(missing_ok=True)
    return export_path(folder, export_format, precision)


def read_export(model: ModelFiles, backend: str, precision: str) -> Export:
    """The export of a model that a backend runs, checked; one that is replaced meanwhile is read again.

    Raises BackendError where there is no such export, and ModelFolderError for an export that is damaged, incomplete,
    foreign, of another format number, or of other weights, settings or another calibration than the folder holds now.
    """
    while True:
        path = export_path(model.path, RUNTIME_FORMAT[backend], precision)
        recover_folder(path.parent)
        before = _identity(path.parent)
        try:
            return _read_export(model, backend, precision)
        except (BackendError, ModelFolderError):
            if _identity(path.parent) == before:
                raise


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder has this name now, and its last change; None where there is none."""
    try:
        status = folder.stat()
        return status.st_ino, status.st_ctime_ns
    except OSError:
        return None


def _read_export(model: ModelFiles, backend: str, precision: str) -> Export:
    export_format, folder = RUNTIME_FORMAT[backend], model.path
    path, rebuild = export_path(folder, export_format, precision), export_command(folder, export_format, precision)
    if not os.path.lexists(path):
        others = [f"{export_format} at {other}" for other in exported_precisions(folder, export_format)]
        present = ", ".join(others) or f"no {export_format} export"
        raise BackendError(
            f"backend {backend!r} at precision {precision!r} needs {path}, and {folder} has {present}; "
            f"make it with: {rebuild}"
        )
    record = _read_record(path, f"make it again with: {rebuild}")
    if record.plugins:
        rebuild += " --plugins"
    remedy = f"make it again with: {rebuild}"
    _check_record(record, path, export_format, precision, remedy)
    _check_model(record, path, model, remedy)
    return Export(record, path, _read_files(record, path, remedy), rebuild)


def _read_record(path: Path, remedy: str) -> ExportRecord:
    data = read_file(path, MAX_RECORD_BYTES, remedy)
    try:
        return ExportRecord.model_validate(parse_object(data))
    except ValidationError as error:
        fault = faults(error)
    except ValueError as error:
        fault = str(error)
    raise ModelFolderError(f"{path} is no record of an export: {fault}; {remedy}")


def _check_record(record: ExportRecord, path: Path, export_format: str, precision: str, remedy: str) -> None:
    if record.format not in (1, EXPORT_RECORD_FORMAT):
        raise ModelFolderError(
            f"{path} has format {record.format}, written by glance_fast {record.version}; this is glance_fast "
            f"{__version__}, which reads formats 1 and {EXPORT_RECORD_FORMAT}: install the matching version, or "
            f"{remedy}"
        )
    if (record.form, record.precision) != (export_format, precision):
        raise ModelFolderError(f"{path} is an export to {record.form} at {record.precision}; {remedy}")


def _check_model(record: ExportRecord, path: Path, model: ModelFiles, remedy: str) -> None:
    """Raise ModelFolderError unless the record is of the weights, the settings and the calibration of `model`."""
    recorded = {"weights": record.model, "settings": record.settings, "calibration": record.calibration}
    expected: dict[str, str | None] = vars(model.digests)
    if record.format == 1:
        if model.written_as > FORMER_FOLDER_FORMAT:
            raise ModelFolderError(f"{path} does not say which settings and calibration it was made from; {remedy}")
        expected = expected | {"settings": None, "calibration": None}
    if other := [name for name, digest in recorded.items() if digest != expected[name]]:
        raise ModelFolderError(
            f"{path} was made from other {' and '.join(other)} than {model.path} holds now; {remedy}"
        )


def _read_files(record: ExportRecord, path: Path, remedy: str) -> dict[str, bytes]:
    """The bytes of every file of the record's format, by suffix; a record must list these files and no others."""
    suffixes = SUFFIXES[record.form]
    for suffix in record.sha256:
        if suffix not in suffixes:
            raise ModelFolderError(f"{path}: an export to {record.form} has no file {suffix!r}; {remedy}")
    for suffix in suffixes:
        if suffix not in record.sha256:
            raise ModelFolderError(f"{path} does not list {path.with_suffix(suffix).name}; {remedy}")
    return {
        suffix: read_checked(path.with_suffix(suffix), MAX_EXPORT_BYTES, record.sha256[suffix], "was exported", remedy)
        for suffix in suffixes
    }
