"""The model folder: config.json, weights.safetensors, calibration.json; written completely or not at all.

config.json contains the SHA-256 of the other files, so a truncated, changed or swapped file is refused at load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from glance_fast.config import ModelConfig, TrainConfig, checked
from glance_fast.errors import ConfigError, ModelFolderError
from glance_fast.postprocessing.calibration import Calibration
from glance_fast.storage.checked_files import faults, read_checked, sha256
from glance_fast.storage.migrations import MODEL_FOLDER_FORMAT, READABLE_FORMATS, upgrade_config, upgrade_weights
from glance_fast.version import __version__

if TYPE_CHECKING:
    from glance_fast.models.model import GlanceModel

WEIGHTS, CALIBRATION, CONFIG = "weights.safetensors", "calibration.json", "config.json"


@dataclass(frozen=True)
class ModelFiles:
    """A model folder's checked contents.

    `metadata` is shown in reports. `digest` is the SHA-256 of the weights file, which is read when needed; `written_as`
    is the format that the folder was written in.
    """

    path: Path
    model: ModelConfig
    train: TrainConfig
    metadata: dict[str, str]
    calibration: Calibration
    digest: str
    written_as: int = MODEL_FOLDER_FORMAT

    def weights(self) -> bytes:
        """The bytes of the safetensors file, checked; raises ModelFolderError."""
        return _checked_bytes(self.path / WEIGHTS, self.digest)


def write_model(
    folder: Path, model: GlanceModel, train: TrainConfig, calibration: Calibration, metadata: dict[str, str]
) -> None:
    """Write a model's files into the empty `folder` of a `replace_folder`; reports show `metadata`."""
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    files = {WEIGHTS: save(state), CALIBRATION: calibration.model_dump_json(indent=1).encode()}
    config = {
        "format": MODEL_FOLDER_FORMAT,
        "version": __version__,
        "model": model.config.model_dump(mode="json"),
        "train": train.model_dump(mode="json"),
        "facts": metadata,
        "sha256": {name: sha256(data) for name, data in files.items()},
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def read_model(folder: Path) -> ModelFiles:
    """Read and check a model folder; ModelFolderError names the file that is missing, damaged or foreign."""
    if not folder.is_dir():
        hint = f"; {folder}.training holds an unfinished run" if Path(f"{folder}.training").is_dir() else ""
        raise ModelFolderError(
            f"{folder} is no model folder{hint}; make one with 'glance-fast train DATA --model {folder}'"
        )
    config = _config(folder / CONFIG)
    written_as = int(config["format"])
    calibration = _checked_bytes(folder / CALIBRATION, config["sha256"].get(CALIBRATION))
    advice = "install the version that wrote it or train the model again"
    try:
        config = upgrade_config(config, str(folder / CONFIG))
        return ModelFiles(
            path=folder,
            model=checked(ModelConfig, config["model"], f"{folder / CONFIG}, model"),
            train=checked(TrainConfig, config["train"], f"{folder / CONFIG}, train"),
            metadata={str(name): str(value) for name, value in config["facts"].items()},
            calibration=_calibration(folder / CALIBRATION, calibration),
            digest=str(config["sha256"].get(WEIGHTS)),
            written_as=written_as,
        )
    except ConfigError as error:
        raise ModelFolderError(f"{error}; this is glance_fast {__version__}: {advice}") from error


def _calibration(path: Path, data: bytes) -> Calibration:
    try:
        return Calibration.model_validate_json(data)
    except ValidationError as error:
        raise ModelFolderError(
            f"{path} is no calibration of glance_fast: {faults(error)}; train the model again"
        ) from None


def _config(path: Path) -> dict[str, Any]:
    advice = "restore the folder from a copy or train the model again"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(f"{path} is missing; {path.parent} is no model folder of glance_fast") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} cannot be read ({error}); {advice}") from None
    if not isinstance(config, dict) or "format" not in config:
        raise ModelFolderError(f"{path} is not a glance_fast configuration; point --model at a trained model")
    if config["format"] not in READABLE_FORMATS:
        readable = " and ".join(str(number) for number in READABLE_FORMATS)
        raise ModelFolderError(
            f"{path} has format {config['format']!r}, written by glance_fast {config.get('version')}; "
            f"this is glance_fast {__version__}, which reads formats {readable}: install the matching version "
            "or train again"
        )
    parts = ("model", "train", "facts", "sha256")
    if any(not isinstance(config.get(part), dict) for part in parts):
        raise ModelFolderError(f"{path} lacks one of {', '.join(parts)}; {advice}")
    return config


def _checked_bytes(path: Path, digest: object) -> bytes:
    return read_checked(path, digest, "this model was saved with", "restore it from a copy or train the model again")


def build_model(files: ModelFiles) -> GlanceModel:
    """The model of a folder, in eval mode, its weights loaded; ModelFolderError when they do not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from glance_fast.models.model import GlanceModel

    try:
        weights = load(files.weights())
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelFolderError(f"{files.path / WEIGHTS} is no safetensors file that can be read: {error}") from None
    model = GlanceModel(files.model)
    try:
        model.load_state_dict(upgrade_weights(weights, files.written_as))
    except RuntimeError as error:
        raise ModelFolderError(f"{files.path / WEIGHTS} does not fit {CONFIG}: {error}") from None
    return model.eval().requires_grad_(False)
