"""The model folder: config.json, weights.safetensors, calibration.json, self_check.safetensors; all or nothing.

config.json contains the SHA-256 of the other files and of its own parts, so what is loaded is what was saved. The
self-check holds scores that every engine must repeat, so what is loaded also computes what was saved.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from glance_fast.config import ModelConfig, Settings, TrainConfig, checked
from glance_fast.errors import ConfigError, ModelFolderError, SaveError
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.storage.atomic_write import recover_folder
from glance_fast.storage.checked_files import faults, read_checked
from glance_fast.storage.config_file import (
    CALIBRATION,
    CONFIG,
    SELF_CHECK,
    WEIGHTS,
    ConfigFile,
    ModelDigests,
    config_text,
    read_config,
)
from glance_fast.storage.migrations import MODEL_FOLDER_FORMAT, upgrade_settings, upgrade_weights
from glance_fast.storage.self_check import SelfCheck, max_bytes, parse_self_check
from glance_fast.storage.strict_json import parse_object
from glance_fast.storage.tensor_file import MAX_HEADER_BYTES, read_header
from glance_fast.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from glance_fast.models.model import GlanceModel

__all__ = [
    "CALIBRATION",
    "CONFIG",
    "SELF_CHECK",
    "WEIGHTS",
    "ModelFiles",
    "build_model",
    "model_path",
    "read_model",
    "write_model",
]

# 800,000 scores.
MAX_CALIBRATION_BYTES = 2**24
# Of a number in the widest type that weights may have.
MAX_NUMBER_BYTES = 8
REMEDY = "restore it from a copy or train the model again"


@dataclass(frozen=True)
class ModelFiles:
    """A model folder's checked contents.

    `metadata` is shown in reports. `digests` identify the model; the files of the weights and the self-check are read
    when needed. `written_as` is the format that the folder was written in.
    """

    path: Path
    model: ModelConfig
    train: TrainConfig
    metadata: dict[str, str]
    calibration: Calibration
    digests: ModelDigests
    self_check_digest: str | None
    written_as: int = MODEL_FOLDER_FORMAT

    def weights(self, limit: int) -> bytes:
        """The bytes of the safetensors file, checked; ModelFolderError for another file and for more than `limit`."""
        return _checked_bytes(self.path / WEIGHTS, limit, self.digests.weights)

    def self_check(self) -> SelfCheck | None:
        """Images and the scores due for them; None in folders of formats 1 to 3. ModelFolderError for another file."""
        if self.self_check_digest is None:
            return None
        path = self.path / SELF_CHECK
        data = _checked_bytes(path, max_bytes(self.model), self.self_check_digest)
        return parse_self_check(data, self.model, path, REMEDY)


def write_model(
    folder: Path,
    model: GlanceModel,
    train: TrainConfig,
    calibration: Calibration,
    metadata: dict[str, str],
    check: SelfCheck,
) -> None:
    """Write a model's files into the empty `folder` of a `replace_folder`.

    Reports show `metadata`. `check`: of this model, by `make_self_check`.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files = {
        WEIGHTS: save(state),
        CALIBRATION: calibration.model_dump_json(indent=1).encode(),
        SELF_CHECK: check.to_bytes(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    settings, training = model.config.model_dump(mode="json"), train.model_dump(mode="json")
    (folder / CONFIG).write_text(config_text(settings, training, metadata, files), encoding="utf-8")


def model_path(folder: str | os.PathLike[str]) -> Path:
    """The path that a program gave; ModelFolderError for what is none."""
    if not isinstance(folder, str | os.PathLike):
        raise ModelFolderError(f"{folder!r} is no path of a model folder; give a str or a Path")
    return Path(folder)


def read_model(folder: Path) -> ModelFiles:
    """Read and check a model folder; ModelFolderError names the file that is missing, damaged or foreign."""
    with suppress(SaveError):  # a folder that cannot have its name back is not there, and said to be so
        recover_folder(folder)
    if not os.path.isdir(folder):
        hint = f"; {folder}.training holds an unfinished run" if os.path.isdir(f"{folder}.training") else ""
        raise ModelFolderError(
            f"{folder} is no model folder{hint}; make one with 'glance-fast train DATA --model {folder}'"
        )
    config = read_config(folder / CONFIG)
    return ModelFiles(
        path=folder,
        model=_settings(ModelConfig, config.model, config.format, f"{folder / CONFIG}, model"),
        train=_settings(TrainConfig, config.train, config.format, f"{folder / CONFIG}, train"),
        metadata=config.facts,
        calibration=_calibration(folder, config),
        digests=config.digests,
        self_check_digest=config.self_check,
        written_as=config.format,
    )


def _settings(kind: type[Settings], values: dict[str, Any], written_as: int, source: str) -> Settings:
    try:
        return checked(kind, upgrade_settings(kind, values, written_as, source), source)
    except ConfigError as error:
        advice = "install the version that wrote it or train the model again"
        raise ModelFolderError(f"{error}; this is glance_fast {__version__}: {advice}") from error


def _calibration(folder: Path, config: ConfigFile) -> Calibration:
    path = folder / CALIBRATION
    data = _checked_bytes(path, MAX_CALIBRATION_BYTES, config.digests.calibration)
    try:
        return Calibration.model_validate(parse_object(data))
    except ValidationError as error:
        fault = faults(error)
    except ValueError as error:
        fault = str(error)
    raise ModelFolderError(f"{path} is no calibration of glance_fast: {fault}; train the model again")


def _checked_bytes(path: Path, limit: int, digest: str) -> bytes:
    return read_checked(path, limit, digest, "this model was saved with", REMEDY)


def build_model(files: ModelFiles) -> GlanceModel:
    """The model of a folder, in eval mode, its weights loaded; ModelFolderError when they do not fit.

    Shapes are compared before memory is taken for networks: a small folder cannot ask for large ones.
    """
    import torch

    from glance_fast.models.model import GlanceModel

    with torch.device("meta"):
        state = GlanceModel(files.model).state_dict()
    weights = _read_weights(files, {name: tuple(tensor.shape) for name, tensor in state.items()})
    model = GlanceModel(files.model)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def _read_weights(files: ModelFiles, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of the weights file, by their names of today; ModelFolderError unless they have these shapes."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = files.path / WEIGHTS
    data = files.weights(MAX_HEADER_BYTES + MAX_NUMBER_BYTES * (1 + sum(map(prod, shapes.values()))))
    try:
        given, weights = read_header(data).shapes, load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFolderError(f"{path} is no safetensors file that can be read: {error}") from None
    _check_shapes(upgrade_weights(given, files.written_as), shapes, path)
    if whole := [name for name, tensor in weights.items() if not tensor.is_floating_point()]:
        raise ModelFolderError(f"{path}: {whole[0]} holds {weights[whole[0]].dtype}, and weights are floating")
    return upgrade_weights(weights, files.written_as)


def _check_shapes(given: dict[str, tuple[int, ...]], due: dict[str, tuple[int, ...]], path: Path) -> None:
    problems = [f"{name} is missing" for name in due if name not in given]
    problems += [f"{name} is not part of it" for name in given if name not in due]
    for name in filter(given.__contains__, due):
        if given[name] != due[name]:
            problems.append(f"{name} is {list(given[name])} where {list(due[name])} is due")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ModelFolderError(
            f"{path} does not fit {CONFIG}: {'; '.join(problems[:4])}{more}; restore the folder from a copy or train "
            "the model again"
        )
