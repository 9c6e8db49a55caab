"""Graphs of less precision for TensorRT, made by NVIDIA's ModelOpt (extra `modelopt`).

Precision stands in the ONNX, so that every TensorRT from 8.6 to 11 builds the same network. ModelOpt runs the float32 graph on
real inputs first: what leaves its range there stays float32, as activations of Qwen2.5-VL overflow float16.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend

Feeds = Mapping[str, Sequence[Mapping[str, np.ndarray]]]  # graph -> sets of its inputs, by name

@dataclass(frozen=True, kw_only=True)
class Recipe:
    """rest: what a graph computes in; products: what the factors of the products in `graphs` are rounded to before, int4 the weights alone.

    The expert and the layer that makes the logits are never rounded: they cost little and are the plan and the words.
    """

    rest: Literal["bf16", "fp16"]
    products: Literal["fp8", "int4"] | None = None
    graphs: tuple[str, ...] = ()
    opset: int  # the oldest that has these types


RECIPES = {
    "bf16": Recipe(rest="bf16", opset=18),
    "fp16": Recipe(rest="fp16", opset=17),
    "fp8": Recipe(rest="bf16", products="fp8", graphs=("vision", "prefill", "step"), opset=20),
    "int4": Recipe(rest="fp16", products="int4", graphs=("prefill", "step"), opset=20),
}


def check(precision: str, opset: int) -> None:
    """Errors: EngineError where ModelOpt is not installed or the recipe needs a newer opset."""
    needed = RECIPES[precision].opset
    if opset < needed:
        raise EngineError(f"{precision} needs opset {needed} or newer, not {opset}; choose --opset {needed}, or fp16")
    try:
        import modelopt.onnx.autocast
        import modelopt.onnx.quantization  # noqa: F401
    except ImportError as error:
        raise EngineError(f"{precision} needs NVIDIA's ModelOpt ({error}); pip install 'spanvla_ros[modelopt]', or choose fp32 or int8") from None


def feeds(session: OnnxRuntimeBackend, prompts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[dict[str, np.ndarray]]]:
    """What float32 graphs are given while they plan from arrays of `planning.preprocess`. Errors: EngineError where there are none."""
    spec = session.spec
    found: dict[str, list[dict[str, np.ndarray]]] = {graph: [] for graph in ("vision", "prefill", "step", "expert")}
    for prompt in prompts:
        session.prefill(prompt)
        for _ in session.decode(spec.max_reasoning_tokens + 1):
            pass
        session.flow(prompt, np.zeros((1, spec.waypoints, 3), np.float32))
        for graph, inputs in found.items():
            inputs.append(session.inputs(graph))
    if not found["vision"]:
        raise EngineError("there is no sample to see the range of values on; give a data set with a training split, or none")
    # one Euler step begins as all of them do
    first = {"tau": np.zeros(1, np.float32), "interval": np.full(1, 1 / spec.flow_steps, np.float32)}
    found["expert_step"] = [{"point": inputs["noise"], **first, **inputs} for inputs in found["expert"]]
    return found


def lower(source: Path, graph: str, precision: str, given: Feeds) -> onnx.ModelProto:
    """A float32 graph in a precision of RECIPES, weights inside; inputs and outputs keep names and types. given: as `feeds` returns it."""
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from modelopt.onnx.quantization import quantize

    recipe = RECIPES[precision]
    with tempfile.TemporaryDirectory() as name, _quiet():
        rounded, inputs = Path(name) / "rounded.onnx", Path(name) / "inputs"
        if recipe.products and graph in recipe.graphs:
            quantize(
                str(source),
                quantize_mode=recipe.products,
                calibration_data=_stacked(given[graph]),
                calibration_method="awq_clip" if recipe.products == "int4" else None,
                calibration_eps=["cpu"],
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=_logits(source),
                high_precision_dtype="fp32",
                use_external_data_format=True,
                output_path=str(rounded),
                log_level="ERROR",
            )
            source = rounded
        inputs.mkdir()
        for index, one in enumerate(given[graph]):
            np.savez(inputs / f"{index:05d}.npz", **one)
        found = convert_to_mixed_precision(str(source), low_precision_type=recipe.rest, keep_io_types=True, calibration_data=str(inputs))
    del found.graph.value_info[:]
    return found


def _stacked(given: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """ModelOpt takes several sets of inputs one after the other along the first axis."""
    return {name: np.concatenate([one[name] for one in given]) for name in given[0]}


def _logits(source: Path) -> list[str]:
    """Name of the product whose result is `logits`; none in a graph without them."""
    makers = {name: node for node in onnx.load(source, load_external_data=False).graph.node for name in node.output}
    node = makers.get("logits")
    while node is not None and node.op_type not in ("MatMul", "Gemm"):
        node = makers.get(node.input[0])
    return [node.name] if node else []


@contextlib.contextmanager
def _quiet():
    """ModelOpt tells of every node that it leaves alone, and draws bars."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
