"""manifest.json of an engine folder: what is in it, what made it, and proof that nothing was changed.

The chain: the manifest names checkpoint, graphs and goldens by hash, each plan in `plans/` (engine.store) the graphs it was
built from, each parity report the plans it was measured on; SHA256SUMS beside each manifest covers the manifest itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError, ModelSpec
from spanvla_ros.engine import seal

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
    """Contents of manifest.json; `training` (command, commit, seeds, data hash) and `versions` are for people.

    precision: in which the graphs compute. parity: back-end -> how closely it computes what the checkpoint does, measured when the
    folder was made.
    """

    spec: ModelSpec
    files: Mapping[str, FileEntry]
    graphs: Mapping[str, GraphEntry]
    opset: int
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    precision: str = field(default="fp32", metadata={"later": True})
    parity: Mapping[str, Any] = field(default_factory=dict, metadata={"later": True})

    def to_dict(self) -> dict[str, Any]:
        """Plain values; fields that came after the first engines only where they say something, so that old hashes hold."""
        rest = [f for f in dataclasses.fields(self) if f.name not in ("spec", "files", "graphs")]
        plain = {f.name: getattr(self, f.name) for f in rest if not ("later" in f.metadata and getattr(self, f.name) == _default(f))}
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
        """The engine hash: covers every byte that runs, by way of the file hashes, and how it was made; not what was measured on it."""
        data = {name: value for name, value in self.to_dict().items() if name != "parity"}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write manifest.json and seal the folder."""
        seal.replace(folder / NAME, (json.dumps(self.to_dict(), indent=1) + "\n").encode())
        seal.write(folder)


def _default(field_: dataclasses.Field) -> Any:
    return field_.default if field_.default_factory is dataclasses.MISSING else field_.default_factory()


def fingerprint(path: Path) -> FileEntry:
    return FileEntry(sha256=seal.digest(path), bytes=path.stat().st_size)


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
    fields = dataclasses.fields(Manifest)
    known, later = {"schema", "spec_sha256", *(f.name for f in fields)}, {f.name for f in fields if "later" in f.metadata}
    for text, keys in (("unknown", set(data) - known), ("missing", known - later - set(data))):
        if keys:
            raise EngineError(f"{path}: {text} keys {sorted(keys)}")
    try:
        spec = ModelSpec.from_dict(data["spec"])
        files = {name: FileEntry(**entry) for name, entry in data["files"].items()}
        graphs = {name: graph_entry(entry) for name, entry in data["graphs"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{path}: {error}") from None
    if spec.sha256 != data["spec_sha256"]:
        raise EngineError(f"{path}: the model spec has hash {spec.sha256}, the manifest says {data['spec_sha256']}; it was edited. Export again")
    rest = {f.name: data[f.name] for f in fields if f.name in data}
    return Manifest(**{**rest, "spec": spec, "files": files, "graphs": graphs})


def graph_entry(entry: Mapping[str, Any]) -> GraphEntry:
    """A GraphEntry from its plain values."""
    ports = {side: tuple(Port(name=p["name"], dtype=p["dtype"], shape=tuple(p["shape"])) for p in entry[side]) for side in ("inputs", "outputs")}
    return GraphEntry(file=entry["file"], **ports)


def verify(folder: Path | str) -> Manifest:
    """Read the manifest and hold every file but those in plans/ against it and against SHA256SUMS.

    Errors: EngineError for a missing or changed file, with both hashes.
    """
    folder = Path(folder)
    cure = f"restore it, or if the change is wanted: `spanvla verify {folder} --seal`"
    sums: dict[str, str] = {}
    if (folder / NAME).is_file():
        sums = seal.read(folder, cure)
        # before a changed one is parsed
        seal.check(folder, sums, [NAME], cure)
    manifest = read(folder)
    found = check_files(folder, manifest)
    seal.check(folder, sums, sorted({*sums, *found} - {NAME}), cure, found)
    return manifest


def check_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """File name -> hash of all that the manifest lists. Errors: as `verify`."""
    hashes = {}
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise EngineError(f"{path} is missing; the engine folder is incomplete")
        found = fingerprint(path)
        if found != entry:
            raise EngineError(
                f"{path} was changed: it has SHA-256 {found.sha256} ({found.bytes} bytes), "
                f"the manifest says {entry.sha256} ({entry.bytes} bytes); restore it or export again"
            )
        hashes[name] = found.sha256
    return hashes


def record_parity(folder: Path, backend: str, report: Mapping[str, Any]) -> Manifest:
    """Note in the manifest how closely a back-end computes what the checkpoint does."""
    manifest = read(folder)
    manifest = dataclasses.replace(manifest, parity={**manifest.parity, backend: dict(report)})
    manifest.write(folder)
    return manifest
