"""8 bits for what TensorRT builds from, by NVIDIA's ModelOpt.

It rewrites ONNX Runtime's quantizer where it is imported, so it has a process of its own: this module run as a program.
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
# The exit status that says which of the packages is not there.
MISSING = 3


def quantized(model: onnx.ModelProto, products: Sequence[str], photos: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The graph with the nodes called `products` in 8 bits, symmetric: a scale for each column of their weights.

    What is constant is folded first. Products that are too small for tensor cores stay as they are. Ranges are taken
    from `photos`, uint8 [H, W, 3], on the CPU. Raises MissingDependencyError, and BackendError with what ModelOpt says.
    """
    if find_spec("modelopt") is None:
        raise MissingDependencyError(f"8 bits for TensorRT need NVIDIA's ModelOpt; {INSTALL}")
    with tempfile.TemporaryDirectory() as place:
        given, seen, made = (Path(place) / name for name in ("given.onnx", "photos.npy", "made.onnx"))
        onnx.save(model, given)
        np.save(seen, np.stack(photos))
        command = [sys.executable, "-m", __name__, str(given), str(seen), str(made), *products]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = " ".join(done.stderr.split("\n")[-4:]).strip() or "no message"
        if done.returncode == MISSING:
            raise MissingDependencyError(f"NVIDIA's ModelOpt cannot be imported: {last}; {INSTALL}")
        if done.returncode:
            raise BackendError(f"NVIDIA's ModelOpt could not make 8 bits of the graph: {last}")
        return onnx.load(made)


def main(given: str, seen: str, made: str, *products: str) -> None:
    """Quantize a file."""
    warnings.simplefilter("ignore")  # it deprecates parts of itself, and says so of every import
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        print(" ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        raise SystemExit(MISSING) from error
    photos = np.load(seen)
    quantize(
        given, "int8", calibration_data={"image": photos}, calibration_method="max",
        calibration_shapes=f"image:{'x'.join(map(str, (1, *photos.shape[1:])))}", calibration_eps=["cpu"],
        nodes_to_quantize=products, op_types_to_quantize=["MatMul"], high_precision_dtype="fp32",
        simplify=True, output_path=made, log_level="CRITICAL",
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
