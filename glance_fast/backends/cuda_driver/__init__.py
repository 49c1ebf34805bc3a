"""CUDA without PyTorch: a device's memory and streams, captured graphs, and what TensorRT says."""
