"""Engine folder -> something that plans."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError, ModelSpec
from spanvla_ros.engine import gpu, store
from spanvla_ros.engine import manifest as manifests
from spanvla_ros.engine.backends.session import Session
from spanvla_ros.planning import tokenizer as tokenizers
from spanvla_ros.planning.planner import Planner

# in the order of preference: `auto` takes the first that this machine can run, a fallback the next one
BACKENDS = ("tensorrt", "torch-cuda", "onnxruntime", "torch")
BFLOAT16 = ("bf16", "fp8")  # precisions of graphs that compute in it

log = logging.getLogger(__name__)


def load_backend(
    engine_dir: Path | str, backend: str = "auto", *, threads: int | None = None, allow_fallback: bool = False
) -> tuple[ModelSpec, Any, Session]:
    """Verify an engine folder, its plans too, and open it: (spec, tokenizer, backend).

    backend: auto or one of BACKENDS; threads: None chooses. allow_fallback: where the chosen one fails, the next of BACKENDS is
    taken, and the session's `passed_over` says why. Errors: EngineError names the file or the package at fault.
    """
    folder = Path(engine_dir)
    manifest = manifests.verify(folder)
    if not allow_fallback:  # a damaged plan must not keep the next back-end from driving; who opens a plan checks it again
        store.verify(folder, manifest)
    tokenizer = tokenizers.load(folder / "tokenizer.json")
    found = manifest.files["tokenizer.json"].sha256
    if manifest.spec.tokenizer_sha256 != found:
        raise EngineError(f"{folder}: the model was trained with tokenizer {manifest.spec.tokenizer_sha256}, the folder holds {found}")
    candidates, absent = _candidates(backend, folder)
    session = _first(candidates if allow_fallback else candidates[:1], lambda name: _opener(name)(folder, manifest, tokenizer, threads))
    log.info("backend %s%s", session.name, "".join(f"; {line}" for line in (*absent, *session.passed_over)))
    return manifest.spec, tokenizer, session


def choose(backend: str, engine_dir: Path | str) -> str:
    """The back-end that `auto` stands for on this machine; another name stands for itself. Errors: EngineError for unknown ones."""
    return _candidates(backend, Path(engine_dir))[0][0]


def on_model(model: Any, backend: str, threads: int | None = None) -> Session:
    """A torch backend on a `SpanVLA` in memory instead of an engine folder; the model is not copied."""
    if not backend.startswith("torch"):
        raise EngineError(f"backend {backend!r} runs engine folders only; export the model first")
    return _opener(choose(backend, "")).on(model, threads)


def _first(candidates: tuple[str, ...], start: Callable[[str], Session]) -> Session:
    """The first of `candidates` that starts; the error of the last one is raised."""
    failed: list[str] = []
    for name in candidates[:-1]:
        try:
            session = start(name)
            break
        except (EngineError, ImportError) as error:
            failed.append(f"{name}: {' '.join(str(error).split())}")
            log.warning("backend %s can't be used: %s", name, error)
    else:
        session = start(candidates[-1])
    session.passed_over = tuple(failed)
    return session


def load_planner(
    engine_dir: Path | str,
    backend: str = "auto",
    *,
    threads: int | None = None,
    allow_fallback: bool = False,
    max_reasoning_tokens: int | None = None,
) -> Planner:
    """Planner on an engine folder, as `load_backend`; max_reasoning_tokens as `Planner`."""
    spec, tokenizer, session = load_backend(engine_dir, backend, threads=threads, allow_fallback=allow_fallback)
    try:
        return Planner(
            spec,
            tokenizer,
            session,
            manifests.read(engine_dir).sha256,
            max_reasoning_tokens=max_reasoning_tokens,
            backend_name=session.name,
            passed_over=session.passed_over,
        )
    except Exception:
        session.close()
        raise


def _candidates(backend: str, folder: Path) -> tuple[tuple[str, ...], list[str]]:
    """Backends to try in this order, and, for auto, why better ones are not among them."""
    if backend != "auto":
        if backend not in BACKENDS:
            raise EngineError(f"unknown backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
        return BACKENDS[BACKENDS.index(backend) :], []
    reasons = {name: PROBES[name](folder) if name in PROBES else None for name in BACKENDS}
    return tuple(name for name in BACKENDS if not reasons[name]), [f"{name}: {why}" for name, why in reasons.items() if why]


def _no_torch_cuda(folder: Path) -> str | None:
    try:
        # before torch is loaded for nothing
        gpu.driver()
        from spanvla_ros.engine.backends import torch_cuda

        torch_cuda.gpu()
    except (EngineError, ImportError) as error:
        return str(error)
    return None


def _no_bfloat16(folder: Path) -> str | None:
    described = (folder / manifests.NAME).is_file()
    precision = manifests.read(folder).precision if described else "fp32"
    return f"the graphs are {precision}, ONNX Runtime has no bfloat16 for a CPU" if precision in BFLOAT16 else None


# of those that can't run everything everywhere: (engine folder) -> why not here, None where it can
PROBES: dict[str, Callable[[Path], str | None]] = {"tensorrt": store.absent, "torch-cuda": _no_torch_cuda, "onnxruntime": _no_bfloat16}


def _opener(name: str) -> Callable[..., Session]:
    if name == "onnxruntime":
        from spanvla_ros.engine.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend
    if name == "torch-cuda":
        from spanvla_ros.engine.backends.torch_cuda import TorchCudaBackend

        return TorchCudaBackend
    if name == "tensorrt":
        from spanvla_ros.engine.backends.tensorrt import TensorRTBackend

        return lambda folder, manifest, tokenizer, threads: TensorRTBackend(folder, manifest, tokenizer, threads, plans=store.plans(folder, manifest))
    from spanvla_ros.engine.backends.torch import TorchBackend

    return TorchBackend
