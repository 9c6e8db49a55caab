"""Memory, stream, event and CUDA graphs of one NVIDIA GPU.

Memory, streams and events come from pycuda or from cuda-python's cuda-bindings, whichever is installed. Graphs go to the
driver library itself: pycuda knows none, and both providers use its handles.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.gpu import Gpu, driver, error_name, gpu

log = logging.getLogger(__name__)

ALIGNMENT = 256  # TensorRT wants tensors to begin at such addresses
# values of the CUDA driver API
NON_BLOCKING, BLOCKING_SYNC, DISABLE_TIMING = 1, 1, 2
CAPTURE_THREAD_LOCAL = 1

class Graph:
    """Recorded work, ready to be launched."""

    def __init__(self, library: Any, handle: ctypes.c_void_p):
        self.library, self.handle = library, handle


class Device(ABC):
    """Memory and one non-blocking stream of the first GPU. Every copy is put into the stream and not waited for.

    Addresses are integers, aligned to ALIGNMENT. Pinned host memory comes as numpy bytes. A thread calls `use` before
    anything else. Errors: EngineError with CUDA's own words; one that says so where memory has run out.
    """

    provider: str

    def __init__(self):
        self._driver = driver()
        self.gpu = gpu()
        self._graphs: list[Graph] = []

    @property
    @abstractmethod
    def stream(self) -> int:
        """Handle of the stream."""

    @abstractmethod
    def use(self) -> None:
        """Make this GPU the current one of the calling thread."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Address of so many zero bytes, kept until `close`."""

    @abstractmethod
    def pinned(self, size: int) -> np.ndarray:
        """Page-locked host memory (size,) uint8, kept until `close`: zeros."""

    @abstractmethod
    def upload(self, address: int, source: np.ndarray) -> None:
        """Copy contiguous host memory to the GPU."""

    @abstractmethod
    def download(self, target: np.ndarray, address: int) -> None:
        """Copy from the GPU into contiguous host memory."""

    @abstractmethod
    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copy `rows` rows of `width` bytes within the GPU; rows begin a pitch apart."""

    @abstractmethod
    def wait(self) -> None:
        """Sleep until the stream is empty: the cores belong to the rest of the car."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what `work` puts into the stream, without running it."""
        stream = ctypes.c_void_p(self.stream)
        graph, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", stream, ctypes.c_int(CAPTURE_THREAD_LOCAL))
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(handle), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)
        self._graphs.append(Graph(self._driver, handle))
        return self._graphs[-1]

    def launch(self, graph: Graph) -> None:
        """Put recorded work into the stream."""
        self._call("cuGraphLaunch", graph.handle, ctypes.c_void_p(self.stream))

    def close(self) -> None:
        """Free all memory and graphs."""
        for graph in self._graphs:
            self._call("cuGraphExecDestroy", graph.handle)
        self._graphs = []

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            raise EngineError(f"{name} on {self.gpu.name} returned {error_name(self._driver, code)}")


class PycudaDevice(Device):
    """Provider pycuda."""

    provider = "pycuda"

    def __init__(self):
        from pycuda import driver as cuda

        super().__init__()
        self._cuda = cuda
        cuda.init()
        # TensorRT works in the primary context, so memory must come from there too
        self._context = cuda.Device(0).retain_primary_context()
        self._threads = threading.local()
        self.use()
        self._stream = cuda.Stream(NON_BLOCKING)
        self._event = cuda.Event(BLOCKING_SYNC | DISABLE_TIMING)
        self._memory: list[Any] = []

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    def use(self) -> None:
        if not getattr(self._threads, "entered", False):
            self._context.push()
            self._threads.entered = True

    def allocate(self, size: int) -> int:
        try:
            memory = self._cuda.mem_alloc(size)
        except self._cuda.MemoryError:
            raise _full(self.gpu, size, self.free_bytes()) from None
        self._memory.append(memory)
        self._cuda.memset_d8(int(memory), 0, size)
        return int(memory)

    def pinned(self, size: int) -> np.ndarray:
        array = self._cuda.pagelocked_empty(size, np.uint8)
        array[:] = 0
        return array

    def upload(self, address: int, source: np.ndarray) -> None:
        self._cuda.memcpy_htod_async(address, source, self._stream)

    def download(self, target: np.ndarray, address: int) -> None:
        self._cuda.memcpy_dtoh_async(target, address, self._stream)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        copy = self._cuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch, copy.width_in_bytes, copy.height = source_pitch, target_pitch, width, rows
        copy(self._stream)

    def wait(self) -> None:
        self._event.record(self._stream)
        self._event.synchronize()

    def free_bytes(self) -> int:
        return int(self._cuda.mem_get_info()[0])

    def close(self) -> None:
        super().close()
        for memory in self._memory:
            memory.free()
        self._memory = []


