"""Plans of an engine folder: plans/<key>/{plan, manifest.json, SHA256SUMS, timing.cache}.

A TensorRT plan is code for one GPU and one TensorRT, made from one graph. The key is the hash of all that it depends on, and
is computed anew on the machine that loads: a plan of another machine, another version or another export is never run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine import seal
from spanvla_ros.engine.key import Machine, PlanKey, key, machine
from spanvla_ros.engine.manifest import FileEntry, GraphEntry, Manifest, fingerprint, graph_entry

SCHEMA = "spanvla-plan/1"
FOLDER = "plans"
PLAN, RECORD, TIMING = "plan", "manifest.json", "timing.cache"
# what a back-end opens; a folder may hold others, such as single steps of the expert
GRAPHS = ("vision", "prefill", "step", "expert")
AGAIN = "run `spanvla build` on this machine"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A stored plan: its key, the plan's hash and size, inputs and outputs, hash of the engine, and how well it computes."""

    key: PlanKey
    plan: FileEntry
    ports: GraphEntry
    engine: str
    build_seconds: float
    parity: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "key_sha256": self.key.sha256, **dataclasses.asdict(self)}


def absent(folder: Path) -> str | None:
    """Why this machine can't run plans of a folder, or that there are none; None where any fault of theirs is an error."""
    if not any((folder / FOLDER).glob(f"*/{RECORD}")):
        return f"{folder} holds no plans; {AGAIN}"
    try:
        machine()
    except (EngineError, ImportError) as error:
        return str(error)
    return None


def place(folder: Path, key_sha256: str) -> Path:
    """Folder of a stored plan."""
    return folder / FOLDER / key_sha256


def entries(folder: Path) -> list[Entry]:
    """Every stored plan, its files held against its record. Errors: EngineError names what was changed, with both values."""
    root = folder / FOLDER
    paths = sorted(p for p in root.iterdir() if not p.name.startswith(".")) if root.is_dir() else []
    return [read(path) for path in paths]


