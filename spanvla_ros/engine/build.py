"""ONNX -> TensorRT plan, with names that every TensorRT from 8.6 to 11.x has."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import gpu

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What a plan depends on besides its ONNX and the machine; precision stands in the ONNX.

    workspace_mib: most scratch memory that a kernel may use; optimization_level 0 to 5: how long the builder searches;
    timing_cache: file of measured kernels, read where it exists and written after the build.
    """

    workspace_mib: int = 4096
    optimization_level: int = 3
    timing_cache: Path | None = None

    def __post_init__(self):
        if self.workspace_mib < 1:
            raise EngineError(f"workspace_mib is {self.workspace_mib}; it must be at least 1")
        if not 0 <= self.optimization_level <= 5:
            raise EngineError(f"optimization_level is {self.optimization_level}; TensorRT knows 0 to 5")


def tensorrt() -> Any:
    """The module tensorrt. Errors: EngineError without driver, without the package, or for a version that isn't served."""
    gpu.driver()
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(f"TensorRT can't be imported ({error}); install it, or choose backend torch-cuda or onnxruntime") from None
    if version(trt)[0] not in (10, 11) and version(trt)[:2] != (8, 6):
        raise EngineError(f"TensorRT {trt.__version__} is installed; served are 8.6, 10.x and 11.x")
    return trt


def version(trt: Any) -> tuple[int, ...]:
    """Major and minor number, and what follows as far as it is a number."""
    return tuple(int(part) for part in trt.__version__.split(".") if part.isdigit())


def logger(trt: Any) -> Any:
    """A TensorRT logger that hands warnings and errors to `logging`; `last_error` is the newest error's text."""

    class Logger(trt.ILogger):
        last_error = "no reason given"

        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):
                self.last_error = message.strip()
            if int(severity) <= int(trt.ILogger.WARNING):
                log.log(logging.ERROR if int(severity) <= int(trt.ILogger.ERROR) else logging.WARNING, "TensorRT: %s", message)

    return Logger()


def build_plan(onnx: Path, settings: BuildSettings) -> bytes:
    """Build the plan of one graph on this machine's GPU, for this GPU and this TensorRT alone.

    External weights are found beside the ONNX. Errors: EngineError where the parser or the builder refuses, in its words.
    """
    if not onnx.is_file():
        raise EngineError(f"{onnx} does not exist; make an engine with `spanvla export`")
    trt = tensorrt()
    words = logger(trt)
    builder = trt.Builder(words)
    major = version(trt)[0]
    flags = 0
    # types as in the ONNX; from version 11 on there is nothing else, before version 10 there is no such network
    if major == 10:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    elif major < 10:
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, words)
    if not parser.parse_from_file(str(onnx)):
        problems = [str(parser.get_error(i)).strip() for i in range(parser.num_errors)]
        raise EngineError(f"TensorRT {trt.__version__} can't read {onnx}: {'; '.join(problems) or words.last_error}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    config.builder_optimization_level = settings.optimization_level
    if major < 10 and _holds_half(trt, network):
        config.set_flag(trt.BuilderFlag.FP16)
    cache = _timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT {trt.__version__} can't build {onnx}: {words.last_error}")
    if cache is not None:
        settings.timing_cache.write_bytes(bytes(memoryview(cache.serialize())))
    return bytes(memoryview(plan))


def _holds_half(trt: Any, network: Any) -> bool:
    layers = (network.get_layer(i) for i in range(network.num_layers))
    return any(layer.get_output(i).dtype == trt.DataType.HALF for layer in layers for i in range(layer.num_outputs))


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    # one of another machine holds nothing that fits, which costs time but no correctness
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
