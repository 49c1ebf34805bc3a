"""CUDA without PyTorch: a device's memory and streams, captured graphs, and TensorRT's error messages."""
