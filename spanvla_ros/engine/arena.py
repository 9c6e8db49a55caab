"""Tensors side by side in one piece of GPU memory, with a twin in page-locked host memory: one copy moves them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from spanvla_ros.engine.device import ALIGNMENT, Device
from spanvla_ros.engine.manifest import Port

# numpy has no bfloat16; its bits travel as integers
BITS = {"bfloat16": "uint16"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the rows of a tensor lie: each begins `pitch` bytes after the one before it and holds `size` bytes."""

    port: Port
    offset: int
    size: int
    pitch: int
    rows: int


class Arena:
    """rows: tensors of which there are several, one per row; host=False leaves out the twin."""

    def __init__(self, device: Device, ports: Iterable[Port], rows: Mapping[str, int] | None = None, *, host: bool = True):
        self._device = device
        self._places: dict[str, Place] = {}
        total = 0
        for port in ports:
            size = prod(port.shape) * itemsize(port)
            pitch = -(-size // ALIGNMENT) * ALIGNMENT
            place = Place(port=port, offset=total, size=size, pitch=pitch, rows=(rows or {}).get(port.name, 1))
            self._places[port.name] = place
            total += pitch * place.rows
        self._address = device.allocate(max(total, ALIGNMENT))
        self._host = device.pinned(max(total, ALIGNMENT)) if host else None

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def size(self, name: str) -> int:
        """Bytes of one row."""
        return self._places[name].size

    def address(self, name: str, row: int = 0) -> int:
        """On the GPU."""
        return self._address + self._begin(name, row)

    def _begin(self, name: str, row: int) -> int:
        place = self._places[name]
        return place.offset + row * place.pitch

    def write(self, name: str, value: np.ndarray | float, row: int = 0) -> None:
        """Put a value into the twin, in the tensor's own type."""
        view = self._view(name, row)
        view[...] = _rounded(value) if self._places[name].port.dtype == "bfloat16" else value

    def read(self, name: str, row: int = 0) -> np.ndarray:
        """A copy of what the twin holds; half types come as float32."""
        return self._plain(name, self._view(name, row))

    def _view(self, name: str, row: int) -> np.ndarray:
        place, begin = self._places[name], self._begin(name, row)
        return self._host[begin : begin + place.size].view(host_dtype(place.port)).reshape(place.port.shape)

    def _plain(self, name: str, view: np.ndarray) -> np.ndarray:
        dtype = self._places[name].port.dtype
        if dtype == "bfloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view.astype(np.float32 if dtype == "float16" else dtype)

    def upload(self) -> None:
        """Put the copy of the whole twin to the GPU into the stream."""
        self._device.upload(self._address, self._host)

    def download(self, name: str, row: int = 0, rows: int = 1) -> None:
        """Put the copy of some rows into the twin into the stream."""
        begin = self._begin(name, row)
        self._device.download(self._host[begin : begin + rows * self._places[name].pitch], self._address + begin)

    def fetch(self, name: str) -> np.ndarray:
        """The tensor as it is on the GPU; waits for the stream."""
        place = self._places[name]
        raw = np.empty(place.size, np.uint8)
        self._device.download(raw, self.address(name))
        self._device.wait()
        return self._plain(name, raw.view(host_dtype(place.port)).reshape(place.port.shape))


def host_dtype(port: Port) -> str:
    """Name of the numpy type that holds the bits of a tensor."""
    return BITS.get(port.dtype, port.dtype)


def itemsize(port: Port) -> int:
    """Bytes per number."""
    return np.dtype(host_dtype(port)).itemsize


def _rounded(value: np.ndarray | float) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
