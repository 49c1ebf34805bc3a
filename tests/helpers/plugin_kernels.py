"""What a model's plugin kernels need when compiled for some GPUs: `python -m tests.helpers.plugin_kernels 80 90`.

A program of its own: Triton compiles nothing in a process whose kernels it interprets.
"""

from __future__ import annotations

import json
import sys

from onnx.reference import ReferenceEvaluator

from bench.harness.ptx import resources
from tests.helpers import fake_plugin, fake_tensorrt

sys.modules |= {"tensorrt": fake_tensorrt, "tensorrt.plugin": fake_plugin}
fake_tensorrt.plugin = fake_plugin  # type: ignore[attr-defined]

import glance_fast.export.tensorrt.plugins  # noqa: E402, F401 - registers them
from glance_fast.export.graph.pipeline import export_onnx  # noqa: E402
from glance_fast.export.graph.target import Target  # noqa: E402
from glance_fast.export.tensorrt.nodes import plugin_scores  # noqa: E402
from tests.helpers.images import model_images  # noqa: E402
from tests.helpers.models import PRETRAINED, fitted_model, tiny_calibration  # noqa: E402


def compiled_for(target: int) -> list[tuple[str, str, int, int, int]]:
    """Name, PTX, number of arguments, bytes of shared memory and registers of each kernel."""
    model = fitted_model({"image_size": (98, 105), **PRETRAINED, "border_padding": 12, "context_features": 5})
    graph = export_onnx(model, tiny_calibration(), Target("tensorrt", "fp16", target), plugin_scores)
    fake_plugin.compiled.clear()
    ReferenceEvaluator(graph, new_ops=fake_plugin.operators()).run(None, {"image": model_images(model, 1)})
    return [(*row, resources(row[1], target)[0]) for row in fake_plugin.compiled]


if __name__ == "__main__":
    json.dump({target: compiled_for(int(target)) for target in sys.argv[1:]}, sys.stdout)
