"""Dynamic int8 quantisation of a graph for ONNX Runtime on a CPU: weights per column ahead of time, activations per call.

The products with constant weights become MatMulInteger, everything else stays float32. The rows of the token embedding are looked
up, not multiplied: they stay exact, although the output layer that is tied to them is quantised.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

# the expert is a small part of the time, and its errors are errors of the plan
GRAPHS = ("vision", "prefill", "step")


def quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights inside; inputs and outputs keep names and types."""
    _fold_transposes(model)
    # shapes inferred for the float graph would contradict those of the integer one
    del model.graph.value_info[:]
    # the quantiser asks for a pass that the exporters have made
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        # 7 bits: processors without VNNI add pairs of products in 16 bits, which 8 bits overflow, silently
        quantize_dynamic(model, path, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
        found = onnx.load(path)
    del found.graph.value_info[:]
    del found.metadata_props[:]
    return found


def _fold_transposes(model: onnx.ModelProto) -> None:
    """Store weights that are only transposed and multiplied the way the product takes them."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    transposed = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights}
    for name, node in transposed.items():
        array = numpy_helper.to_array(weights[node.input[0]])
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array.transpose(order)), name))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
