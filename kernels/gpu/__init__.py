"""The operations as Triton kernels, one file each, and the modules that index, launch, configure and compile them."""
