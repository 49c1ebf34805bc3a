"""The operations of the dense pass: formula and reference in `reference`, Triton kernels in `gpu`, C++ in `cpu`."""
