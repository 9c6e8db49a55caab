"""Samples from the simulator: drives with and without a lapse, their pictures, their shards.

Seeds decide how a scenario is driven: even ones by the expert from a slightly disturbed start, odd ones with a lapse. The
future of a sample is what was driven; its text and decision are the expert's for that state, so a negative says what should
have been done. Where the drive leaves what the expert wants, because its hand is unsteady (noise on the supervisor, as in
DART) or because a model drives (DAgger), the future is the expert's plan for the states that the car gets into.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros import __version__
from spanvla_ros.contracts import ConfigError, DataError, InputError, Observation, Trajectory
from spanvla_ros.data import episode, labels
from spanvla_ros.data.episode import EXPOSURE_S, GRID, Log, Still
from spanvla_ros.data.hand import UnsteadyHand
from spanvla_ros.data.labels import Choice
from spanvla_ros.data.sample import Sample, to_record
from spanvla_ros.data.shards import ShardWriter, finished, write_map
from spanvla_ros.geometry import to_local
from spanvla_ros.planning.inputs import InputBuffer
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.prompt import reasoning_text
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.sim import chart as charts
from spanvla_ros.sim import frame as frames_of
from spanvla_ros.sim.driver.decision import Decision
from spanvla_ros.sim.driver.lapse import Careless, Lapse
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.frame import to_document
from spanvla_ros.sim.pictures.cells import Cells
from spanvla_ros.sim.roads import road as roads
from spanvla_ros.sim.scenarios import family as families_of
from spanvla_ros.sim.scenarios import scenario as scenarios
from spanvla_ros.sim.scenarios.scenario import Fault, Scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.workers import spread

GENERATOR = f"spanvla_ros {__version__} collect/2"
LIMIT_S = 25.0
_ATTEMPTS, _ENOUGH = 3, 3  # lapses tried until one drive has so many negatives
_KICK_M, _KICK_RAD = 0.4, 0.04  # most that a start is disturbed by
# a model whose first 3 s are so far from the expert's for so long is relieved: long enough to get into trouble, not to stay there
_NEAR, _TROUBLE_M, _PATIENCE_S, _RELIEF_S = 6, 2.5, 2.0, 2.5
_CHUNK, _CHUNKS_PER_PROCESS = 6, 12  # neighbours share a map; a fresh process now and then bounds the memory


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How drives become samples. load: opens, once per drive, the model that drives instead of the expert; unsteady: the expert's hand is;
    cameras: whose pictures are stored; every_s: seconds between samples that are to be imitated, in steps of 0.5 s."""

    load: Callable[[], Planner] | None = None
    unsteady: bool = False
    cameras: tuple[str, ...] = GRID.cameras
    every_s: float = 1.0
    limit_s: float = LIMIT_S

    def __post_init__(self):
        unknown = sorted(set(self.cameras) - set(GRID.cameras))
        if unknown or not self.cameras:
            raise ConfigError(f"cameras must be some of {', '.join(GRID.cameras)}, not {', '.join(unknown) or 'none'}")
        if self.every_s <= 0 or self.every_s % EXPOSURE_S:
            raise ConfigError(f"samples can be taken every {EXPOSURE_S:g} s or a multiple of it, not every {self.every_s:g} s")

    @property
    def spacing(self) -> int:
        return round(self.every_s / EXPOSURE_S)


def drive(family: str, seed: int, folder: Path, recipe: Recipe = Recipe()) -> int:
    """Drive one scenario and write its samples as one shard; returns their number (0 where the shard was there already)."""
    name = f"{family}_{seed:05d}" + ("_engine" if recipe.load else "_unsteady" if recipe.unsteady else "")
    if finished(folder, name):
        return 0
    scenario = scenarios.build(family, seed)
    simulation = Simulation(scenario, render=recipe.load is not None)
    simulation.reset()
    provenance: dict[str, Any] = {"source": "simulator", "generator": GENERATOR, "variant": scenario.variant, "lapse": None}
    try:
        if recipe.load:
            log, chosen = _driven_by_model(simulation, recipe.load(), recipe)
            provenance |= {"driver": "engine", "future": "plan"}
        elif recipe.unsteady:
            hand = UnsteadyHand(simulation)
            log = episode.drive(simulation, lambda decision, _: hand.plan(decision.trajectory), recipe.limit_s)
            chosen = _intended(log, recipe.spacing)
            provenance |= {"driver": "expert", "future": "plan", "unsteady": True}
        else:
            log, chosen, more = _driven(simulation, recipe)
            provenance |= more
        road = simulation.road
    finally:
        simulation.close()
    guide, chart = charts.guide(scenario.route), charts.chart(road)
    write_map(folder, scenario.map_id, chart.document())
    usable = [choice for choice in chosen if not _faulty(scenario.faults, choice.instant.observation.t0_ns)]
    pictures = _pictures(scenario, log, usable, recipe.cameras)
    cells = Cells(road, scenario.route.path)
    with ShardWriter(folder, name) as shard:
        cameras = {camera: dataclasses.asdict(scenario.cameras[camera]) for camera in recipe.cameras}
        shard.truth({"map": scenario.map_id, "cameras": cameras, "guide": guide.document(), **to_document(log.frames)})
        for choice in usable:
            sample = _sample(name, scenario, log, choice, cells, provenance)
            stamps = [f.stamp_ns for f in sample.observation.images["front"]]
            shard.add(to_record(sample), {camera: [(t, pictures[camera, t]) for t in stamps] for camera in recipe.cameras})
    return len(usable)


