"""What the C library keeps of memory that nobody uses any more; nothing where it isn't glibc."""

from __future__ import annotations

import contextlib
import ctypes
import gc

# malloc.h
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 20
_M_ARENA_MAX, _ARENAS = -8, 2


def limit() -> None:
    """Two memory pools, not eight per core: pictures of every planning thread that there ever was would fill another one.
    Twenty activations cost 100 MB, with two pools 15 MB."""
    _call("mallopt", _M_ARENA_MAX, _ARENAS)
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE)


def collect() -> None:
    """After something large was let go: the graphs of an engine leave holes that its successor doesn't fit. Twenty-five engines
    one after the other cost 24 MB, collected 3 MB."""
    gc.collect()
    trim()


def trim() -> None:
    """Give back what is free between whatever is still used; 0.3 ms."""
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL("libc.so.6"), name)(*values)
