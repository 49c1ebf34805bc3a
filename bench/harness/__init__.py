"""What the benchmarks share: cases, runners, interleaved timing, rooflines."""
