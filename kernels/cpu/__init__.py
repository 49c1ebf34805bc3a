"""The dense pass for CPUs in C++, and what compiles it."""