def _driven(simulation: Simulation, recipe: Recipe) -> tuple[Log, list[Choice], dict[str, Any]]:
    """A drive of the expert, or with a lapse where the seed is odd: log, samples, provenance."""
    scenario = simulation.scenario
    chart, guide = charts.chart(simulation.road), charts.guide(scenario.route)
    if scenario.seed % 2:
        # what is no harm in this traffic is no example of bad driving: another lapse gets its chance
        best: tuple[Log, list[Choice], Lapse | None] | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                simulation.reset()
            careless = Careless(simulation, attempt)
            log = episode.drive(simulation, lambda decision, _, driver=careless: driver.plan(decision), recipe.limit_s)
            chosen = labels.choose(log, careless.lapse, chart, guide, recipe.spacing)
            if best is None or labels.negatives(chosen) > labels.negatives(best[1]):
                best = log, chosen, careless.lapse
            if labels.negatives(chosen) >= _ENOUGH:
                break
        return *best[:2], {"driver": "lapse", "future": "driven", "lapse": _lapse(best[2])}
    rng = np.random.default_rng([scenario.seed, sum(map(ord, scenario.family))])
    kick = float(rng.uniform(-1, 1) * _KICK_M), float(rng.uniform(-1, 1) * _KICK_RAD)
    simulation.kick(*kick, 0.0)
    log = episode.drive(simulation, lambda decision, _: decision.trajectory, recipe.limit_s)
    return log, labels.choose(log, None, chart, guide, recipe.spacing), {"driver": "expert", "future": "driven", "kick": kick}


def _driven_by_model(simulation: Simulation, planner: Planner, recipe: Recipe) -> tuple[Log, list[Choice]]:
    """A drive of a model, which is closed. Where its plans stay far from the expert's, the expert drives for some seconds: a lost drive
    teaches nothing."""
    buffer = InputBuffer(planner.spec)
    well_s = relief_s = 0.0

    def plan(decision: Decision, _: Observation | None) -> Trajectory:
        nonlocal well_s, relief_s
        ego, stamp = simulation.ego, simulation.stamp_ns
        buffer.add_odometry(stamp, ego.pose, ego.speed_mps, ego.yaw_rate_rps)
        for camera in planner.spec.cameras:
            buffer.add_image(camera, stamp, simulation.jpeg(camera))
        try:
            made = planner.plan(buffer.observe(stamp, simulation.command))
        except InputError:  # no plan yet, or one that makes no sense
            return decision.trajectory
        apart = np.hypot(*(made.waypoints_base - decision.waypoints_base)[:_NEAR, :2].T).max()
        if apart <= _TROUBLE_M:
            well_s = simulation.time_s
        elif simulation.time_s - well_s > _PATIENCE_S:
            relief_s = simulation.time_s + _RELIEF_S
        return decision.trajectory if simulation.time_s < relief_s else densify(made)

    try:
        log = episode.drive(simulation, plan, recipe.limit_s)
    finally:
        planner.close()
    return log, _intended(log, recipe.spacing)


def _intended(log: Log, spacing: int) -> list[Choice]:
    """Moments up to the first contact, each with what the expert wants to do from there."""
    contact = next((k for k, frame in enumerate(log.frames) if frames_of.touching(frame)), len(log.frames))
    chosen = []
    for instant in labels.thinned(log, log.instants, spacing):
        poses = instant.decision.trajectory.poses_odom
        dense = to_local(poses[0], poses[1 : episode.FUTURE_FRAMES + 1])
        if instant.index + episode.FUTURE_FRAMES < len(log.frames) and instant.index < contact:
            chosen.append(Choice(instant=instant, label="pos", future=instant.decision.waypoints_base, dense=dense))
    return chosen


