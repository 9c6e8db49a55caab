"""Checkpoint -> engine folder: four static ONNX graphs that share one weights file, and the manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import golden, parity, quantise, seal
from spanvla_ros.engine import precision as lowering
from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend
from spanvla_ros.engine.backends.torch import TorchBackend
from spanvla_ros.engine.manifest import FileEntry, GraphEntry, Manifest, Port, fingerprint
from spanvla_ros.model import checkpoint
from spanvla_ros.model.attention import written
from spanvla_ros.model.graphs import Graph, graphs
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning.preprocess import preprocess

# opset -> the exporter that writes it. 17 is the newest that TensorRT 8.6 reads, and the old exporter alone can write it; from 24
# on the cache stays in place and attention is one operator (TensorRT 10.15)
OPSETS = (17, 18, 20, 24)
OPSET = 20
PRECISIONS = ("fp32", "int8", *lowering.RECIPES)
TORCHSCRIPT_UNTIL = 17
IN_PLACE_FROM = 24
CALIBRATION = 16  # made-up prompts that show the range of values, where no others are given
WEIGHTS = "weights.bin"
EXTERNAL_BYTES = 1024  # smaller constants stay in the graph: shapes, axes, norms of tiny models
ALIGNMENT = 64


class WeightsFile:
    """One file of raw tensors for all graphs; equal contents are stored once.

    Float32 weights that bfloat16 holds exactly, as those of a bfloat16 checkpoint, are stored so: half the size, the same
    numbers. The graph casts them back, which a runtime does once, at load time. bfloat16=False stores all as they are, for a runtime
    without that type.
    """

    def __init__(self, bfloat16: bool = True):
        self._bfloat16 = bfloat16
        self._data = bytearray()
        self._offsets: dict[bytes, int] = {}

    def write(self, path: Path) -> None:
        path.write_bytes(self._data)

    def move(self, model: onnx.ModelProto) -> None:
        """Replace the large initialisers of a graph by references into this file."""
        casts = []
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            # types that numpy lacks are packed
            raw, data_type = tensor.raw_data or array.tobytes(), tensor.data_type
            if len(raw) < EXTERNAL_BYTES:
                continue
            bits = array.view(np.uint32) if array.dtype == np.float32 and self._bfloat16 else None
            if bits is not None and not (bits & 0xFFFF).any():
                raw, data_type = (bits >> 16).astype(np.uint16).tobytes(), TensorProto.BFLOAT16
                stored = f"{tensor.name}.bf16"
                casts.append(helper.make_node("Cast", [stored], [tensor.name], name=f"{tensor.name}.cast", to=TensorProto.FLOAT))
                tensor.name = stored
            shape = list(tensor.dims)
            name = tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type, tensor.data_location = name, data_type, TensorProto.EXTERNAL
            tensor.dims.extend(shape)
            for key, value in (("location", WEIGHTS), ("offset", self._place(raw)), ("length", len(raw))):
                tensor.external_data.add(key=key, value=str(value))
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    def _place(self, raw: bytes) -> int:
        key = hashlib.sha256(raw).digest()
        if key not in self._offsets:
            self._data.extend(bytes(-len(self._data) % ALIGNMENT))
            self._offsets[key] = len(self._data)
            self._data.extend(raw)
        return self._offsets[key]


@contextlib.contextmanager
def _quiet():
    """The exporter warns about parts of torch that these graphs don't use."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def trace(graph: Graph, opset: int = OPSET) -> onnx.ModelProto:
    """ONNX of one graph at an opset of OPSETS, weights inside."""
    fused = opset >= IN_PLACE_FROM
    with _quiet(), torch.no_grad(), written("operator" if fused else "plain"):
        model = _torchscript(graph, opset) if opset <= TORCHSCRIPT_UNTIL else _dynamo(graph, opset, _operators() if fused else None)
    for names, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
        found = tuple(v.name for v in values)
        if found != names:
            raise EngineError(f"the exporter made a graph with {found} instead of {names}")
    if _opset(model) != opset:
        raise EngineError(f"the exporter of torch {torch.__version__} wrote opset {_opset(model)} instead of {opset}; use one of {OPSETS}")
    del model.graph.value_info[:]
    for node in model.graph.node:
        # stack traces of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:]
    return model


def _dynamo(graph: Graph, opset: int, operators: dict[Any, Any] | None) -> onnx.ModelProto:
    program = torch.onnx.export(
        graph.module.eval(),
        graph.examples,
        dynamo=True,
        opset_version=opset,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        custom_translation_table=operators,
        verbose=False,
    )
    return program.model_proto


def _torchscript(graph: Graph, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        graph.module.eval().requires_grad_(False),
        graph.examples,
        buffer,
        dynamo=False,
        opset_version=opset,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
    )
    # the old exporter computes constant shapes in the graph
    return optimizer.optimize(onnx.load_model_from_string(buffer.getvalue()))


def _operators() -> dict[Any, Any]:
    """What the operators of `model.attention` are called in opset 24."""
    opset = onnxscript.values.Opset("", IN_PLACE_FROM)

    def write_columns(cache, columns, index):
        return opset.TensorScatter(cache, columns, index)

    return {torch.ops.spanvla.write_columns.default: write_columns}