class CudaPythonDevice(Device):
    """Provider cuda-python: its package cuda-bindings."""

    provider = "cuda-python"

    def __init__(self):
        from cuda.bindings import driver as cuda

        super().__init__()
        self._cuda = cuda
        self._ask(cuda.cuInit(0))
        self._ordinal = self._ask(cuda.cuDeviceGet(0))
        self._context = self._ask(cuda.cuDevicePrimaryCtxRetain(self._ordinal))
        self.use()
        self._stream = self._ask(cuda.cuStreamCreate(NON_BLOCKING))
        self._event = self._ask(cuda.cuEventCreate(BLOCKING_SYNC | DISABLE_TIMING))
        self._memory: list[int] = []
        self._pinned: list[int] = []

    @property
    def stream(self) -> int:
        return int(self._stream)

    def use(self) -> None:
        self._ask(self._cuda.cuCtxSetCurrent(self._context))

    def allocate(self, size: int) -> int:
        code, pointer = self._cuda.cuMemAlloc(size)
        if code == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise _full(self.gpu, size, self.free_bytes())
        address = int(self._ask((code, pointer)))
        self._memory.append(address)
        self._ask(self._cuda.cuMemsetD8(address, 0, size))
        return address

    def pinned(self, size: int) -> np.ndarray:
        address = int(self._ask(self._cuda.cuMemHostAlloc(size, 0)))
        self._pinned.append(address)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        array[:] = 0
        return array

    def upload(self, address: int, source: np.ndarray) -> None:
        self._ask(self._cuda.cuMemcpyHtoDAsync(address, source.ctypes.data, source.nbytes, self._stream))

    def download(self, target: np.ndarray, address: int) -> None:
        self._ask(self._cuda.cuMemcpyDtoHAsync(target.ctypes.data, address, target.nbytes, self._stream))

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        copy = self._cuda.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = self._cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch, copy.dstDevice, copy.dstPitch = source, source_pitch, target, target_pitch
        copy.WidthInBytes, copy.Height = width, rows
        self._ask(self._cuda.cuMemcpy2DAsync(copy, self._stream))

    def wait(self) -> None:
        self._ask(self._cuda.cuEventRecord(self._event, self._stream))
        self._ask(self._cuda.cuEventSynchronize(self._event))

    def free_bytes(self) -> int:
        return int(self._ask(self._cuda.cuMemGetInfo(), 0))

    def close(self) -> None:
        super().close()
        for address in self._memory:
            self._ask(self._cuda.cuMemFree(address))
        for address in self._pinned:
            self._ask(self._cuda.cuMemFreeHost(address))
        self._memory, self._pinned = [], []

    def _ask(self, answer: tuple[Any, ...], index: int = 0) -> Any:
        """The value of an answer (error, value, ...)."""
        if int(answer[0]):
            raise EngineError(f"CUDA on {self.gpu.name} returned {error_name(self._driver, int(answer[0]))}")
        return answer[1 + index] if len(answer) > 1 else None


# in the order of choice
PROVIDERS: Mapping[str, type[Device]] = {device.provider: device for device in (PycudaDevice, CudaPythonDevice)}


def _full(gpu: Gpu, size: int, free: int) -> EngineError:
    return EngineError(
        f"the memory of {gpu.name} is full: {size / 2**20:.0f} MiB wanted, {free / 2**20:.0f} of {gpu.memory_bytes / 2**20:.0f} MiB free; "
        "end other programs on the GPU, or use a smaller engine"
    )


def open_device() -> Device:
    """The first GPU through the first provider that is installed. Errors: EngineError without driver, GPU or provider."""
    driver()
    missing = []
    for name, opener in PROVIDERS.items():
        try:
            device = opener()
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        log.info("GPU %s (sm_%s) through %s%s", device.gpu.name, device.gpu.sm, name, f"; not {', '.join(missing)}" if missing else "")
        return device
    raise EngineError(f"nothing installed that reaches the GPU: {', '.join(missing)}; install spanvla_ros[tensorrt]")
