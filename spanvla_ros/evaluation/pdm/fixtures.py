"""Reads scenes, golden results and two-stage groups of the fixture format navlab-pdm-fixture/1 (shared SCHEMA.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.evaluation.pdm.scene import FRAMES, Agents, Area, Scene, require
from spanvla_ros.evaluation.pdm.simulator import past_states
from spanvla_ros.evaluation.pdm.tracks import densify

SCHEMA = "navlab-pdm-fixture/1"


@dataclass(frozen=True, kw_only=True)
class Fixture:
    """One scene with its proposals (K, 8, 3) and golden results.

    rows: results per proposal; arrays: golden arrays by name; reactive (K, A, 41, 5) tracks or None; previous: name of the
    scene 0.5 s earlier, or None.
    """

    scene: Scene
    proposals: np.ndarray
    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    arrays: Mapping[str, np.ndarray]
    reactive: np.ndarray | None
    previous: str | None
    agent_tokens: tuple[str, ...]


def scene_names(folder: Path) -> list[str]:
    """Names of the scenes in a folder of fixtures."""
    names = sorted(path.stem for path in (folder / "scenes").glob("*.json"))
    if not names:
        raise DataError(f"{folder} holds no scenes/*.json")
    return names


def read_fixture(folder: Path, name: str) -> Fixture:
    """One scene and what the official code makes of it."""
    document = _json(folder / "scenes" / f"{name}.json")
    path = folder / "arrays" / f"{name}.npz"
    if not path.exists():
        raise DataError(f"scene {name}: {path} is missing")
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files}
    rows = _json(folder / "results" / f"{name}.json")["proposals"]
    reactive = arrays.get("idm_tracks")
    return Fixture(
        scene=build_scene(document, arrays.get("centerline")),
        proposals=np.array(document["proposals"], dtype=float),
        names=tuple(document["proposal_names"]),
        rows=tuple(rows),
        arrays=arrays,
        reactive=None if reactive is None else reactive[..., 1:],
        previous=rows[0].get("prev_scene"),
        agent_tokens=tuple(document["derived"]["agent_tokens"]),
    )


def read_scene(path: Path) -> Scene:
    """The scene of scenes/NAME.json, with the centerline of arrays/NAME.npz beside it."""
    arrays = path.parent.parent / "arrays" / f"{path.stem}.npz"
    if not arrays.exists():
        raise DataError(f"scene {path.stem}: centerline is missing, looked for {arrays}")
    with np.load(arrays) as stored:
        return build_scene(_json(path), stored["centerline"] if "centerline" in stored.files else None)


def build_scene(document: Mapping[str, Any], centerline: np.ndarray | None) -> Scene:
    """A scene from the JSON document of the fixture format."""
    name = str(document.get("scene_id", "without a name"))
    require(document.get("schema") == SCHEMA, name, "schema", f"{document.get('schema')}, expected {SCHEMA}")
    require(centerline is not None, name, "centerline", "missing")
    try:
        return _build(name, document, np.asarray(centerline, dtype=float))
    except KeyError as error:
        raise DataError(f"scene {name}: field {error} is missing") from error


def _build(name: str, document: Mapping[str, Any], centerline: np.ndarray) -> Scene:
    ego = document["ego"]
    derived = document["derived"]
    return Scene(
        name=name,
        ego=_state(ego),
        areas=tuple(_areas(name, document["map"], [entry["token"] for entry in derived["drivable_map"]])),
        centerline=centerline,
        route_lanes=frozenset(map(str, derived["route_lane_ids"])) & {str(entry["token"]) for entry in derived["drivable_map"]},
        traffic={version: _agents(document["agents_2hz"], frames) for version, frames in FRAMES.items()},
        red_lights=tuple(tuple(map(str, step)) for step in derived["red_lane_connectors_10hz"]),
        history=_history(document["ego_history"]),
        human=np.array(document["human_trajectory"], dtype=float),
        start_us=int(ego["t_us"]),
    )


def _areas(name: str, chart: Mapping[str, Any], order: list[str]) -> Iterator[Area]:
    """Areas near the ego, in the official order."""
    known: dict[str, Area] = {}
    for lane in chart["lanes"]:
        limit = lane["speed_limit_mps"]
        known[str(lane["id"])] = Area(
            name=str(lane["id"]),
            layer=lane["type"],
            polygon=_polygon(name, lane["id"], lane["polygon"]),
            speed_limit_mps=None if limit is None else float(limit),
            baseline=np.array(lane["baseline"], dtype=float),
        )
    for block in chart["roadblocks"]:
        if block["type"] == "ROADBLOCK":
            known[str(block["id"])] = Area(name=str(block["id"]), layer="ROADBLOCK", polygon=_polygon(name, block["id"], block["polygon"]))
    for area in chart["areas"]:
        known[str(area["id"])] = Area(name=str(area["id"]), layer=area["layer"], polygon=_polygon(name, area["id"], area["exterior"]))
    for token in order:
        require(str(token) in known, name, "drivable_map", f"naming {token}, which the map lacks")
        yield known[str(token)]


def _polygon(name: str, token: str, ring: list[list[float]]) -> shapely.Polygon:
    require(len(ring) == 0 or len(ring) >= 3, name, f"polygon {token}", f"of {len(ring)} vertices")
    return shapely.Polygon(ring)


def _agents(entries: list[Mapping[str, Any]], frames: int) -> Agents:
    """Tracks seen at least once in the window."""
    keys = [np.array(entry["keyframes"], dtype=float) for entry in entries]
    dense = densify([(key[:, 0].astype(int), key[:, 1:]) for key in keys], frames)
    seen = ~np.isnan(dense[..., 0]).all(axis=1)
    return Agents(
        tokens=tuple(entry["token"] for entry in entries),
        types=tuple(entry["type"] for entry in entries),
        sizes=np.array([entry["size"][:2] for entry in entries], dtype=float).reshape(-1, 2),
        frames=dense,
    ).without(~seen)


def _state(entry: Mapping[str, Any]) -> np.ndarray:
    rest = ("steering_angle", "steering_rate", "angular_velocity", "angular_acceleration")
    return np.array([*entry["pose"], *entry["velocity"], *entry["acceleration"], *(entry.get(key, 0.0) for key in rest)], dtype=float)


def _history(entries: list[Mapping[str, Any]]) -> np.ndarray:
    """Past states (H, 11) at 0.1 s."""
    states = np.stack([_state(entry) for entry in entries])
    return past_states(np.array([entry["t_us"] for entry in entries], dtype=float), states)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
