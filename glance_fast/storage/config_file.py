"""config.json: the settings of a model, with the SHA-256 of each of its own parts and of the folder's other files.

Folders of formats 1 and 2 have no hashes of the parts: an edit of their settings cannot be noticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from glance_fast.errors import ModelFolderError
from glance_fast.storage.checked_files import faults, read_file, sha256
from glance_fast.storage.migrations import MODEL_FOLDER_FORMAT, READABLE_FORMATS
from glance_fast.storage.strict_json import canonical, parse_object
from glance_fast.version import __version__

WEIGHTS, CALIBRATION, CONFIG = "weights.safetensors", "calibration.json", "config.json"
SELF_CHECK = "self_check.safetensors"
FILES = (WEIGHTS, CALIBRATION)
SELF_CHECK_SINCE = 4
# The parts of config.json that have a hash in it since format 3.
PARTS = ("format", "version", "model", "train", "facts")
HASHED_PARTS_SINCE = 3
# A hundred times the largest configuration.
MAX_CONFIG_BYTES = 2**18
ADVICE = "restore it from a copy, or train the model again"


@dataclass(frozen=True)
class ModelDigests:
    """SHA-256 of what a model is made of: its weights file, its settings as config.json has them, its calibration."""

    weights: str
    settings: str
    calibration: str


class ConfigFile(BaseModel):
    """The content of config.json. `facts` is the metadata that reports show; `sha256`: of files and parts, by name."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int
    version: str
    model: dict[str, Any]
    train: dict[str, Any]
    facts: dict[str, str]
    sha256: dict[str, str]

    @property
    def digests(self) -> ModelDigests:
        """The digests of the model that it describes."""
        return ModelDigests(self.sha256[WEIGHTS], part_digest(self.model), self.sha256[CALIBRATION])

    @property
    def self_check(self) -> str | None:
        """The SHA-256 of the self-check's file; None in the formats before it."""
        return self.sha256.get(SELF_CHECK)


def part_digest(value: Any) -> str:
    """The SHA-256 of a part of config.json, whatever its layout in the file."""
    return sha256(canonical(value))


def config_text(model: dict[str, Any], train: dict[str, Any], facts: dict[str, str], files: Mapping[str, bytes]) -> str:
    """The text of config.json for settings, metadata and the bytes of the folder's other files."""
    values: dict[str, Any] = {
        "format": MODEL_FOLDER_FORMAT, "version": __version__, "model": model, "train": train, "facts": facts,
    }  # fmt: skip
    hashes = {name: sha256(data) for name, data in files.items()}
    hashes |= {name: part_digest(values[name]) for name in PARTS}
    return json.dumps(values | {"sha256": hashes}, indent=1)


def read_config(path: Path) -> ConfigFile:
    """Read and check config.json; ModelFolderError says which part is damaged, foreign or was edited."""
    if not os.path.lexists(path):
        raise ModelFolderError(f"{path} is missing; {path.parent} is no model folder of glance_fast")
    data = read_file(path, MAX_CONFIG_BYTES, ADVICE)
    try:
        values = parse_object(data)
    except ValueError as error:
        raise ModelFolderError(f"{path} cannot be read ({error}); {ADVICE}") from None
    _check_format(values, path)
    try:
        config = ConfigFile.model_validate(values)
    except ValidationError as error:
        raise ModelFolderError(f"{path} is not as glance_fast writes it: {faults(error)}; {ADVICE}") from None
    _check_parts(values, path)
    return config


def _check_format(values: dict[str, Any], path: Path) -> None:
    if "format" not in values:
        raise ModelFolderError(f"{path} is not a glance_fast configuration; point --model at a trained model")
    if type(values["format"]) is not int or values["format"] not in READABLE_FORMATS:
        *former, newest = map(str, READABLE_FORMATS)
        raise ModelFolderError(
            f"{path} has format {values['format']!r}, written by glance_fast {values.get('version')}; this is "
            f"glance_fast {__version__}, which reads formats {', '.join(former)} and {newest}: install the matching "
            "version or train again"
        )


def _check_parts(values: dict[str, Any], path: Path) -> None:
    """Raise ModelFolderError unless the file has every part of its format, each with its hash, and no other."""
    hashes = values["sha256"]
    parts = PARTS if values["format"] >= HASHED_PARTS_SINCE else ()
    due = (*FILES, *((SELF_CHECK,) if values["format"] >= SELF_CHECK_SINCE else ()), *parts)
    unknown = [name for name in hashes if name not in due]
    missing = [name for name in due if name not in hashes]
    if unknown or missing:
        fault = f"has a hash of {unknown[0]!r}" if unknown else f"lacks the hash of {missing[0]!r}"
        raise ModelFolderError(f"{path}, which says that it has format {values['format']}, {fault}; {ADVICE}")
    if parts and (more := [name for name in values if name not in (*parts, "sha256")]):
        raise ModelFolderError(f"{path} has an unknown part {more[0]!r}; {ADVICE}")
    edited = [name for name in parts if part_digest(values[name]) != hashes[name]]
    if edited:
        raise ModelFolderError(
            f"{path}: {' and '.join(map(repr, edited))} {'is' if len(edited) == 1 else 'are'} not as this model was "
            f"saved (wrong SHA-256): settings belong to the weights and cannot be edited; {ADVICE} with other settings"
        )
