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
from spanvla_ros.engine.manifest import Manifest
from spanvla_ros.planning.tokenizer import ACTION_START

MAX_THREADS = 2


class OnnxRuntimeBackend(Session):
    """The four graphs of an engine folder; the KV cache lies in numpy arrays that all of them read.

    threads: per operator, default min(2, cores). Results don't depend on timing; another thread count may round differently.
    """

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: Any, threads: int | None = None):
        super().__init__(manifest.spec, tokenizer.token_to_id(ACTION_START))
        self.threads = threads or min(MAX_THREADS, os.cpu_count() or 1)
        self._graphs = {name: self._open(folder / entry.file) for name, entry in manifest.graphs.items()}
        self._cache = {
            port.name: np.zeros(port.shape, port.dtype) for port in manifest.graphs["step"].inputs if port.name[:2] in ("k_", "v_")
        }
        self._expert_inputs = {port.name for port in manifest.graphs["expert"].inputs}
        self._outputs = {name: [port.name for port in entry.outputs] for name, entry in manifest.graphs.items()}

    def _open(self, path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        # four sessions with spinning pools would take the cores from each other, and from the rest of the car
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's own exceptions have no common base
            raise EngineError(f"ONNX Runtime {onnxruntime.__version__} can't load {path}: {error}") from error

    def _run_graph(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs[name], self._graphs[name].run(None, dict(inputs))))

    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        self.features = self._run_graph("vision", {"patches": prompt["patches"]})["feat"]
        out = self._run_graph("prefill", {"feat": self.features, **{k: prompt[k] for k in ("ids", "slot", "positions", "length")}})
        for name, cache in self._cache.items():
            cache[:, :, : self.spec.prompt_tokens] = out[name]
        self.logits = out["logits"]
        return int(self.logits.argmax())

    def _append(self, token: int, position: int, slot: int) -> int:
        out = self._run_graph(
            "step",
            {"token": np.array([[token]], np.int64), "position": np.array([position], np.int64), "valid": self._valid, **self._cache},
        )
        for name, cache in self._cache.items():
            cache[:, :, slot] = out[f"{name}_new"][:, :, 0]
        return int(out["next_token"][0, 0])

    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        taps = {name: cache for name, cache in self._cache.items() if name in self._expert_inputs}
        age = {"age": motion["age"]} if "age" in self._expert_inputs else {}
        return self._run_graph(
            "expert",
            {
                "noise": np.asarray(noise, np.float32),
                "ego": motion["ego"],
                "base": motion["base"],
                **age,
                "position": np.array([position], np.int64),
                "valid": self._valid,
                **taps,
            },
        )["waypoints"]

    def close(self) -> None:
        super().close()
        self._graphs = {}
        self._cache = {}
