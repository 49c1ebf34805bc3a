"""TensorRT: options, plugins, and the build of an engine from the ONNX graph."""