def _pictures(scenario: Scenario, log: Log, chosen: list[Choice], cameras: tuple[str, ...]) -> dict[tuple[str, int], bytes]:
    """JPEG by camera and stamp, of what the samples need."""
    from spanvla_ros.sim.pictures.renderer import encode
    from spanvla_ros.sim.pictures.stage import Stage

    stamps = sorted({frame.stamp_ns for choice in chosen for frame in choice.instant.observation.images["front"]})
    if not stamps:
        return {}
    stage = Stage(roads.load(scenario.map_id), scenario.seed, scenario.look)

    def picture(camera: str, still: Still) -> bytes:
        view = scenario.cameras[camera]
        rgb = stage.picture(view, still.ego, still.actors, still.signals, episode.seconds(still.stamp_ns))
        return encode(rgb, scenario.jpeg_quality)

    return {(camera, stamp): picture(camera, log.stills[stamp]) for stamp in stamps for camera in cameras}


def _sample(name: str, scenario: Scenario, log: Log, choice: Choice, cells: Cells, provenance: Mapping[str, Any]) -> Sample:
    instant, decision = choice.instant, choice.instant.decision
    still = log.stills[instant.observation.t0_ns]
    first = max(0, instant.index - round(-GRID.frame_offsets_s[0] / 0.1))
    return Sample(
        id=f"{name}_{instant.index:04d}",
        observation=instant.observation,
        future=choice.future,
        dense=choice.dense,
        reasoning=reasoning_text(decision.trace),
        mode=decision.mode,
        family=scenario.family,
        map=scenario.map_id,
        label=choice.label,
        fields=_scene(decision.fields),
        cells=cells.bits(scenario.cameras["front"], still.ego, instant.route_s, still.actors, still.signals),
        instruction=instant.instruction,
        split=scenarios.split(scenario.seed),
        seed=scenario.seed,
        decision={"longitudinal": decision.longitudinal.value, "lateral": decision.lateral.value},
        components=tuple(decision.components),
        lights=instant.lights,
        span=(first, instant.index, instant.index + episode.FUTURE_FRAMES + 1 - first),
        provenance=provenance,
    )


def _scene(fields: Mapping[str, float]) -> dict[str, float | list[float]]:
    """Scene facts with the curvatures of all look-ahead distances as one list, nearest first."""
    ahead = [k for k in fields if k.startswith("curvature_1pm_")]
    return {k: round(v, 5) for k, v in fields.items() if k not in ahead} | {"curvature_1pm": [round(fields[k], 5) for k in ahead]}


def _lapse(lapse: Lapse | None) -> dict[str, Any] | None:
    if lapse is None:
        return None
    usual, style = dataclasses.asdict(Style()), dataclasses.asdict(lapse.style)
    changed = {k: round(v, 3) if isinstance(v, float) else v for k, v in style.items() if v != usual[k]}
    return {"kind": lapse.kind, "start_s": lapse.start_s, "end_s": round(lapse.end_s, 3), "style": changed}


def _faulty(faults: tuple[Fault, ...], t0_ns: int) -> bool:
    """Whether a camera fails while the pictures of a sample are taken: its text would speak of what nobody sees."""
    t0 = episode.seconds(t0_ns)
    return any(fault.at_s <= t0 and t0 + GRID.frame_offsets_s[0] < fault.until_s + EXPOSURE_S for fault in faults)


def _work(job: tuple[str, int, Path, Recipe]) -> tuple[str, int, str | None, bool]:
    """Name, samples, error, and whether going on makes no sense."""
    family, seed, *_ = job
    try:
        return f"{family} {seed}", drive(*job), None, False
    except DataError as error:
        return f"{family} {seed}", 0, str(error), True
    except Exception as error:  # one bad drive must not end hours of collection; it is counted and reported
        return f"{family} {seed}", 0, f"{type(error).__name__}: {error}", False


def _work_all(jobs: list[tuple[str, int, Path, Recipe]]) -> list[tuple[str, int, str | None, bool]]:
    return [_work(job) for job in jobs]


def collect(families: list[str], seeds: range, folder: Path, workers: int = 2, recipe: Recipe = Recipe()) -> Iterator[tuple[str, int, str | None]]:
    """Drive every family with every seed in `workers` processes; yields (drive, samples, error or None) as they finish.

    Drives whose shard is there already are skipped, so a broken run goes on where it stopped. DataError when writing fails.
    """
    jobs = [(family, seed, folder, recipe) for seed in seeds for family in families]
    jobs.sort(key=lambda job: (job[1] // 10, _kind(job[0], job[1]), job[1], job[0]))
    size = min(_CHUNK, max(1, len(jobs) // (4 * workers)))
    chunks = [jobs[k : k + size] for k in range(0, len(jobs), size)]
    for chunk in spread(_work_all, chunks, workers, ordered=False, jobs_per_process=_CHUNKS_PER_PROCESS):
        for name, count, error, fatal in chunk:
            if fatal:
                raise DataError(error)
            yield name, count, error


def _kind(family: str, seed: int) -> str:
    """Kind of map that a scenario most likely plays on."""
    kinds = families_of.load(family).maps
    return kinds[seed % len(kinds)]
