"""One image through a network in each runtime: what the benchmarks call again and again.

A runtime is imported when it is used: a process that runs one holds no other.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from glance_fast.backends.torch_backend import TorchBackend
    from glance_fast.models.model import GlanceModel

Run = Callable[[], Any]


@dataclass(frozen=True)
class Point:
    """Where a case stands: the side of its square images, the pixels between patches, and images a run."""

    size: int = 256
    stride: int = 8
    batch: int = 1


BASE = Point()
# What is timed, where the CPU computes in it.
PRECISIONS = ("fp32", "bf16")
ONNX_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}


def precisions() -> list[str]:
    """Those of PRECISIONS that this CPU computes in."""
    from glance_fast.backends.registry import unsupported_reason

    return [one for one in PRECISIONS if not unsupported_reason("openvino", one)]


def with_plugins() -> Any:
    """A core of OpenVINO that knows our kernels."""
    import openvino

    from glance_fast.kernels.cpu.build import extension

    core = openvino.Core()
    core.add_extension(str(extension()))
    return core


def in_openvino(model: Any, pixels: Any, precision: str, threads: int, output: int | str = 0, core: Any = None) -> Run:
    """`model`, a graph of one input, at a precision ("fp32" or "bf16"); a run gives its `output`.

    `pixels` are an array, or the number of images of zeros to run on; `core` has read the model, if that matters.
    """
    import openvino

    core = core or openvino.Core()
    if isinstance(pixels, int):
        given = model.input(0)
        _, *sides = given.get_partial_shape()
        pixels = np.zeros([pixels, *(side.get_length() for side in sides)], given.get_element_type().to_dtype())
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model.reshape(list(pixels.shape))
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run() -> Any:
        assert core is not None  # the core holds the code of our kernels
        return request.infer([pixels])[output]

    return run


def in_onnxruntime(graph: bytes | str, pixels: Any, threads: int, output: str | None = None) -> Run:
    """An ONNX file, or its path, of one input; a run gives its `output`, the first if None; `pixels` as above."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would otherwise go on spinning into the next case's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given, asked = session.get_inputs()[0], output or session.get_outputs()[0].name
    if isinstance(pixels, int):
        pixels = np.zeros([pixels, *given.shape[1:]], ONNX_TYPES[given.type])
    return lambda: session.run([asked], {given.name: pixels})[0]


def in_torch(network: nn.Module, image: Tensor) -> Run:
    """A network in the layout that is fastest on a CPU."""
    import torch

    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return network(image).numpy()

    return run


def our_model(preset: str, point: Point) -> GlanceModel:
    """A preset's networks with random weights, the same each time."""
    import torch

    from glance_fast.config import ModelConfig
    from glance_fast.models.model import GlanceModel
    from glance_fast.presets import PRESETS

    torch.manual_seed(0)
    settings = {**PRESETS[preset]["model"], "image_size": (point.size, point.size), "stride": point.stride}
    model = GlanceModel(ModelConfig.model_validate(settings)).eval().requires_grad_(False)
    torch.nn.init.normal_(model.global_net.project.weight, std=0.1)
    return model


def ours_in_torch(backend: TorchBackend, pixels: Any) -> Run:
    """Our pipeline from uint8 images to the locations' scores, by the dense pass; `pixels` as above."""
    import torch

    if isinstance(pixels, int):
        pixels = np.zeros([pixels, *backend.model.config.image_size, 3], np.uint8)
    images = torch.from_numpy(pixels)
    return lambda: backend.tensor_grids(images).numpy()


def as_openvino(network: nn.Module, image: Tensor) -> Any:
    """The network as a graph of OpenVINO's, for images of this size."""
    import openvino
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about itself
        graph = openvino.convert_model(torch.export.export(network, (image,)))
    graph.reshape(list(image.shape))  # the conversion leaves every side open
    return graph


def as_onnx(network: nn.Module, image: Tensor) -> bytes:
    """The network as an ONNX file, by the exporter that needs no further package."""
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that exporter about its age
        # Its annotation leaves out files, which its text allows.
        torch.onnx.export(network, (image,), file, dynamo=False, opset_version=17)  # type: ignore[arg-type]
    return file.getvalue()
