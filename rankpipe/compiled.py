"""Compile loops with numba, keeping the machine code for the next process.

numba keeps it in NUMBA_CACHE_DIR if that is set, else in __pycache__ beside the source, else, where the package's folder
is read-only, in the user's cache folder (on Linux ~/.cache/numba). Keys are the source file's time and size, numba's
version and the processor, so stale code is never run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Set
from functools import cache
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any], *, fastmath: Set[str] = frozenset()) -> Callable[..., Any]:
    """The function as machine code that runs without the interpreter's lock.

    fastmath names what LLVM may do to sums of floats, such as reassoc: add in another order.
    """
    options = {"nogil": True, "fastmath": set(fastmath)}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:
        _say_that_nothing_is_kept()
        return njit(function, **options)


@cache
def _say_that_nothing_is_kept() -> None:
    warnings.warn(
        "compiled code cannot be kept: neither the package's folder nor the user's cache can be written; "
        "every process will compile for some seconds. Set NUMBA_CACHE_DIR to a folder that can be written",
        RuntimeWarning,
        stacklevel=3,
    )
