"""A GPU made of host memory, behind the driver library, pycuda and cuda-python.

Work that is put into the stream runs only when somebody waits for it, so a host that reads too early reads old values. New
memory holds NaN. Foreign addresses, copies over an end, memory that isn't page-locked, threads that don't hold the context and the
first run of a kernel while recording are errors.
"""

from __future__ import annotations

import ctypes
import enum
import threading
import types

import numpy as np

ALIGNMENT = 256


class FakeGpu:
    def __init__(self, memory=1 << 30, sm="90", name="NVIDIA Fake"):
        self.memory, self.sm, self.name = memory, sm, name
        self.blocks, self.host = {}, {}
        self.queue, self.recording, self.graphs = [], None, {}
        self.allocations = self.launches = 0
        self.threads = set()

    @property
    def used(self):
        return sum(len(block) for block in self.blocks.values())

    def _aligned(self, size, fill):
        raw = np.full(size + ALIGNMENT, fill, np.uint8)
        skip = -raw.ctypes.data % ALIGNMENT
        return raw[skip : skip + size]

    def allocate(self, size):
        assert self.recording is None, "allocation while recording"
        self.check_thread()
        self.allocations += 1
        if self.used + size > self.memory:
            return None
        block = self._aligned(size, 0xFF)
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def pin(self, size):
        self.allocations += 1
        block = self._aligned(size, 0xAA)
        self.host[block.ctypes.data] = block
        return block

    @staticmethod
    def _find(blocks, address, size, what):
        for begin, block in blocks.items():
            if begin <= address < begin + len(block):
                assert address + size <= begin + len(block), f"{what}: {size} bytes at {address} go over the end"
                return block[address - begin : address - begin + size]
        raise AssertionError(f"{what}: {address} is nobody's memory")

    def device(self, address, size):
        return self._find(self.blocks, int(address), size, "GPU")

    def pinned(self, address, size):
        return self._find(self.host, int(address), size, "page-locked memory")

    def check_thread(self):
        assert threading.get_ident() in self.threads, "this thread doesn't hold the context"

    def submit(self, work):
        self.check_thread()
        (self.queue if self.recording is None else self.recording).append(work)

    def upload(self, address, source, size):
        source, target = self.pinned(source, size), self.device(address, size)
        self.submit(lambda: target.__setitem__(slice(None), source))

    def download(self, target, address, size, array=None):
        source = self.device(address, size)
        try:
            target = self.pinned(target, size)
        except AssertionError:
            assert self.recording is None and array is not None, "download to memory that isn't page-locked"
            target = array
        self.submit(lambda: target.__setitem__(slice(None), source))

    def copy_rows(self, target, target_pitch, source, source_pitch, width, rows):
        pairs = [(self.device(target + r * target_pitch, width), self.device(source + r * source_pitch, width)) for r in range(rows)]
        self.submit(lambda: [t.__setitem__(slice(None), s) for t, s in pairs])

    def fill(self, address, value, size):
        assert self.recording is None
        self.device(address, size)[:] = value

    def wait(self):
        assert self.recording is None, "wait while recording"
        self.check_thread()
        queue, self.queue = self.queue, []
        for work in queue:
            work()


def library(gpu, code=0):
    """libcuda; `code` is what cuInit returns."""
    results = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 100: b"CUDA_ERROR_NO_DEVICE"}
    handles = iter(range(1000, 100000))

    def put(reference, value):
        reference._obj.value = value
        return 0

    def name(buffer, length, device):
        buffer.value = gpu.name.encode()

    def begin(stream, mode):
        gpu.wait()
        gpu.recording = []
        return 0

    def end(stream, graph):
        handle = next(handles)
        gpu.graphs[handle], gpu.recording = gpu.recording, None
        return put(graph, handle)

    def instantiate(executable, graph, flags):
        handle = next(handles)
        gpu.graphs[handle] = gpu.graphs[graph.value]
        return put(executable, handle)

    def launch(executable, stream):
        gpu.launches += 1
        for work in gpu.graphs[executable.value]:
            gpu.submit(work)
        return 0

    return types.SimpleNamespace(
        cuInit=lambda flags: code,
        cuGetErrorName=lambda c, text: put(text, results.get(c.value)),
        cuDeviceGetName=name,
        cuDeviceGetAttribute=lambda value, attribute, device: put(value, int(gpu.sm[:-1] if attribute.value == 75 else gpu.sm[-1])),
        cuDriverGetVersion=lambda value: put(value, 13000),
        cuDeviceTotalMem_v2=lambda value, device: put(value, gpu.memory),
        cuStreamBeginCapture_v2=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiateWithFlags=instantiate,
        cuGraphLaunch=launch,
        cuGraphDestroy=lambda graph: gpu.graphs.pop(graph.value) and 0,
        cuGraphExecDestroy=lambda graph: gpu.graphs.pop(graph.value) and 0,
    )


