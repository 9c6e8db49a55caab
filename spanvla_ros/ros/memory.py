"""What the C library keeps of memory that nobody uses any more; nothing where it isn't glibc."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

# malloc.h
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX, _ARENAS = -8, 2


def limit() -> None:
    """Two memory pools, not eight per core: pictures of every planning thread that there ever was would fill another one.
    Twenty activations cost 100 MB, with two pools 15 MB."""
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Load an engine here: what is larger than 1 MB gets pages of its own, which go back when it is freed. Otherwise small things that
    stay settle among its remains: 16 MB in thirty engines, so 2 MB. Always so, decoding and preprocessing would take half as long again.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _call("mallopt", _M_MMAP_THRESHOLD, 1 << 25)


def collect() -> None:
    """After something large was let go."""
    gc.collect()
    trim()


def trim() -> None:
    """Give back what is free between whatever is still used; 0.3 ms."""
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        getattr(ctypes.CDLL("libc.so.6"), name)(*values)
