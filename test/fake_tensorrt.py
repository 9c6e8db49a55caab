"""A `tensorrt` of a given version: the names that this version has and no other, over ONNX Runtime and a FakeGpu.

Names are gated at every access, in modules, classes and instances; one that the version has but nothing here needs is there and
raises NotImplementedError when it is called. Plans are tied to the version and the GPU as real ones are.
"""

from __future__ import annotations

import enum
import importlib.machinery
import json
from math import prod
from pathlib import Path

import numpy as np
import onnxruntime

VERSIONS = {"8.6": "8.6.0", "10.3": "10.3.0", "10.13": "10.13.3.9", "10.15": "10.15.1.29", "11.0": "11.0.0.114", "11.4": "11.4.0.106"}
EVERYWHERE = {
    "module": "__version__ ILogger Logger Builder OnnxParser Runtime NetworkDefinitionCreationFlag MemoryPoolType TensorIOMode DataType BuilderFlag",
    "Builder": "create_network create_builder_config build_serialized_network create_optimization_profile",
    "Network": "num_inputs num_layers get_layer get_input get_output num_outputs",
    "Config": "set_memory_pool_limit builder_optimization_level hardware_compatibility_level set_flag create_timing_cache set_timing_cache",
    "Parser": "parse parse_from_file num_errors get_error",
    "Runtime": "deserialize_cuda_engine",
    "Engine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype get_tensor_shape create_execution_context",
    "Context": "set_tensor_address set_input_shape execute_async_v3",
    "BuilderFlag": "",
    "NetworkDefinitionCreationFlag": "",
    "DataType": "FLOAT HALF INT32 INT8 BOOL UINT8",
}
# kind -> names; the first version that lacks them, and the first that has them
BEFORE_11 = {
    "Builder": "platform_has_fast_fp16 platform_has_fast_int8 platform_has_tf32",
    "Config": "int8_calibrator quantization_flags algorithm_selector",
    "Parser": "supports_model parse_with_weight_descriptors",
    "Engine": "device_memory_size get_device_memory_size_for_profile create_execution_context_without_device_memory weight_streaming_budget",
    "BuilderFlag": "FP16 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS",
    "NetworkDefinitionCreationFlag": "EXPLICIT_BATCH",
}
FROM_10 = {
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "DataType": "BF16 INT64 FP8",
    "Engine": "device_memory_size_v2",
}
FROM_10_TO_11 = {"BuilderFlag": "BF16 FP8"}
FROM_10_15 = {
    "Builder": "build_serialized_network_to_stream",
    "Network": "add_attention add_kv_cache_update add_rotary_embedding add_dynamic_quantize",
    "Config": "tiling_optimization_level",
    "Parser": "load_model_proto",
    "Engine": "get_aliased_input_tensor create_runtime_config",
}
FROM_11 = {"Network": "add_moe add_dist_collective add_attention_v2"}

TYPES = {"tensor(float)": ("FLOAT", "float32"), "tensor(int64)": ("INT64", "int64"), "tensor(int32)": ("INT32", "int32")}
HEADER = b"ftrt"


def names(version):
    """kind -> set of names of that version."""
    number = tuple(map(int, version.split(".")))
    tables = [EVERYWHERE]
    tables += [BEFORE_11] if number < (11, 0) else []
    tables += [FROM_10] if number >= (10, 0) else []
    tables += [FROM_10_TO_11] if (10, 0) <= number < (11, 0) else []
    tables += [FROM_10_15] if number >= (10, 15) else []
    tables += [FROM_11] if number >= (11, 0) else []
    found = {}
    for table in tables:
        for kind, text in table.items():
            found.setdefault(kind, set()).update(text.split())
    return found


