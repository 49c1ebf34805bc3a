"""Export of a model folder to a format: `export`, and the files of each format."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glance_fast.errors import BackendError, ConfigError, MissingDependencyError, install_hint
from glance_fast.export.graph.target import Target
from glance_fast.export.quantization.photographs import Photographs
from glance_fast.export.tensorrt.options import TensorRtOptions
from glance_fast.kernels.cpu.build import extension
from glance_fast.storage.export_record import EXPORT_FORMATS, exported_precisions, read_export, write_export
from glance_fast.storage.folder_lock import locked
from glance_fast.storage.model_folder import ModelFiles, build_model, model_path, read_model

if TYPE_CHECKING:
    from glance_fast.export.graph.pipeline import PluginScores

# The formats that have plugins of ours, and their precisions.
PLUGIN_PRECISIONS = {"openvino": ("fp32", "bf16"), "tensorrt": ("fp32", "fp16")}

log = logging.getLogger("glance_fast")


def export(
    folder: str | Path,
    to: str = "openvino",
    precision: str = "fp32",
    data: Path | None = None,
    tensorrt: TensorRtOptions | None = None,
    plugins: bool = False,
) -> Path:
    """Export the model in `folder`; returns the path of the export's record, next to its files.

    `to`: onnx, openvino or tensorrt. `precision`: one of `EXPORT_FORMATS[to]`. `data`: the normal photographs that int8
    takes its ranges from, a folder that `glance-fast train` takes. `tensorrt`: how TensorRT builds; it builds from the
    model's export to onnx where that exists, and then without PyTorch, but for int8 with `data`. With `plugins` the
    dense pass is our kernels: for openvino those in `kernels/cpu`, compiled for this CPU; for tensorrt, and the heads
    too, Triton's, compiled for this GPU. Raises BackendError for an impossible export, ConfigError, ModelFolderError,
    MissingDependencyError, DataError, SaveError.
    """
    if to not in tuple(EXPORT_FORMATS):
        raise BackendError(f"unknown format {to!r}; legal are {', '.join(EXPORT_FORMATS)}")
    if precision not in EXPORT_FORMATS[to]:
        raise BackendError(f"{to} is exported at {', '.join(EXPORT_FORMATS[to])}, and {precision!r} was requested")
    photographs = None if data is None else Path(data)
    job = ExportJob(read_model(model_path(folder)), to, precision, photographs, plugins)
    job.check(tensorrt)
    with locked(job.files.path), _packages():
        if to == "tensorrt":
            files, built_for = _tensorrt(job, tensorrt or TensorRtOptions())
        elif to == "openvino":
            files, built_for = _openvino(job), {"plugins": "True"} if plugins else {}
        else:
            files, built_for = {".onnx": _onnx(job)}, {}
        path = write_export(job.files.path, to, precision, job.files.digests, files, built_for)
    log.info("%s at %s: %.1f MB in %s", to, precision, sum(map(len, files.values())) / 1e6, path.parent)
    return path


@dataclass(frozen=True)
class ExportJob:
    """An export of a model's `files` to the format `to`: see `export`."""

    files: ModelFiles
    to: str
    precision: str
    data: Path | None = None
    plugins: bool = False

    @property
    def has_graph(self) -> bool:
        """Whether the folder has an ONNX export at this precision that TensorRT can build from."""
        return self.to == "tensorrt" and self.precision in exported_precisions(self.files.path, "onnx")

    def photographs(self) -> Photographs | None:
        """The photographs of an int8 export; None at other precisions and without `data`."""
        if self.precision != "int8" or self.data is None:
            return None
        return Photographs(self.data, self.files.model)

    def check(self, options: TensorRtOptions | None) -> None:
        """Raise ConfigError for settings that exclude each other."""
        if self.plugins:
            self._check_plugins(options)
        if self.precision == "int8" and self.data is None and not self.has_graph:
            raise ConfigError("int8 takes its ranges from normal photographs; name their folder with --data")
        if options is not None and self.to != "tensorrt":
            raise ConfigError(
                f"a batch, other GPUs, other versions and timings are settings of tensorrt, and not of {self.to}"
            )

    def _check_plugins(self, options: TensorRtOptions | None) -> None:
        to, precision = self.to, self.precision
        if to not in PLUGIN_PRECISIONS:
            raise ConfigError(f"plugins are nodes that {' and '.join(PLUGIN_PRECISIONS)} know, and {to} was requested")
        if precision not in PLUGIN_PRECISIONS[to]:
            legal = " or ".join(PLUGIN_PRECISIONS[to])
            raise ConfigError(f"plugins compute in {legal} for {to}; use one of them, or {precision} without plugins")
        if options is not None and (options.any_version or options.any_gpu):
            raise ConfigError("plugins are compiled for the GPU at hand; leave out any_version and any_gpu, or plugins")


