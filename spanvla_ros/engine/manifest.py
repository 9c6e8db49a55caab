"""manifest.json of an engine folder: what is in it, what made it, and proof that nothing was changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError, ModelSpec

SCHEMA = "spanvla-engine/1"
NAME = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """SHA-256 (hex) and size of one file of the folder."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of a graph; all dimensions are static."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GraphEntry:
    """File and signature of one named graph."""

    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of manifest.json; `training` (command, commit, seeds, data hash) and `versions` are for people."""

    spec: ModelSpec
    files: Mapping[str, FileEntry]
    graphs: Mapping[str, GraphEntry]
    opset: int
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("spec", "files", "graphs")}
        return {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "spec_sha256": self.spec.sha256,
            "files": {name: dataclasses.asdict(entry) for name, entry in sorted(self.files.items())},
            "graphs": {name: dataclasses.asdict(graph) for name, graph in self.graphs.items()},
            **plain,
        }

    @property
    def sha256(self) -> str:
        """The engine hash: covers every byte that runs, by way of the file hashes, and how it was made."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        (folder / NAME).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def fingerprint(path: Path) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return FileEntry(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def read(folder: Path | str) -> Manifest:
    """Manifest of an engine folder. Errors: EngineError names the file, and the key that is missing or unknown."""
    path = Path(folder) / NAME
    if not path.is_file():
        found = "does not exist" if not Path(folder).is_dir() else f"holds no {NAME}"
        raise EngineError(f"{folder} {found}; make an engine with `spanvla export --checkpoint DIR --out {folder}`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise EngineError(f"{path} has schema {found!r}; this version reads {SCHEMA!r}. Export the checkpoint again")
    known = {"schema", "spec_sha256", *(f.name for f in dataclasses.fields(Manifest))}
    for text, keys in (("unknown", set(data) - known), ("missing", known - set(data))):
        if keys:
            raise EngineError(f"{path}: {text} keys {sorted(keys)}")
    try:
        spec = ModelSpec.from_dict(data["spec"])
        files = {name: FileEntry(**entry) for name, entry in data["files"].items()}
        graphs = {name: _graph(entry) for name, entry in data["graphs"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{path}: {error}") from None
    if spec.sha256 != data["spec_sha256"]:
        raise EngineError(f"{path}: the model spec has hash {spec.sha256}, the manifest says {data['spec_sha256']}; it was edited. Export again")
    return Manifest(spec=spec, files=files, graphs=graphs, opset=data["opset"], training=data["training"], versions=data["versions"])


def _graph(entry: Mapping[str, Any]) -> GraphEntry:
    ports = {side: tuple(Port(name=p["name"], dtype=p["dtype"], shape=tuple(p["shape"])) for p in entry[side]) for side in ("inputs", "outputs")}
    return GraphEntry(file=entry["file"], **ports)


def verify(folder: Path | str) -> Manifest:
    """Read the manifest and hold every file against it. Errors: EngineError for a missing or changed file, with both hashes."""
    manifest = read(folder)
    for name, entry in manifest.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise EngineError(f"{path} is missing; the engine folder is incomplete")
        found = fingerprint(path)
        if found != entry:
            raise EngineError(
                f"{path} was changed: it has SHA-256 {found.sha256} ({found.bytes} bytes), "
                f"the manifest says {entry.sha256} ({entry.bytes} bytes); restore it or export again"
            )
    return manifest
