"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.engine.manifest import GraphEntry, Manifest
from spanvla_ros.planning.tokenizer import ACTION_START

MAX_THREADS = 2
IN_PLACE = "_out"  # k_00_out may lie where k_00 lies


class _Graph:
    """A session whose inputs and outputs are bound, once, to numpy arrays: nothing is allocated or looked up per run.

    `memory`: arrays by name that graphs share, such as the caches; grows by the inputs of this graph.
    """

    def __init__(self, path: Path, entry: GraphEntry, options: onnxruntime.SessionOptions, memory: dict[str, np.ndarray]):
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions have no common base
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} can't load {path}: {error}") from error
        self._binding = self._session.io_binding()
        self.inputs, self.outputs = {}, {}
        for port in entry.inputs:
            array = memory.setdefault(port.name, np.zeros(port.shape, port.dtype))
            if array.shape != port.shape:
                raise EngineError(f"{path}: input {port.name} has shape {port.shape}, the other graphs have {array.shape}; export again")
            self.inputs[port.name] = array
            self._binding.bind_ortvalue_input(port.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for port in entry.outputs:
            whole = self.inputs.get(port.name.removesuffix(IN_PLACE)) if port.name.endswith(IN_PLACE) else None
            self.outputs[port.name] = np.zeros(port.shape, port.dtype) if whole is None else whole
            self._binding.bind_ortvalue_output(port.name, onnxruntime.OrtValue.ortvalue_from_numpy(self.outputs[port.name]))

    def run(self, **values: Any) -> dict[str, np.ndarray]:
        """Copy `values` into the inputs of these names, compute, return the outputs: views that the next run overwrites."""
        for name, value in values.items():
            self.inputs[name][...] = value
        self._session.run_with_iobinding(self._binding)
        return self.outputs


class OnnxRuntimeBackend(Session):
    """The four graphs of an engine folder, in float32 or int8; the KV cache lies in arrays that all of them read.

    threads: per operator, default min(2, cores). Results don't depend on timing; another thread count may round differently.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Any, threads: int | None = None):
        super().__init__(manifest.spec, tokenizer.token_to_id(ACTION_START))
        self.threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        memory: dict[str, np.ndarray] = {"valid": self._valid}
        names = ("vision", "prefill", "step", "expert")
        lacking = [name for name in names if name not in manifest.graphs]
        if lacking:
            raise EngineError(f"{folder} has no graph {lacking[0]!r}, only {', '.join(manifest.graphs)}; export again")
        self._graphs = {name: _Graph(folder / manifest.graphs[name].file, manifest.graphs[name], self._options(), memory) for name in names}
        self._cache = {name: memory[name] for name in self._graphs["step"].inputs if name[:2] in ("k_", "v_")}
        # an engine from before features were reused takes all pairs at once
        self._at_once = self._graphs["vision"].inputs["patches"].shape[0] == self.spec.groups

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        # four sessions with spinning pools would take the cores from each other, and from the rest of the car
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        feat = self._graphs["prefill"].inputs["feat"]
        if self._at_once:
            feat[:] = self._graphs["vision"].run(patches=prompt["patches"])["feat"]
        else:
            pairs = self.seen.features(prompt["patches"], lambda patches: self._graphs["vision"].run(patches=patches)["feat"].copy())
            # (cameras x tokens, H) of every pair -> camera by camera, as the prompt counts them
            cameras = len(self.spec.cameras)
            parts = feat.reshape(cameras, len(pairs), -1, feat.shape[-1])
            for index, pair in enumerate(pairs):
                parts[:, index] = pair.reshape(cameras, -1, feat.shape[-1])
        out = self._graphs["prefill"].run(**{k: prompt[k] for k in ("ids", "slot", "positions", "length")})
        for name, cache in self._cache.items():
            if name in out:
                cache[:, :, : self.spec.prompt_tokens] = out[name]
        self.features, self.logits = feat, out["logits"]
        return int(self.logits.argmax())

    def _append(self, token: int, position: int, slot: int) -> int:
        step = self._graphs["step"]
        index = {"index": slot} if "index" in step.inputs else {}
        out = step.run(token=token, position=position, **index)
        for name, cache in self._cache.items():
            column = out.get(f"{name}_new")
            if column is not None:
                cache[:, :, slot] = column[:, :, 0]
        return int(out["next_token"][0, 0])

    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        expert = self._graphs["expert"]
        age = {"age": motion["age"]} if "age" in expert.inputs else {}
        return expert.run(noise=noise, ego=motion["ego"], base=motion["base"], position=position, **age)["waypoints"].copy()

    def inputs(self, graph: str) -> dict[str, np.ndarray]:
        """What a graph was last given."""
        return {name: array.copy() for name, array in self._graphs[graph].inputs.items()}

    def close(self) -> None:
        super().close()
        self._graphs = {}
        self._cache = {}
