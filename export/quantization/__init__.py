"""ONNX graphs in 8 bits, for ONNX Runtime and for TensorRT."""
