"""Pickles of others, read without running anything of theirs.

A pickle is a program. Here it may build plain values and numpy arrays only: its opcodes are checked before it runs, the few
names that numpy's own pickles use lead to stand-ins, and every other name is an error.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError

_PLAIN = frozenset(
    """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD""".split()
)
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_DTYPE = re.compile(r"[biuf][1248]|f16|\?|[SU]\d{1,4}|O8?")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_ENTRIES = 50_000_000  # of one array; a whole log has fewer


def read_pickle(path: Path) -> Any:
    """The plain value in a pickle file. DataError for anything else, before any of it has run."""
    try:
        return parse_pickle(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None


def parse_pickle(data: bytes, name: str) -> Any:
    """The same from bytes; `name` is for errors."""
    _inspect(data, name)
    try:
        return _Unpickler(io.BytesIO(data), name).load()
    except DataError:
        raise
    except Exception as error:  # whatever a broken or hostile stream makes pickle raise, it is the file's fault
        raise DataError(f"{name} is no pickle of plain values: {type(error).__name__} {error}") from None


def _inspect(data: bytes, name: str) -> None:
    """DataError for opcodes that plain values don't need, and for memo numbers that only waste memory."""
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if opcode.name not in _PLAIN:
                raise DataError(f"{name}: refused, the pickle uses {opcode.name} at byte {position}, which plain values don't need")
            if opcode.name in _MEMO and not 0 <= int(argument) <= count:
                raise DataError(f"{name}: refused, the pickle puts memo {argument} at byte {position} after {count} operations")
            if opcode.name == "GLOBAL":
                _stand_in(*argument.split(" ", 1), name)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name} is no pickle: {type(error).__name__} {error}") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, name: str):
        super().__init__(stream)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        return _stand_in(module, name, self._name)


class _StandIn:
    """What a name of numpy leads to; it can be called, but a pickle can't change it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a name can't be given a state")


class _Dtype:
    """A dtype under construction: numbers, booleans, fixed-length text and objects."""

    __slots__ = ("value",)

    def __init__(self, kind: Any, *_: Any):
        if not isinstance(kind, str) or not _DTYPE.fullmatch(kind):
            raise ValueError(f"array of type {kind!r}")
        self.value = np.dtype("O" if kind.startswith("O") else kind)

    def __setstate__(self, state: tuple) -> None:
        order, subtype, names, fields = state[1:5]
        if subtype is not None or names is not None or fields is not None or order not in ("<", ">", "|", "="):
            raise ValueError(f"array of type {state!r}")
        self.value = self.value if order in ("|", "=") else self.value.newbyteorder(order)


class _Array(np.ndarray):
    """An array that checks its state before numpy takes it."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype):
            raise ValueError(f"array with dtype {dtype!r}")
        count = _count(shape)
        # objects come as a list, everything else as its bytes
        kind, length = (list, count) if dtype.value.hasobject else (bytes, count * dtype.value.itemsize)
        if not isinstance(raw, kind) or len(raw) != length:
            raise ValueError(f"array of shape {shape} and type {dtype.value} with other content")
        super().__setstate__((1, shape, dtype.value, bool(fortran), raw))


def _count(shape: Any) -> int:
    good = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and 0 <= n <= _ENTRIES for n in shape)
    count = int(np.prod(shape, dtype=float)) if good else -1
    if not 0 <= count <= _ENTRIES:
        raise ValueError(f"array of shape {shape!r}")
    return count


def _reconstruct(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject or not isinstance(raw, bytes) or len(raw) != dtype.value.itemsize:
        raise ValueError(f"number of type {dtype!r}")
    return np.frombuffer(raw, dtype.value)[0].item()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or dtype.value.hasobject or order not in ("C", "F") or len(raw) != _count(shape) * dtype.value.itemsize:
        raise ValueError(f"array of shape {shape!r}")
    return np.frombuffer(raw, dtype.value).reshape(shape, order=order)


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    **{(module, "_reconstruct"): _reconstruct for module in _MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _MULTIARRAY},
    **{(module, "_frombuffer"): _frombuffer for module in _NUMERIC},
    ("numpy", "ndarray"): _reconstruct,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,  # how old protocols write bytes
    ("__builtin__", "bytes"): lambda: b"",
}


def _stand_in(module: str, name: str, where: str) -> _StandIn:
    if (module, name) not in _STAND_INS:
        raise DataError(f"{where}: refused, the pickle names {module}.{name}; only numbers, text, lists, dicts and numpy arrays are read")
    return _StandIn(_STAND_INS[module, name])
