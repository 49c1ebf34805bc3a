"""What a graph is written for: whose nodes it may have, and the precision of the networks."""

from __future__ import annotations

from dataclasses import dataclass

from glance_fast.errors import ConfigError

# The precisions in which a graph itself can be written, by kind; int8 is made from a graph in fp32.
GRAPH_PRECISIONS = {"onnx": ("fp32", "fp16"), "openvino": ("fp32", "bf16"), "tensorrt": ("fp32", "fp16")}


@dataclass(frozen=True)
class Target:
    """A graph's target; raises ConfigError for a combination that cannot be written.

    `kind`: "onnx", ONNX's own operators alone, which every runtime reads; "openvino", the dense pass as one node of our
    CPU kernels; "tensorrt", the dense pass and the heads as nodes of our TensorRT plugins. `precision`: at fp16 both
    networks compute in float16, and the heads in float32; at bf16 the node of our CPU kernels multiplies in bfloat16.
    `sm`: of a "tensorrt" graph the GPU's compute capability without the dot (90 is 9.0), else 0.
    """

    kind: str = "onnx"
    precision: str = "fp32"
    sm: int = 0

    def __post_init__(self) -> None:
        if self.kind not in GRAPH_PRECISIONS:
            raise ConfigError(f"unknown kind of graph {self.kind!r}; legal are {', '.join(GRAPH_PRECISIONS)}")
        legal = GRAPH_PRECISIONS[self.kind]
        if self.precision not in legal:
            raise ConfigError(f"graphs of kind {self.kind} are written in {' or '.join(legal)}, not {self.precision!r}")
        if (self.kind == "tensorrt") != (self.sm > 0):
            raise ConfigError(f"sm is a compute capability for kind 'tensorrt' alone, got {self.sm} for {self.kind!r}")

    @property
    def half(self) -> bool:
        """Whether both networks compute in float16."""
        return self.precision == "fp16"
