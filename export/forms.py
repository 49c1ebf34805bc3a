"""The forms that a model is exported to, and the files of each."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from glance_fast.errors import BackendError, ConfigError, MissingDependencyError
from glance_fast.export.dense import BLOCKS
from glance_fast.exports import FORMS, write_export
from glance_fast.folders import normal_images
from glance_fast.images import read_image, resize
from glance_fast.store import ModelFiles, build_model, read_model

# Normal photographs that int8 takes its ranges from.
QUANTIZED_ON = 128

log = logging.getLogger("glance_fast")


def export(folder: str | Path, to: str = "openvino", precision: str = "fp32", data: Path | None = None) -> Path:
    """Export the model in `folder` and give the path of the export's record; its files lie beside it.

    `to` is onnx or openvino, `precision` one of `FORMS[to]`. `data` names the normal photographs that int8 takes its
    ranges from: a folder that `glance-fast train` takes. Raises BackendError for an impossible form, ConfigError,
    ModelFolderError, MissingDependencyError, DataError, SaveError.
    """
    if to not in FORMS:
        raise BackendError(f"unknown form {to!r}; legal are {', '.join(FORMS)}")
    if precision not in FORMS[to]:
        raise BackendError(f"{to} is exported at {', '.join(FORMS[to])}, and {precision!r} was asked for")
    if precision == "int8" and data is None:
        raise ConfigError("int8 takes its ranges from normal photographs; name their folder with --data")
    files = read_model(Path(folder))
    with _packages():
        made = {".onnx": _onnx(files)} if to == "onnx" else _openvino(files, precision, data)
    path = write_export(files.path, to, precision, files.digest, made)
    log.info("%s at %s: %.1f MB in %s", to, precision, sum(map(len, made.values())) / 1e6, path.parent)
    return path


@contextmanager
def _packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "glance_fast":
            raise
        raise MissingDependencyError(
            f"exporting needs the package {error.name!r}; install it with: pip install 'glance-fast[train,export]'"
        ) from error


def _onnx(files: ModelFiles) -> bytes:
    from glance_fast.export.pipeline import export_onnx

    return bytes(export_onnx(build_model(files), files.calibration).SerializeToString())


def _openvino(files: ModelFiles, precision: str, data: Path | None) -> dict[str, bytes]:
    """OpenVINO's own form, its tables folded: it loads in half the time that the ONNX file takes."""
    import openvino

    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "given.onnx", Path(place) / "made.xml"
        given.write_bytes(_onnx(files))
        model = openvino.convert_model(given)
        if data is not None and precision == "int8":
            model = _quantized(model, data, files.model.image_size)
        openvino.save_model(model, made, compress_to_fp16=precision == "fp16")
        return {suffix: made.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}


def _quantized(model: Any, data: Path, size: tuple[int, int]) -> Any:
    """The model with the blocks of its dense pass in 8 bits.

    The rest stays in float32: whitening multiplies by large numbers what 8-bit convolutions get wrong.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    paths = normal_images(data)
    some = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), QUANTIZED_ON)).astype(int)]
    photos = nncf.Dataset(some, lambda path: {"image": resize(read_image(path), size)[None]})
    names = [node.get_friendly_name() for node in model.get_ops() if not node.get_friendly_name().startswith(BLOCKS)]
    kept = nncf.IgnoredScope(names=names, validate=False)
    return nncf.quantize(model, photos, subset_size=len(some), ignored_scope=kept)
