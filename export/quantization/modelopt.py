"""int8 for the ONNX graph that TensorRT builds from, by NVIDIA's ModelOpt.

ModelOpt replaces parts of ONNX Runtime's quantizer at import, so it runs in a process of its own: this module as a
program.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from glance_fast.errors import BackendError, MissingDependencyError, install_hint

INSTALL = install_hint("tensorrt-int8")
# The exit status of the program when a package is missing.
MISSING = 3


def quantize_matmuls(
    model: onnx.ModelProto, products: Sequence[str], photographs: Sequence[NDArray[np.uint8]]
) -> onnx.ModelProto:
    """The graph with the MatMul nodes named `products` in 8 bits, symmetric, with a scale per column of their weights.

    Constants are folded first. Products that are too small for tensor cores stay in float32. Ranges are of
    `photographs`, uint8 [H, W, 3], on the CPU. Raises MissingDependencyError, and BackendError with ModelOpt's message.
    """
    if find_spec("modelopt") is None:
        raise MissingDependencyError(f"8 bits for TensorRT need NVIDIA's ModelOpt; {INSTALL}")
    with tempfile.TemporaryDirectory() as directory:
        source, images, target = (Path(directory) / name for name in ("source.onnx", "images.npy", "target.onnx"))
        onnx.save(model, source)
        np.save(images, np.stack(photographs))
        command = [sys.executable, "-m", __name__, str(source), str(images), str(target), *products]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        message = " ".join(process.stderr.split("\n")[-4:]).strip() or "no message"
        if process.returncode == MISSING:
            raise MissingDependencyError(f"NVIDIA's ModelOpt cannot be imported: {message}; {INSTALL}")
        if process.returncode:
            raise BackendError(f"NVIDIA's ModelOpt could not make 8 bits of the graph: {message}")
        return onnx.load(target)


def main(source: str, images: str, target: str, *products: str) -> None:
    """Quantize the file `source` into `target`, with ranges of the array file `images`."""
    warnings.simplefilter("ignore")  # ModelOpt's imports warn of its own deprecated parts
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        raise SystemExit(MISSING) from error
    photographs = np.load(images)
    quantize(
        source, "int8", calibration_data={"image": photographs}, calibration_method="max",
        calibration_shapes=f"image:{'x'.join(map(str, (1, *photographs.shape[1:])))}", calibration_eps=["cpu"],
        nodes_to_quantize=products, op_types_to_quantize=["MatMul"], high_precision_dtype="fp32",
        simplify=True, output_path=target, log_level="CRITICAL",
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