class Gated:
    """Only the names of `api` can be read or set from outside; a name that starts with _ is the fake's own."""

    kind, api, version = "", set(), ""

    def __getattribute__(self, name):
        if name.startswith("_") and name != "__version__":
            return object.__getattribute__(self, name)
        kind = type(self)
        if name not in kind.api:
            raise AttributeError(f"TensorRT {kind.version}: {kind.kind} has no {name}")
        try:
            return object.__getattribute__(self, name)
        except AttributeError:
            return self._stub

    def __setattr__(self, name, value):
        if not name.startswith("_"):
            getattr(self, name)
        object.__setattr__(self, name, value)

    def _stub(self, *arguments, **named):
        raise NotImplementedError


def module(version, gpu):
    """The module `tensorrt` of that version."""
    api = names(version)
    full = VERSIONS[version]
    old = version == "8.6"

    def gated(kind):
        return lambda cls: type(cls.__name__, (cls, Gated), {"kind": kind, "api": api[kind], "version": version})

    def flags(kind):
        return enum.IntEnum(kind, sorted(api[kind]), start=0) if api[kind] else type(kind, (), {})

    data_type = enum.Enum("DataType", sorted(api["DataType"]))

    class Severities:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger(Severities):
        def __init__(self):
            pass

    class Logger(ILogger):
        def __init__(self, severity=Severities.WARNING):
            pass

        def log(self, severity, message):
            pass

    class Host(bytes):
        nbytes = property(len)

    @gated("Config")
    class Config:
        def __init__(self):
            object.__setattr__(self, "builder_optimization_level", 3)
            self._pools, self._flags = {}, set()

        def set_memory_pool_limit(self, pool, size):
            self._pools[pool] = size

        def set_flag(self, flag):
            self._flags.add(flag.name)

        def create_timing_cache(self, data):
            if data and not data.startswith(b"cache"):
                return None
            found = type("TimingCache", (), {})()
            found.serialize = lambda: Host(b"cache of " + gpu.sm.encode())
            found.data = data
            return found

        def set_timing_cache(self, cache, ignore_mismatch):
            return not cache.data or cache.data.endswith(gpu.sm.encode())

    class Layer:
        num_outputs = 1

        def get_output(self, index):
            return type("Tensor", (), {"dtype": data_type.FLOAT})

    @gated("Network")
    class Network:
        def __init__(self, logger):
            self._onnx, self._logger = None, logger

        @property
        def num_layers(self):
            return 1

        def get_layer(self, index):
            return Layer()

    @gated("Parser")
    class Parser:
        def __init__(self, network, logger):
            self._network, self._errors = network, []

        def parse_from_file(self, path):
            try:
                onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            except Exception as error:
                self._errors.append(f"In node -1: {type(error).__name__}: ModelProto can't be parsed")
                return False
            self._network._onnx = path
            return True

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

    @gated("Builder")
    class Builder:
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, bits):
            wanted = {"8.6": "EXPLICIT_BATCH", "10": "STRONGLY_TYPED", "11": ""}[version if old else version.split(".")[0]]
            kind = self._module.NetworkDefinitionCreationFlag
            assert bits == (1 << int(getattr(kind, wanted)) if wanted else 0)
            return Network(self._logger)

        def create_builder_config(self):
            return Config()

        def build_serialized_network(self, network, config):
            if config._pools["WORKSPACE"] < 2 << 20:
                self._logger.log(1, "Could not find any implementation for node MatMul_7: insufficient workspace")
                return None
            body = json.dumps({"version": full, "sm": gpu.sm, "onnx": network._onnx, "level": config.builder_optimization_level}).encode()
            return Host(HEADER + len(body).to_bytes(8, "little") + body)

    @gated("Runtime")
    class Runtime:
        def __init__(self, logger):
            self._logger = logger

        def deserialize_cuda_engine(self, data):
            if not data.startswith(HEADER) or len(data) != 12 + int.from_bytes(data[4:12], "little"):
                self._logger.log(1, f"Serialization assertion failed: plan of {len(data)} bytes is corrupt")
                return None
            plan = json.loads(data[12:])
            if plan["version"] != full:
                self._logger.log(1, f"The engine plan file is not compatible with this version of TensorRT, expecting {full} got {plan['version']}")
                return None
            if plan["sm"] != gpu.sm:
                self._logger.log(1, f"The engine plan file is generated on an incompatible device, expecting compute {gpu.sm} got {plan['sm']}")
                return None
            return Engine(plan, self._logger)

    @gated("Engine")
    class Engine:
        def __init__(self, plan, logger):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            self._session = onnxruntime.InferenceSession(plan["onnx"], options, providers=["CPUExecutionProvider"])
            self._inputs = {port.name: port for port in self._session.get_inputs()}
            self._ports = {**self._inputs, **{port.name: port for port in self._session.get_outputs()}}
            self._logger = logger
            self._weights = gpu.allocate(Path(plan["onnx"]).stat().st_size)
            if self._weights is None:
                logger.log(1, "[defaultAllocator.cpp::allocate] Cuda failure: out of memory")

        @property
        def num_io_tensors(self):
            return len(self._ports)

        def get_tensor_name(self, index):
            return list(self._ports)[index]

        def get_tensor_mode(self, name):
            return "INPUT" if name in self._inputs else "OUTPUT"

        def get_tensor_dtype(self, name):
            found = TYPES[self._ports[name].type][0]
            return data_type["INT32" if old and found == "INT64" else found]

        def get_tensor_shape(self, name):
            return tuple(self._ports[name].shape)

        def create_execution_context(self):
            return None if self._weights is None else Context(self)

        def get_aliased_input_tensor(self, name):
            source = name.removesuffix("_out")
            return source if name.endswith("_out") and source in self._inputs else None

    @gated("Context")
    class Context:
        def __init__(self, engine):
            self._engine, self._addresses, self._warm = engine, {}, False

        def set_tensor_address(self, name, address):
            assert name in self._engine._ports, name
            self._addresses[name] = address
            return address % 256 == 0

        def execute_async_v3(self, stream):
            engine = self._engine
            views = {}
            for name, port in engine._ports.items():
                kept = "int32" if old and port.type == "tensor(int64)" else TYPES[port.type][1]
                size = prod(port.shape) * np.dtype(kept).itemsize
                views[name] = gpu.device(self._addresses[name], size).view(kept).reshape(port.shape), TYPES[port.type][1]
            for output in engine._ports.keys() - engine._inputs.keys():
                alias = engine.get_aliased_input_tensor(output) if "get_aliased_input_tensor" in api["Engine"] else None
                for name in engine._inputs:
                    shared = np.shares_memory(views[output][0], views[name][0])
                    assert shared == (name == alias), f"{output} and {name} share memory: {shared}"
            if gpu.recording is not None:
                assert self._warm, "the first run can't be recorded"

            def work():
                self._warm = True
                found = engine._session.run(None, {name: views[name][0].astype(views[name][1]) for name in engine._inputs})
                for port, value in zip(engine._session.get_outputs(), found):
                    views[port.name][0][...] = value

            gpu.submit(work)
            return True

    class Module(Gated):
        kind = "module"

    Module.api, Module.version = api["module"], version
    made = Module()
    contents = dict(
        __version__=full,
        ILogger=ILogger,
        Logger=Logger,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
        NetworkDefinitionCreationFlag=flags("NetworkDefinitionCreationFlag"),
        BuilderFlag=flags("BuilderFlag"),
        DataType=data_type,
        MemoryPoolType=type("MemoryPoolType", (), {"WORKSPACE": "WORKSPACE"}),
        TensorIOMode=type("TensorIOMode", (), {"INPUT": "INPUT", "OUTPUT": "OUTPUT"}),
    )
    for name, value in contents.items():
        object.__setattr__(made, name, value)
    # others look for packages by it
    object.__setattr__(made, "__spec__", importlib.machinery.ModuleSpec("tensorrt", None))
    Builder._module = made
    return made