STREAM = 77


def pycuda(gpu):
    """Modules pycuda and pycuda.driver, with what device.py may use of them."""

    class MemoryError(Exception):
        pass

    class Allocation:
        def __init__(self, address):
            self.address = address

        def __int__(self):
            return self.address

        def free(self):
            del gpu.blocks[self.address]

    class Stream:
        handle = STREAM

        def __init__(self, flags):
            assert flags == 1

    class Event:
        def __init__(self, flags):
            assert flags == 3

        def record(self, stream):
            assert isinstance(stream, Stream)

        def synchronize(self):
            gpu.wait()

    class Memcpy2D:
        def set_src_device(self, address):
            self.source = address

        def set_dst_device(self, address):
            self.target = address

        def __call__(self, stream):
            gpu.copy_rows(self.target, self.dst_pitch, self.source, self.src_pitch, self.width_in_bytes, self.height)

    class Context:
        def push(self):
            gpu.threads.add(threading.get_ident())

    class Device:
        def __init__(self, ordinal):
            assert ordinal == 0

        def retain_primary_context(self):
            return Context()

    def mem_alloc(size):
        address = gpu.allocate(size)
        if address is None:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return Allocation(address)

    module = types.ModuleType("pycuda")
    module.driver = types.ModuleType("pycuda.driver")
    contents = dict(
        init=lambda: None,
        Device=Device,
        Stream=Stream,
        Event=Event,
        Memcpy2D=Memcpy2D,
        MemoryError=MemoryError,
        mem_alloc=mem_alloc,
        memset_d8=gpu.fill,
        pagelocked_empty=lambda size, dtype: gpu.pin(size).view(dtype),
        memcpy_htod_async=lambda address, source, stream: gpu.upload(address, source.ctypes.data, source.nbytes),
        memcpy_dtoh_async=lambda target, address, stream: gpu.download(target.ctypes.data, address, target.nbytes, target),
        mem_get_info=lambda: (gpu.memory - gpu.used, gpu.memory),
    )
    vars(module.driver).update(contents)
    return {"pycuda": module, "pycuda.driver": module.driver}


def cuda_python(gpu):
    """Modules cuda, cuda.bindings and cuda.bindings.driver; every answer is a tuple that begins with the error."""

    class CUresult(enum.IntEnum):
        CUDA_SUCCESS = 0
        CUDA_ERROR_OUT_OF_MEMORY = 2

    ok = CUresult.CUDA_SUCCESS

    def allocate(size):
        address = gpu.allocate(size)
        return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0) if address is None else (ok, address)

    def do(work):
        def call(*arguments):
            work(*arguments)
            return (ok,)

        return call

    def download(target, address, size, stream):
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(target))
        gpu.download(target, address, size, array)

    def copy(parameters, stream):
        assert parameters.srcMemoryType == parameters.dstMemoryType == 2
        p = parameters
        gpu.copy_rows(p.dstDevice, p.dstPitch, p.srcDevice, p.srcPitch, p.WidthInBytes, p.Height)

    driver = types.ModuleType("cuda.bindings.driver")
    contents = dict(
        CUresult=CUresult,
        CUmemorytype=types.SimpleNamespace(CU_MEMORYTYPE_DEVICE=2),
        CUDA_MEMCPY2D=types.SimpleNamespace,
        cuInit=lambda flags: (ok,),
        cuDeviceGet=lambda ordinal: (ok, ordinal),
        cuDevicePrimaryCtxRetain=lambda device: (ok, 5),
        cuCtxSetCurrent=do(lambda context: gpu.threads.add(threading.get_ident())),
        cuStreamCreate=lambda flags: (ok, STREAM),
        cuEventCreate=lambda flags: (ok, 6),
        cuEventRecord=do(lambda event, stream: None),
        cuEventSynchronize=do(lambda event: gpu.wait()),
        cuMemAlloc=allocate,
        cuMemFree=do(lambda address: gpu.blocks.pop(address)),
        cuMemHostAlloc=lambda size, flags: (ok, gpu.pin(size).ctypes.data),
        cuMemFreeHost=do(lambda address: gpu.host.pop(address)),
        cuMemsetD8=do(gpu.fill),
        cuMemcpyHtoDAsync=do(lambda address, source, size, stream: gpu.upload(address, source, size)),
        cuMemcpyDtoHAsync=do(download),
        cuMemcpy2DAsync=do(copy),
        cuMemGetInfo=lambda: (ok, gpu.memory - gpu.used, gpu.memory),
    )
    vars(driver).update(contents)
    parent, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    parent.bindings, bindings.driver = bindings, driver
    parent.__path__, bindings.__path__ = [], []
    return {"cuda": parent, "cuda.bindings": bindings, "cuda.bindings.driver": driver}
