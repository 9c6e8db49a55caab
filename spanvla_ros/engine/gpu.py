"""The NVIDIA driver and the first GPU, asked through the driver library alone: nothing need be installed beside it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from spanvla_ros.contracts import EngineError

LIBRARY = "libcuda.so.1"
# device attributes of the CUDA driver API: compute capability
MAJOR, MINOR = 75, 76


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """name as the driver gives it; sm: compute capability without its dot, such as 87; driver: newest CUDA version that it
    serves, such as 12.6; memory_bytes in all."""

    name: str
    sm: str
    driver: str
    memory_bytes: int


def driver() -> Any:
    """The CUDA driver library, initialised. Errors: EngineError without a driver or without a GPU.

    Ask here before TensorRT is touched: without a driver its Runtime ends the whole process.
    """
    try:
        library = _library()
    except OSError as error:
        raise EngineError(f"no NVIDIA driver ({error}); choose backend onnxruntime, or install the driver") from None
    code = library.cuInit(0)
    if code:
        raise EngineError(f"no usable GPU: cuInit returned {error_name(library, code)}; choose backend onnxruntime, or look at nvidia-smi")
    return library


def _library() -> Any:
    return ctypes.CDLL(LIBRARY)


def error_name(library: Any, code: int) -> str:
    """An error of the driver API as people look it up."""
    text = ctypes.c_char_p()
    library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
    return f"{code} ({text.value.decode()})" if text.value else str(code)


def gpu() -> Gpu:
    """The first GPU, asked without a provider. Errors: as `driver`."""
    library = driver()
    name = ctypes.create_string_buffer(256)
    number, total = ctypes.c_int(), ctypes.c_size_t()
    found = {}
    library.cuDeviceGetName(name, ctypes.c_int(len(name)), ctypes.c_int(0))
    for attribute in (MAJOR, MINOR):
        library.cuDeviceGetAttribute(ctypes.byref(number), ctypes.c_int(attribute), ctypes.c_int(0))
        found[attribute] = number.value
    library.cuDriverGetVersion(ctypes.byref(number))
    library.cuDeviceTotalMem_v2(ctypes.byref(total), ctypes.c_int(0))
    return Gpu(
        name=name.value.decode(),
        sm=f"{found[MAJOR]}{found[MINOR]}",
        driver=f"{number.value // 1000}.{number.value % 1000 // 10}",
        memory_bytes=total.value,
    )
