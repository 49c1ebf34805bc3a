"""The pipeline as an ONNX graph."""