def _opset(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if not o.domain)


def _prompts(model: SpanVLA, count: int) -> Iterator[Mapping[str, np.ndarray]]:
    return (preprocess(o, model.spec, model.tokenizer) for o in parity.observations(model.spec, count))


def _protos(
    model: SpanVLA,
    made: Mapping[str, Graph],
    opset: int,
    precision: str,
    calibration: Iterable[Mapping[str, np.ndarray]] | None,
    log: Callable[[str], None],
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Name and ONNX of every graph in its precision, weights inside."""
    if precision not in lowering.RECIPES:
        for title, graph in made.items():
            proto = trace(graph, opset)
            yield title, quantise.quantise(proto) if precision == "int8" and title in quantise.GRAPHS else proto
        return
    lowering.check(precision, opset)
    with tempfile.TemporaryDirectory() as name:
        traced, entries = Path(name), {}
        for title, graph in made.items():
            proto = trace(graph, opset)
            entries[title] = _entry(title, proto)
            onnx.save(proto, traced / entries[title].file, save_as_external_data=True, location=f"{title}.bin")
        log("planning in float32 to see the range of values ...")
        session = OnnxRuntimeBackend(traced, Manifest(spec=model.spec, files={}, graphs=entries, opset=opset), model.tokenizer)
        given = lowering.feeds(session, calibration or _prompts(model, CALIBRATION))
        session.close()
        for title, entry in entries.items():
            yield title, lowering.lower(traced / entry.file, title, precision, given)


def _entry(title: str, proto: onnx.ModelProto) -> GraphEntry:
    return GraphEntry(file=f"{title}.onnx", inputs=_ports(proto.graph.input), outputs=_ports(proto.graph.output))


def _ports(values: Any) -> tuple[Port, ...]:
    def port(value: onnx.ValueInfoProto) -> Port:
        kind = value.type.tensor_type
        return Port(
            name=value.name,
            dtype=str(helper.tensor_dtype_to_np_dtype(kind.elem_type)),
            shape=tuple(d.dim_value for d in kind.shape.dim),
        )

    return tuple(port(v) for v in values)


def export(
    model: SpanVLA,
    folder: Path | str,
    training: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = lambda text: None,
    *,
    opset: int = OPSET,
    precision: str = "fp32",
    expert_step: bool = False,
    calibration: Iterable[Mapping[str, np.ndarray]] | None = None,
) -> Manifest:
    """Write an engine folder: checkpoint, tokenizer, graphs, weights, manifest. The folder appears only when complete.

    The checkpoint in it is bfloat16; the graphs hold exactly its numbers, so a model in float32 is rounded first. opset: one of
    OPSETS; precision: one of PRECISIONS, int8 as `engine.quantise` makes it, those between as `engine.precision` does; expert_step: with
    the graph of that name; calibration: arrays of `planning.preprocess` that show the range of values, made-up ones where none are given.
    """
    if opset not in OPSETS or precision not in PRECISIONS:
        raise EngineError(f"can't export opset {opset} in {precision}; there are opsets {OPSETS} and precisions {PRECISIONS}")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        work = Path(name)
        checkpoint.save(model, work, torch.bfloat16)
        model = checkpoint.load(work)
        model.keep_prefix()
        words = fingerprint(work / checkpoint.TOKENIZER).sha256
        if model.spec.tokenizer_sha256 != words:
            raise EngineError(f"the model spec was made for tokenizer {model.spec.tokenizer_sha256 or '(none)'}, the checkpoint holds {words}")
        weights, entries, newest = WeightsFile(bfloat16=opset > TORCHSCRIPT_UNTIL), {}, opset
        made = graphs(model, "in_place" if opset >= IN_PLACE_FROM else "columns", expert_step=expert_step)
        for title, proto in _protos(model, made, opset, precision, calibration, log):
            entries[title], newest = _entry(title, proto), max(newest, _opset(proto))
            weights.move(proto)
            (work / entries[title].file).write_bytes(proto.SerializeToString(deterministic=True))
            log(f"{title}: {len(proto.graph.node)} nodes")
        weights.write(work / WEIGHTS)
        files: dict[str, FileEntry] = {path.name: fingerprint(path) for path in sorted(work.iterdir())}
        manifest = Manifest(
            spec=model.spec,
            files=files,
            graphs=entries,
            opset=newest,
            precision=precision,
            training=dict(training or {}),
            versions={package: version(package) for package in ("torch", "transformers", "onnx", "onnxscript", "tokenizers")},
        )
        golden.write(work, TorchBackend(work, manifest, model.tokenizer), _prompts(model, golden.COUNT))
        manifest = dataclasses.replace(manifest, files={**files, golden.NAME: fingerprint(work / golden.NAME)})
        manifest.write(work)
        folder.mkdir(exist_ok=True)
        # file by file, so that a model card beside them survives; the manifest last
        for path in sorted(work.iterdir(), key=lambda p: p.name == "manifest.json"):
            path.chmod(0o644)  # safetensors writes for its owner alone
            shutil.move(path, folder / path.name)
        # with what was there before
        seal.write(folder)
    return manifest
