"""Exported forms of a model: files in the model folder's `exports/`, each with a record that tells and checks it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from glance_fast.errors import BackendError, ModelFolderError
from glance_fast.storage.atomic_write import replace_file
from glance_fast.version import __version__

FORMAT = 1
FOLDER = "exports"
SUFFIXES = (".onnx", ".xml", ".bin", ".plan")
# What can be exported to, and at which precisions.
FORMS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
# The form that each backend runs, the fastest backend first.
RUNS: Mapping[str, str] = {"tensorrt": "tensorrt", "openvino": "openvino", "onnxruntime": "onnx"}


class Record(BaseModel):
    """What stands in `exports/<form>-<precision>.json`; `model` is the SHA-256 of the weights it was made from.

    `built_for`: the TensorRT version and the GPU of a plan, and how it was built; whether our kernels are nodes of it.
    Empty for portable forms.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    version: str
    form: str
    precision: str
    model: str
    sha256: dict[str, str]
    built_for: dict[str, str] = {}

    @property
    def plugins(self) -> bool:
        """Whether our kernels are nodes of it."""
        return self.built_for.get("plugins") == "True"


@dataclass(frozen=True)
class Export:
    """A checked export: its record, and the bytes of its files by their endings, which are of `SUFFIXES`.

    `again` is the command that makes it anew.
    """

    record: Record
    path: Path
    files: dict[str, bytes]
    again: str


def export_path(folder: Path, form: str, precision: str) -> Path:
    """Where an export's record is; its files have the same stem."""
    return folder / FOLDER / f"{form}-{precision}.json"


def write_export(
    folder: Path, form: str, precision: str, model: str, files: Mapping[str, bytes], built_for: Mapping[str, str]
) -> Path:
    """Write an export beside its model, the record last; raises SaveError when the disk refuses."""
    path = export_path(folder, form, precision)
    for suffix, data in files.items():
        replace_file(path.with_suffix(suffix), data)
    record = Record(
        format=FORMAT,
        version=__version__,
        form=form,
        precision=precision,
        model=model,
        sha256={suffix: hashlib.sha256(data).hexdigest() for suffix, data in files.items()},
        built_for=dict(built_for),
    )
    replace_file(path, (record.model_dump_json(indent=1) + "\n").encode())
    return path


def read_export(folder: Path, backend: str, precision: str, model: str) -> Export:
    """The export that a backend runs, checked.

    `model` is the SHA-256 of the weights that the folder holds now. Raises BackendError where there is no such
    export, and ModelFolderError for one that is damaged, foreign, of another version's format or of other weights.
    """
    form = RUNS[backend]
    path = export_path(folder, form, precision)
    anew = command(folder, form, precision)
    again = f"make it again with: {anew}"
    if not path.is_file():
        there = ", ".join(f"{form} at {some}" for some in exported(folder, form)) or f"no {form} export"
        raise BackendError(
            f"backend {backend!r} at precision {precision!r} needs {path}, and {folder} has {there}; "
            f"make it with: {anew}"
        )
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else _faults(error)
        raise ModelFolderError(f"{path} is no record of an export: {reason}; {again}") from None
    if record.plugins:
        anew = f"{anew} --plugins"
        again = f"make it again with: {anew}"
    if record.format != FORMAT:
        raise ModelFolderError(
            f"{path} has format {record.format}, written by glance_fast {record.version}; this is glance_fast "
            f"{__version__}, which reads format {FORMAT}: install the matching version, or {again}"
        )
    if (record.form, record.precision) != (form, precision):
        raise ModelFolderError(f"{path} is an export to {record.form} at {record.precision}; {again}")
    if record.model != model:
        raise ModelFolderError(f"{path} was made from other weights than {folder} holds now; {again}")
    files = {suffix: _checked(path.with_suffix(suffix), digest, again) for suffix, digest in record.sha256.items()}
    return Export(record, path, files, anew)


def exported(folder: Path, form: str) -> list[str]:
    """The precisions at which a form has been exported."""
    return [precision for precision in FORMS[form] if export_path(folder, form, precision).is_file()]


def command(folder: Path, form: str, precision: str) -> str:
    """The command that makes an export."""
    return f"glance-fast export {folder} --to {form} --precision {precision}"


def _checked(path: Path, digest: str, again: str) -> bytes:
    if path.suffix not in SUFFIXES:
        raise ModelFolderError(f"an export has no file {path.name}; {again}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read ({error.strerror}); {again}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelFolderError(f"{path} is not the file that was exported ({len(data)} bytes, wrong SHA-256); {again}")
    return data


def _faults(error: ValidationError) -> str:
    faults: list[Any] = list(error.errors())
    return "; ".join(": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in faults)
