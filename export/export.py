"""The forms that a model is exported to, and the files of each."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from glance_fast.data.datasets import normal_images
from glance_fast.data.images import Pixels, read_image, resize
from glance_fast.errors import BackendError, ConfigError, MissingDependencyError, install_hint
from glance_fast.export.graph.dense_pass import BLOCKS
from glance_fast.export.tensorrt.options import PlanOptions
from glance_fast.kernels.cpu.build import extension
from glance_fast.storage.export_record import EXPORT_FORMATS, exported_precisions, read_export, write_export
from glance_fast.storage.model_folder import ModelFiles, build_model, read_model

# Normal photographs that int8 takes its ranges from.
QUANTIZED_ON = 128
# What has plugins of ours, and at which precisions.
PLUGINS = {"openvino": ("fp32", "bf16"), "tensorrt": ("fp32", "fp16")}

log = logging.getLogger("glance_fast")


def export(
    folder: str | Path,
    to: str = "openvino",
    precision: str = "fp32",
    data: Path | None = None,
    plan: PlanOptions | None = None,
    plugins: bool = False,
) -> Path:
    """Export the model in `folder` and give the path of the export's record; its files lie beside it.

    `to`: onnx, openvino or tensorrt. `precision`: one of `EXPORT_FORMATS[to]`. `data`: the normal photographs that int8
    takes its ranges from, a folder that `glance-fast train` takes. `plan`: how TensorRT builds; it builds from the
    model's export to onnx where that exists, and then without PyTorch, but for int8 with `data`. With `plugins` the
    dense pass is our kernels: for openvino those in `kernels/cpu`, compiled for this CPU; for tensorrt, and the heads
    too, Triton's, compiled for this GPU. Raises BackendError for an impossible export, ConfigError, ModelFolderError,
    MissingDependencyError, DataError, SaveError.
    """
    if to not in EXPORT_FORMATS:
        raise BackendError(f"unknown form {to!r}; legal are {', '.join(EXPORT_FORMATS)}")
    if precision not in EXPORT_FORMATS[to]:
        raise BackendError(f"{to} is exported at {', '.join(EXPORT_FORMATS[to])}, and {precision!r} was asked for")
    files = read_model(Path(folder))
    built_for: dict[str, str] = {}
    graph_is_there = to == "tensorrt" and precision in exported_precisions(files.path, "onnx")
    if plugins:
        _check_plugins(to, precision, plan)
    if precision == "int8" and data is None and not graph_is_there:
        raise ConfigError("int8 takes its ranges from normal photographs; name their folder with --data")
    if plan is not None and to != "tensorrt":
        raise ConfigError(f"a batch, other GPUs, other versions and timings are settings of tensorrt, and not of {to}")
    with _packages():
        if to == "tensorrt":
            made, built_for = _tensorrt(files, precision, data, plan or PlanOptions(), plugins)
        elif to == "openvino":
            made = _openvino(files, precision, data, plugins)
            built_for = {"plugins": "True"} if plugins else {}
        else:
            made = {".onnx": _onnx(files, precision, data)}
    path = write_export(files.path, to, precision, files.digest, made, built_for)
    log.info("%s at %s: %.1f MB in %s", to, precision, sum(map(len, made.values())) / 1e6, path.parent)
    return path


def _check_plugins(to: str, precision: str, plan: PlanOptions | None) -> None:
    if to not in PLUGINS:
        raise ConfigError(f"plugins are nodes that {' and '.join(PLUGINS)} know, and {to} was asked for")
    if precision not in PLUGINS[to]:
        legal = " or ".join(PLUGINS[to])
        raise ConfigError(f"plugins compute in {legal} for {to}; use one of them, or {precision} without plugins")
    if plan is not None and (plan.any_version or plan.any_gpu):
        raise ConfigError("plugins are compiled for the GPU at hand; leave out any_version and any_gpu, or plugins")


@contextmanager
def _packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "glance_fast").split(".")[0]
        if package == "glance_fast":
            raise
        extras = {"tensorrt": "tensorrt", "pycuda": "tensorrt", "triton": "gpu,export"}.get(package, "train,export")
        raise MissingDependencyError(f"exporting needs the package {package!r}; {install_hint(extras)}") from error


def _onnx(
    files: ModelFiles, precision: str = "fp32", data: Path | None = None, form: str = "onnx", sm: int | None = None
) -> bytes:
    """The ONNX graph; its blocks are brought to 8 bits by the quantizer of the runtime that `form` is for."""
    from glance_fast.export.graph.pipeline import export_onnx

    model = export_onnx(build_model(files), files.calibration, half=precision == "fp16", sm=sm)
    if data is not None and precision == "int8":
        from glance_fast.export.quantization import onnx_qdq as by

        quantize = by.eight_bits_for_tensorrt if form == "tensorrt" else by.eight_bits
        model = quantize(model, [_pixels(path, files) for path in _some(data)])
    return bytes(model.SerializeToString())


def _openvino(files: ModelFiles, precision: str, data: Path | None, plugins: bool) -> dict[str, bytes]:
    """OpenVINO's own form, its tables folded: it loads in half the time that the ONNX file takes."""
    import openvino

    from glance_fast.export.graph.pipeline import export_onnx

    graph = export_onnx(build_model(files), files.calibration, openvino=precision if plugins else None)
    known = {"extension": str(extension())} if plugins else {}
    with tempfile.TemporaryDirectory() as place:
        given, made = Path(place) / "given.onnx", Path(place) / "made.xml"
        given.write_bytes(graph.SerializeToString())
        model = openvino.convert_model(given, **known)
        if data is not None and precision == "int8":
            model = _quantized(model, data, files)
        openvino.save_model(model, made, compress_to_fp16=precision == "fp16")
        return {suffix: made.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}


def _tensorrt(
    files: ModelFiles, precision: str, data: Path | None, options: PlanOptions, plugins: bool
) -> tuple[dict[str, bytes], dict[str, str]]:
    from glance_fast.backends.cuda_driver.device import Cuda
    from glance_fast.export.tensorrt.build import build_plan

    cuda = Cuda()
    if plugins:
        graph = _onnx(files, precision, sm=int(cuda.capability.replace(".", "")))
    elif precision in exported_precisions(files.path, "onnx") and not (precision == "int8" and data):
        # Where the GPU is there may be no PyTorch to make it with.
        graph = read_export(files.path, "onnxruntime", precision, files.digest).files[".onnx"]
    else:
        graph = _onnx(files, precision, data, "tensorrt")
    plan, built_for = build_plan(graph, files.model.image_size, options, plugins, cuda)
    return {".plan": plan}, built_for


def _quantized(model: Any, data: Path, files: ModelFiles) -> Any:
    """The model with the blocks of its dense pass in 8 bits.

    The rest stays in float32: whitening multiplies by large numbers what 8-bit convolutions get wrong.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    some = _some(data)
    photos = nncf.Dataset(some, lambda path: {"image": _pixels(path, files)[None]})
    names = [node.get_friendly_name() for node in model.get_ops() if BLOCKS not in node.get_friendly_name()]
    kept = nncf.IgnoredScope(names=names, validate=False)
    return nncf.quantize(model, photos, subset_size=len(some), ignored_scope=kept)


def _some(data: Path) -> list[Path]:
    """Normal photographs from all over a folder."""
    paths = normal_images(data)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), QUANTIZED_ON)).astype(int)]


def _pixels(path: Path, files: ModelFiles) -> Pixels:
    return resize(read_image(path), files.model.image_size, files.model.resize)