def read(path: Path) -> Entry:
    """The stored plan in a folder plans/<key>. Errors: as `entries`."""
    cure = f"remove {path} and {AGAIN}"
    sums = seal.read(path, cure)
    # before a changed record is parsed
    seal.check(path, sums, [RECORD], cure)
    record = path / RECORD
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        if data.get("schema") != SCHEMA:
            raise EngineError(f"{record} has schema {data.get('schema')!r}; this version reads {SCHEMA!r}; {cure}")
        parts = {**data["key"], "machine": Machine(**data["key"]["machine"])}
        entry = Entry(
            key=PlanKey(**parts),
            plan=FileEntry(**data["plan"]),
            ports=graph_entry(data["ports"]),
            **{name: data[name] for name in ("engine", "build_seconds", "parity")},
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{record} can't be read: {error}; {cure}") from None
    for text, found in (("its name", path.name), ("its record", data["key_sha256"])):
        if found != entry.key.sha256:
            raise EngineError(f"{record}: the key has hash {entry.key.sha256}, {text} says {found}; it was edited; {cure}")
    plan = path / PLAN
    if not plan.is_file():
        raise EngineError(f"{plan} is missing; {cure}")
    if plan.stat().st_size != entry.plan.bytes:
        raise EngineError(f"{plan} has {plan.stat().st_size} bytes, its record says {entry.plan.bytes}; {cure}")
    found = seal.digest(plan)
    if found != entry.plan.sha256:
        raise EngineError(f"{plan} was changed: it has SHA-256 {found}, its record says {entry.plan.sha256}; {cure}")
    seal.check(path, sums, sorted({*sums, PLAN} - {RECORD}), cure, {PLAN: found})
    return entry


def verify(folder: Path, manifest: Manifest) -> list[Entry]:
    """All stored plans, whole and made from the graphs of this folder, whatever machine they are for.

    Errors: EngineError with both values.
    """
    found = entries(folder)
    for entry in found:
        _belongs(folder, entry, manifest)
    return found


def _belongs(folder: Path, entry: Entry, manifest: Manifest) -> None:
    """The chain from the engine's manifest to one of its plans."""
    where, graph = place(folder, entry.key.sha256), entry.key.graph
    if graph not in manifest.graphs:
        raise EngineError(f"{where} is a plan of graph {graph!r}, the engine has {', '.join(manifest.graphs)}; remove it")
    for name, wanted in entry.key.files.items():
        found = manifest.files[name].sha256 if name in manifest.files else "none"
        if found != wanted:
            raise EngineError(f"{where} was built from {name} with SHA-256 {wanted}, the engine has {found}; {AGAIN}, or remove it")
    if entry.key.precision != manifest.precision:
        raise EngineError(f"{where} was built for precision {entry.key.precision}, the engine has {manifest.precision}; {AGAIN}, or remove it")
    if entry.engine != manifest.sha256:
        raise EngineError(f"{where} was built for engine {entry.engine}, this is {manifest.sha256}; {AGAIN}, or remove it")
    for side in ("inputs", "outputs"):
        mine = {p.name: f"{p.dtype} {p.shape}" for p in getattr(entry.ports, side)}
        theirs = {p.name: f"{p.dtype} {p.shape}" for p in getattr(manifest.graphs[graph], side)}
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                raise EngineError(
                    f"{where}: {side[:-1]} {name!r} of the plan of {graph} is {mine.get(name, 'missing')}, "
                    f"the engine's manifest says {theirs.get(name, 'nothing')}; remove {where} and {AGAIN}"
                )


def find(folder: Path, manifest: Manifest, graph: str, here: Machine) -> Entry:
    """The plan of a graph for this machine. Errors: EngineError says for which machine there is one instead, with both values."""
    wanted = key(manifest, graph, here)
    path = place(folder, wanted.sha256)
    if path.is_dir():
        entry = read(path)
        _belongs(folder, entry, manifest)
        return entry
    others = [entry.key.differences(wanted) for entry in entries(folder) if entry.key.graph == graph]
    if not others:
        raise EngineError(f"{folder} holds no plan of graph {graph} for {here.gpu} and TensorRT {here.tensorrt}; {AGAIN}")
    raise EngineError(f"{folder} holds no plan of graph {graph} for this machine; the nearest has {'; '.join(min(others, key=len))}; {AGAIN}")


def plans(folder: Path, manifest: Manifest, *, proven: bool = True) -> Callable[[str], bytes]:
    """graph -> the bytes of its plan for this machine. proven: only plans that were measured against the goldens together.

    Errors: as `find`, also for plans that no parity report names.
    """
    here = machine()
    found = {graph: find(folder, manifest, graph, here) for graph in GRAPHS}
    hashes = {graph: entry.plan.sha256 for graph, entry in found.items()}
    for graph, entry in found.items():
        covered = entry.parity.get("plans", "no plans")
        if proven and covered != hashes:
            where = place(folder, entry.key.sha256)
            raise EngineError(f"{where} is not covered by a parity report: that has {covered}, here are {hashes}; {AGAIN}")
    return lambda graph: (place(folder, found[graph].key.sha256) / PLAN).read_bytes()


def add(folder: Path, manifest: Manifest, wanted: PlanKey, make: Callable[[Path], bytes]) -> Entry:
    """Build and store a plan; it appears at once and whole. make: path of a timing cache -> the plan."""
    root = folder / FOLDER
    root.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as name:
        work = Path(name) / wanted.sha256
        work.mkdir()
        earlier = [path for path in root.glob(f"*/{TIMING}") if read(path.parent).key.machine == wanted.machine]
        if earlier:
            shutil.copy(max(earlier, key=lambda path: path.stat().st_mtime), work / TIMING)
        started_s = time.monotonic()
        (work / PLAN).write_bytes(make(work / TIMING))
        entry = Entry(
            key=wanted,
            plan=fingerprint(work / PLAN),
            ports=manifest.graphs[wanted.graph],
            engine=manifest.sha256,
            build_seconds=round(time.monotonic() - started_s, 3),
            parity={},
        )
        _finish(work, entry, root / wanted.sha256)
    return entry


def prove(folder: Path, entry: Entry, parity: Mapping[str, Any]) -> Entry:
    """Store the parity report of a plan in its record."""
    proven = dataclasses.replace(entry, parity=parity)
    path = place(folder, entry.key.sha256)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as name:
        work = Path(name) / path.name
        shutil.copytree(path, work, copy_function=os.link)
        # a hard link: not to be written through
        (work / RECORD).unlink()
        _finish(work, proven, path)
    return proven


def clean(folder: Path, manifest: Manifest) -> list[str]:
    """Delete plans that are damaged or of another export; returns why, one line each."""
    root, dropped = folder / FOLDER, []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            _belongs(folder, read(path), manifest)
        except EngineError as error:
            dropped.append(str(error))
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return dropped


def _finish(work: Path, entry: Entry, path: Path) -> None:
    """Record, seal, and put into its place, instead of what is there."""
    seal.replace(work / RECORD, (json.dumps(entry.to_dict(), indent=1) + "\n").encode())
    seal.write(work)
    seal.sync(work)
    if path.exists():
        os.rename(path, work.with_name("old"))
    os.rename(work, path)
    seal.sync(path.parent)
