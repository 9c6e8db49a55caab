"""Goldens to hold a back-end against, also for a folder from before it had any."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spanvla_ros.engine import golden, parity
from spanvla_ros.engine.load import load_backend
from spanvla_ros.planning.preprocess import preprocess


@contextlib.contextmanager
def goldens(folder: Path) -> Iterator[Path]:
    """A folder that holds golden.npz: the engine folder itself, else one with what its graphs compute in ONNX Runtime here."""
    if (folder / golden.NAME).is_file():
        yield folder
        return
    spec, tokenizer, session = load_backend(folder, "onnxruntime")
    with tempfile.TemporaryDirectory() as name:
        try:
            golden.write(Path(name), session, (preprocess(o, spec, tokenizer) for o in parity.observations(spec, golden.COUNT)))
        finally:
            session.close()
        yield Path(name)
