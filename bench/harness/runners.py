"""What the benchmarks run: our models through the shipped engine, the peers' networks in each runtime.

A runtime is imported when it is used, so that a process that runs one holds no other.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glance_fast.postprocessing.calibration import Calibration

if TYPE_CHECKING:
    from torch import Tensor, nn

    from glance_fast.models.model import GlanceModel

Runner = Callable[[], Any]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Point:
    """What a case computes: the side of its square images, the pixels between patches, and images per run."""

    size: int = 256
    stride: int = 8
    batch: int = 1


BASE = Point()
# Timed where the CPU computes in them.
PRECISIONS = ("fp32", "bf16")
ONNX_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
# Random weights have no normal images; thresholds do not change how long an image takes.
CALIBRATION = Calibration(
    scores=(0.0,), false_alarm_rate=0.5, threshold=0.0, pixel_false_alarm_rate=0.5, pixel_threshold=0.0
)


def precisions() -> list[str]:
    """Those of PRECISIONS that this CPU computes in."""
    from glance_fast.backends.registry import unsupported_reason

    return [precision for precision in PRECISIONS if not unsupported_reason("openvino", precision)]


def random_model(preset: str, point: Point) -> GlanceModel:
    """The networks of a preset with random weights, the same in each run."""
    import torch

    from glance_fast.config import ModelConfig
    from glance_fast.models.model import GlanceModel
    from glance_fast.presets import PRESETS

    torch.manual_seed(0)
    settings = {**PRESETS[preset]["model"], "image_size": (point.size, point.size), "stride": point.stride}
    model = GlanceModel(ModelConfig.model_validate(settings)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.global_net.project.weight, std=0.1)
    return model


def save_model(model: GlanceModel, folder: Path) -> Path:
    """Write `model` as a model folder, which `Engine.load` and `export` read."""
    from glance_fast.backends.self_check import make_self_check
    from glance_fast.config import TrainConfig
    from glance_fast.storage.atomic_write import replace_folder
    from glance_fast.storage.model_folder import write_model

    with replace_folder(folder) as unfinished:
        check = make_self_check(model, np.full((*model.config.image_size, 3), 128, np.uint8))
        write_model(unfinished, model, TrainConfig(), CALIBRATION, {}, check)
    return folder


def engine_runner(folder: Path, backend: str, precision: str, images: Images) -> Runner:
    """`Engine.score` of `images`, uint8 [B, H, W, 3]; a run returns the anomaly maps, float32 [B, H, W]."""
    from glance_fast.engine import Engine

    engine = Engine.load(folder, backend, precision=precision)

    def run() -> Any:
        return np.stack([np.asarray(result.map) for result in engine.score(list(images))])

    return run


def openvino_runner(model: Any, images: Any, precision: str, threads: int) -> Runner:
    """A peer's graph, or a limit's, at "fp32" or "bf16"; a run returns its first output.

    `images`: an array, or the number of images of zeros to run on.
    """
    import openvino

    if isinstance(images, int):
        _, *sides = model.input(0).get_partial_shape()
        images = np.zeros(
            [images, *(side.get_length() for side in sides)], model.input(0).get_element_type().to_dtype()
        )
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model.reshape(list(images.shape))
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([images])[0]


def onnxruntime_runner(graph: bytes | str, images: Any, threads: int) -> Runner:
    """A peer's ONNX file, or its path; a run returns its first output; `images` as above."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    source, output = session.get_inputs()[0], session.get_outputs()[0].name
    if isinstance(images, int):
        images = np.zeros([images, *source.shape[1:]], ONNX_TYPES[source.type])
    return lambda: session.run([output], {source.name: images})[0]


def torch_runner(network: nn.Module, images: Tensor) -> Runner:
    """A peer's network in PyTorch, in the memory layout that is fastest on a CPU."""
    import torch

    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return network(images).numpy()

    return run


def as_openvino(network: nn.Module, images: Tensor) -> Any:
    """The network as a graph of OpenVINO, for images of this size."""
    import openvino
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about itself
        graph = openvino.convert_model(torch.export.export(network, (images,)))
    graph.reshape(list(images.shape))  # the conversion leaves every side open
    return graph


def as_onnx(network: nn.Module, images: Tensor) -> bytes:
    """The network as an ONNX file, by the exporter that needs no further package."""
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that exporter about its age
        # Its annotation leaves out files, which its text allows.
        torch.onnx.export(network, (images,), file, dynamo=False, opset_version=17)  # type: ignore[arg-type]
    return file.getvalue()
