"""Triton kernels compiled ahead of time: PTX for a GPU that this machine need not have, for programs without Triton."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

THREADS_PER_WARP = 32
TRITON_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class CompiledKernel:
    """PTX whose entry `name` takes the kernel's arguments in order, without those that are constants.

    Every program has `threads` threads and takes `shared` bytes of shared memory.
    """

    name: str
    ptx: str
    threads: int
    shared: int


def compile_ahead(kernel: Any, types: Mapping[str, str], settings: Mapping[str, Any], target: int) -> CompiledKernel:
    """Compile a kernel for compute capability `target` (90 is 9.0).

    `types`: Triton's type of each argument by name, "*fp16" or "i32"; pointers must be multiples of 16 bytes.
    `settings`: the values of all other arguments, and Triton's options, by name.
    """
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")
    }
    constants = {name: settings[name] for name in kernel.arg_names if name not in types}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {name: settings[name] for name in TRITON_OPTIONS if name in settings}
    compiled = triton.compile(source, target=GPUTarget("cuda", target, THREADS_PER_WARP), options=options)
    ptx = _keep_parameters(compiled.asm["ptx"], compiled.metadata.name, len(kernel.arg_names) - len(constants))
    return CompiledKernel(
        compiled.metadata.name, ptx, compiled.metadata.num_warps * THREADS_PER_WARP, compiled.metadata.shared
    )


def _keep_parameters(ptx: str, name: str, count: int) -> str:
    """The PTX with the first `count` parameters of its entry alone.

    After them Triton adds its own, for scratch memory, which these kernels never read and no other program passes.
    """
    entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.DOTALL)
    assert entry is not None
    parameters = entry[1].split(",")
    body = ptx[entry.end() :]
    assert not any(f"{name}_param_{i}]" in body for i in range(count, len(parameters))), "scratch memory is read"
    return ptx[: entry.start(1)] + ",".join(parameters[:count]) + "\n" + ptx[entry.end(1) :]
