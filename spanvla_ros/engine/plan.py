"""A TensorRT plan that runs: engine, context, and what its tensors must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import build
from spanvla_ros.engine.manifest import GraphEntry, Port

# TensorRT's names of types -> ours
TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "INT8": "int8", "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
AGAIN = "build it again on this machine: `spanvla build`"


class Plan:
    """One engine and its context. Errors: EngineError for bytes that aren't a plan for this GPU and this TensorRT, and for a
    plan whose tensors aren't those of the manifest."""

    def __init__(self, trt: Any, runtime: Any, words: Any, title: str, data: bytes, entry: GraphEntry):
        self.title, self._words = title, words
        self.engine = runtime.deserialize_cuda_engine(data)
        if self.engine is None:
            raise EngineError(f"TensorRT {trt.__version__} can't load the plan of {title} ({words.last_error}); {AGAIN}")
        self.ports: dict[str, Port] = {}
        inputs = set()
        for i in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(i)
            dtype = self.engine.get_tensor_dtype(name).name
            self.ports[name] = Port(name=name, dtype=TYPES.get(dtype, dtype), shape=tuple(self.engine.get_tensor_shape(name)))
            if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                inputs.add(name)
        self._check(entry, inputs, narrow=build.version(trt)[0] < 10)
        self._context = self.engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT {trt.__version__} can't start {title}: {words.last_error}; end other programs on the GPU")

    def _check(self, entry: GraphEntry, inputs: set[str], narrow: bool) -> None:
        for side, ports in (("input", entry.inputs), ("output", entry.outputs)):
            wanted = {port.name: port for port in ports}
            found = {name for name in self.ports if (name in inputs) == (side == "input")}
            for text, names in (("lacks", wanted.keys() - found), ("has an unknown", found - wanted.keys())):
                if names:
                    raise EngineError(f"the plan of {self.title} {text} {side} {min(names)!r}; {AGAIN}")
            for name, port in wanted.items():
                # before version 10 TensorRT had no 64-bit integers and took 32-bit ones for them
                dtype = "int32" if narrow and port.dtype == "int64" else port.dtype
                mine = self.ports[name]
                if (mine.dtype, mine.shape) != (dtype, port.shape):
                    found_as, wanted_as = f"{mine.dtype} {mine.shape}", f"{port.dtype} {port.shape}"
                    raise EngineError(f"{side} {name!r} of the plan of {self.title} is {found_as}, the manifest says {wanted_as}; {AGAIN}")

    def in_place(self, output: str, source: str) -> bool:
        """TensorRT wants this output in the memory of that input (the cache layer of 10.15 and newer)."""
        # older engines have no such method, and no such layer
        alias = getattr(self.engine, "get_aliased_input_tensor", None)
        return alias is not None and alias(output) == source

    def run(self, stream: int, addresses: Mapping[str, int]) -> None:
        """Put the graph into the stream, its tensors at these addresses."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT refuses the memory of {name!r} of {self.title}: {self._words.last_error}")
        if not self._context.execute_async_v3(stream):
            raise EngineError(f"TensorRT can't run {self.title}: {self._words.last_error}")

    def pick(self, names: tuple[str, ...]) -> list[Port]:
        return [self.ports[name] for name in names if name in self.ports]
