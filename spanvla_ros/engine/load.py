"""Engine folder -> something that plans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError, ModelSpec
from spanvla_ros.engine import manifest as manifests
from spanvla_ros.engine import store
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.planning import tokenizer as tokenizers
from spanvla_ros.planning.planner import Planner

BACKENDS = ("onnxruntime", "torch")


def load_backend(engine_dir: Path | str, backend: str = "auto", *, threads: int | None = None) -> tuple[ModelSpec, Any, Session]:
    """Verify an engine folder, its plans too, and open it: (spec, tokenizer, backend).

    backend: auto, onnxruntime or torch; threads: None chooses. Errors: EngineError names the file or the package at fault.
    """
    folder = Path(engine_dir)
    manifest = manifests.verify(folder)
    store.verify(folder, manifest)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    found = manifest.files["tokenizer.json"].sha256
    if manifest.spec.tokenizer_sha256 != found:
        raise EngineError(f"{folder}: the model was trained with tokenizer {manifest.spec.tokenizer_sha256}, the folder holds {found}")
    opener = _opener("onnxruntime" if backend == "auto" else backend)
    return manifest.spec, tokenizer, opener(folder, manifest, tokenizer, threads)


def load_planner(engine_dir: Path | str, backend: str = "auto", *, threads: int | None = None) -> Planner:
    """Planner on an engine folder, as `load_backend`."""
    spec, tokenizer, session = load_backend(engine_dir, backend, threads=threads)
    return Planner(spec, tokenizer, session, manifests.read(engine_dir).sha256)


def _opener(name: str) -> Callable[..., Session]:
    if name == "onnxruntime":
        from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend
    if name == "torch":
        from spanvla_ros.engine.backends.torch import TorchBackend

        return TorchBackend
    raise EngineError(f"unknown backend {name!r}; there are auto, {', '.join(BACKENDS)}")