@contextmanager
def _packages() -> Iterator[None]:
    """Turn a missing package into an error that says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "glance_fast").split(".")[0]
        if package == "glance_fast":
            raise
        extras = {"tensorrt": "tensorrt", "pycuda": "tensorrt", "triton": "gpu,export"}.get(package, "train,export")
        raise MissingDependencyError(f"exporting needs the package {package!r}; {install_hint(extras)}") from error


def _onnx(job: ExportJob, sm: int = 0) -> bytes:
    """The ONNX graph; with `sm`, a GPU's compute capability, its dense pass and heads are plugin nodes for that GPU.

    int8 is made by the quantizer for the runtime that runs the export.
    """
    from glance_fast.export.graph.pipeline import export_onnx

    precision = "fp16" if job.precision == "fp16" else "fp32"
    target = Target("tensorrt", precision, sm) if sm else Target("onnx", precision)
    model = export_onnx(build_model(job.files), job.files.calibration, target, _plugin_scores() if sm else None)
    if (photographs := job.photographs()) is not None:
        from glance_fast.export.quantization import onnx_qdq

        for_tensorrt = job.to == "tensorrt"
        quantize = onnx_qdq.quantize_int8_for_tensorrt if for_tensorrt else onnx_qdq.quantize_int8
        model = quantize(model, photographs)
    return bytes(model.SerializeToString())


def _plugin_scores() -> PluginScores:
    from glance_fast.export.tensorrt.nodes import plugin_scores  # which needs Triton

    return plugin_scores


def _openvino(job: ExportJob) -> dict[str, bytes]:
    """OpenVINO's own format, its tables folded: it loads in half the time of the ONNX file."""
    import openvino

    from glance_fast.export.graph.pipeline import export_onnx

    target = Target("openvino", job.precision) if job.plugins else Target()
    extensions = {"extension": str(extension())} if job.plugins else {}  # first: it may fail, and the graph takes long
    graph = export_onnx(build_model(job.files), job.files.calibration, target)
    with tempfile.TemporaryDirectory() as directory:
        source, converted = Path(directory) / "source.onnx", Path(directory) / "converted.xml"
        source.write_bytes(graph.SerializeToString())
        model = openvino.convert_model(source, **extensions)
        if (photographs := job.photographs()) is not None:
            from glance_fast.export.quantization.openvino_nncf import quantize_int8

            model = quantize_int8(model, photographs)
        openvino.save_model(model, converted, compress_to_fp16=job.precision == "fp16")
        return {suffix: converted.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}


def _tensorrt(job: ExportJob, options: TensorRtOptions) -> tuple[dict[str, bytes], dict[str, str]]:
    """The engine's file, and the record's `built_for`."""
    from glance_fast.backends.cuda_driver.device import Cuda
    from glance_fast.export.tensorrt.build import build_engine

    cuda, files = Cuda(), job.files
    if job.plugins:
        graph = _onnx(job, sm=int(cuda.capability.replace(".", "")))
    elif job.has_graph and job.photographs() is None:
        # A machine with the GPU may have no PyTorch to write the graph with.
        graph = read_export(files, "onnxruntime", job.precision).files[".onnx"]
    else:
        graph = _onnx(job)
    engine, built_for = build_engine(graph, files.model.image_size, options, job.plugins, cuda)
    return {".plan": engine}, built_for
