"""PDMS and EPDMS of trajectories in the truth of a drive: of all labelled futures of a data set, or of what is planned for its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import DataError, InputError, ModelSpec
from spanvla_ros.data.navsim import scene as navsim
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.data.shards import Dataset
from spanvla_ros.evaluation.pdm import scorer
from spanvla_ros.evaluation.pdm.scene import WAYPOINTS, Scene
from spanvla_ros.planning.planner import Planner
from spanvla_ros.sim import frame as frames_of
from spanvla_ros.sim.chart import Chart, Guide
from spanvla_ros.workers import spread

NAMES = {"v1": "pdms", "v2": "epdms"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Score of one trajectory: values of all sub-scores, and what went wrong in words (sub-score -> reason).

    mode: fast or slow, how the labelled text thinks; lapse: what the driver did wrong, empty in a drive without. values also has
    "tokens" of reasoning where a planner made a plan.
    """

    id: str
    label: str
    family: str
    mode: str
    lapse: str
    values: Mapping[str, float]
    failures: Mapping[str, str]


def judge(scene: Scene, plans: np.ndarray, version: str) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """Per plan of (K, 8+, 3): sub-scores with their total under "pdms" or "epdms" (unfiltered, without EC), and reasons of failures."""
    scores = scorer.score(scene, plans[:, :WAYPOINTS], version)
    values = [{NAMES[version]: float(scores.total[k]), **{n: float(v[k]) for n, v in scores.values.items()}} for k in range(len(plans))]
    reasons = [{n: f"{f[k].cause}: {f[k].reason}" for n, f in scores.failures.items() if f[k] is not None} for k in range(len(plans))]
    return values, reasons


def scene_of(dataset: Dataset, index: int, charts: dict[str, Chart]) -> Scene:
    """The scene of a sample from what the data set holds; `charts` keeps the maps read so far."""
    truth, record = dataset.truth(index), dataset.record(index)
    if "guide" not in truth:
        raise DataError(f"sample {record['id']} has no map with a route, which the PDM score needs")
    if truth["map"] not in charts:
        charts[truth["map"]] = Chart.from_document(dataset.chart(truth["map"]))
    span = record["truth"]
    if navsim.KEYFRAMES in truth:
        return navsim.scene_of(charts[truth["map"]], truth, span["t0"])
    part = {**truth, "frames": truth["frames"][span["first"] : span["first"] + span["count"]]}
    frames = frames_of.from_document(part)
    return frames_of.scene(charts[truth["map"]], Guide.from_document(truth["guide"]), frames, span["t0"] - span["first"])


def scorable(dataset: Dataset) -> dict[str, bool]:
    """Map -> whether its drives have the route that the PDM score needs; recordings of real cars have none."""
    first: dict[str, int] = {}
    for index, entry in enumerate(dataset.entries):
        first.setdefault(entry.map, index)
    return {name: "guide" in dataset.truth(index) for name, index in first.items()}


def half_seconds(plans: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Poses (K, n, 3) every 0.5 s of plans (K, T, 3) at the model's own times."""
    step = round(FUTURE_INTERVAL_S / spec.waypoint_interval_s)
    if not step or abs(step * spec.waypoint_interval_s - FUTURE_INTERVAL_S) > 1e-6 or spec.waypoints // step < WAYPOINTS:
        raise DataError(f"plans of {spec.waypoints} waypoints every {spec.waypoint_interval_s:g} s have no {WAYPOINTS} poses every 0.5 s to score")
    return plans[:, step - 1 :: step]


def score_all(folder: Path, workers: int, split: str | None = None, load: Callable[[], Planner] | None = None) -> Iterator[Verdict]:
    """Verdicts on every sample of a data set whose drive has a map and a route, by `workers` processes.

    load: opens, once in every process, what is to plan; None: the labelled futures are judged.
    """
    count = len(Dataset(folder, split))
    if workers == 1:
        _open(folder, split, load)
        for index in range(count):
            yield from _some((index,))
        return
    for verdicts in spread(_some, np.array_split(np.arange(count), max(1, count // 24)), workers, setup=partial(_open, folder, split, load)):
        yield from verdicts


_state: dict[str, object] = {}


def _open(folder: Path, split: str | None, load: Callable[[], Planner] | None) -> None:
    planner = load() if load else None
    _state.update(dataset=Dataset(folder, split, planner.spec if planner else None), charts={}, planner=planner)


def _some(indices: Sequence[int]) -> list[Verdict]:
    dataset, charts, planner = (_state[name] for name in ("dataset", "charts", "planner"))
    return [verdict(dataset, int(index), charts, planner) for index in indices if "guide" in dataset.truth(int(index))]


def verdict(dataset: Dataset, index: int, charts: dict[str, Chart], planner: Planner | None = None) -> Verdict:
    """Both scores of a sample's future, or of what `planner` plans for it; a sub-score that both versions have is that of v2.

    Where there is no plan, every sub-score is 0 and "plan" among the failures says why.
    """
    record = dataset.record(index)
    scene = scene_of(dataset, index, charts)
    poses, told = np.array(record["future"])[None], {}
    values: dict[str, float] = {}
    failures: dict[str, str] = {}
    if planner is not None:
        observation = dataset[index].observation
        try:
            plan = planner.plan(observation)
            poses, told = half_seconds(plan.waypoints_base[None], planner.spec), {"tokens": float(plan.tokens)}
        except InputError as error:
            failures["plan"] = str(error)
    for version in ("v1", "v2"):
        row, reasons = judge(scene, poses, version)
        values |= row[0]
        failures |= {} if "plan" in failures else reasons[0]
    if "plan" in failures:
        values = dict.fromkeys(values, 0.0)
    lapse = record["provenance"].get("lapse")
    return Verdict(
        id=record["id"],
        label=record["label"],
        family=record["family"],
        mode=record["reasoning"]["mode"],
        lapse=lapse["kind"] if lapse else "",
        values=values | told,
        failures=failures,
    )
