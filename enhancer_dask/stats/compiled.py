"""How kernels are compiled: so that a number has the same bits in every process.

Numba links a function that others call into each of them, and where a process holds several copies the first one
loaded serves all. Copies of a function whose sums may be reordered differ in what the compiler knew about their
arguments, hence in the order of sums and in fused multiplications: bits would depend on what a process had compiled
or loaded before. Such functions are therefore inlined, which leaves no copy to choose. What was compiled is kept on
disk; kernels run without Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# sums over cells may be reordered so that they vectorise; infinities and NaN keep their meaning
FASTMATH = frozenset({"reassoc", "contract"})


def compiled(function: Callable[..., Any] | None = None, *, fastmath: frozenset[str] = frozenset()) -> Any:
    """Decorator of every kernel, with or without ``fastmath`` flags of LLVM."""
    flags: dict[str, Any] = {"forceinline": bool(fastmath), "fastmath": set(fastmath) or False}
    decorate: Any = njit(nogil=True, cache=True, error_model="numpy", **flags)
    return decorate if function is None else decorate(function)
