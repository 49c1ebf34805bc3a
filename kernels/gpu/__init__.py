"""The operations as Triton kernels, with what launches, configures and compiles them."""
