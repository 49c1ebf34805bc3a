"""One image through a graph in each runtime, on a given number of threads: what the benchmarks call again and again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import onnxruntime
import openvino
import torch
from torch import Tensor, nn

Run = Callable[[], Any]


def in_openvino(model: Any, pixels: Any, precision: str, threads: int, output: int | str = 0) -> Run:
    """`model`, a graph of one input, at a precision ("fp32" or "bf16"); a run gives its `output`."""
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model.reshape(list(pixels.shape))
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([pixels])[output]


def in_onnxruntime(graph: bytes, pixels: Any, threads: int, output: str | None = None) -> Run:
    """An ONNX file of one input; a run gives its `output`, the first if None."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would otherwise go on spinning into the next case's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given, asked = session.get_inputs()[0].name, output or session.get_outputs()[0].name
    return lambda: session.run([asked], {given: pixels})[0]


def in_torch(network: nn.Module, image: Tensor) -> Run:
    """A network in the layout that is fastest on a CPU."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = image.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return network(image).numpy()

    return run


def as_openvino(network: nn.Module, image: Tensor) -> Any:
    """The network as a graph of OpenVINO's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about itself
        return openvino.convert_model(torch.export.export(network, (image,)))


def as_onnx(network: nn.Module, image: Tensor) -> bytes:
    """The network as an ONNX file, by the exporter that needs no further package."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that exporter about its age
        # Its annotation leaves out files, which its text allows.
        torch.onnx.export(network, (image,), file, dynamo=False, opset_version=17)  # type: ignore[arg-type]
    return file.getvalue()
