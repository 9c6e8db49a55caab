"""Samples from the simulator: somebody drives, more or less well, and the expert says at every state what to do and why.

The label is the expert's plan from the state as it is, not what was driven next. So states that no good driver reaches
can be visited on purpose, by disturbing the expert or by letting a trained engine drive (DAgger), and stay usable.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spanvla_ros.contracts import NotReady, Plan
from spanvla_ros.data.sample import Sample, to_record
from spanvla_ros.data.shards import ShardWriter, finished
from spanvla_ros.planning.inputs import Grid, InputBuffer
from spanvla_ros.planning.prompt import reasoning_text
from spanvla_ros.planning.trajectory import densify

GRID = Grid(cameras=("front",), frame_offsets_s=(-0.5, 0.0), history_offsets_s=(-1.5, -1.0, -0.5, 0.0))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a drive is disturbed. Lateral and heading kicks at the start; later, phases in which the plan is bent sideways and stretched."""

    sample_s: float = 0.5
    plan_s: float = 0.25
    limit_s: float = 45.0
    start_lateral_m: float = 0.8
    start_yaw_rad: float = 0.08
    calm_s: tuple[float, float] = (1.0, 3.5)
    disturbed_s: tuple[float, float] = (0.6, 1.6)
    offset_m: float = 0.9
    stretch: tuple[float, float] = (0.5, 1.35)
    give_up_m: float = 4.0


class Disturbance:
    """Bends plans during random phases. Seeded."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator):
        self.recipe, self.rng = recipe, rng
        self.active = False
        self.until_s = rng.uniform(*recipe.calm_s)
        self.offset_m, self.stretch = 0.0, 1.0

    def bend(self, waypoints: np.ndarray, time_s: float) -> np.ndarray:
        """Waypoints (T, 3) as a worse driver would choose them at `time_s`."""
        if time_s >= self.until_s:
            self.active = not self.active
            self.until_s = time_s + self.rng.uniform(*(self.recipe.disturbed_s if self.active else self.recipe.calm_s))
            self.offset_m = self.rng.uniform(-1, 1) * self.recipe.offset_m
            self.stretch = self.rng.uniform(*self.recipe.stretch)
        if not self.active:
            return waypoints
        knots = np.arange(len(waypoints) + 1)
        at = np.minimum(knots[1:] * self.stretch, knots[-1])
        bent = np.stack([np.interp(at, knots, np.append(0, waypoints[:, i])) for i in range(3)], axis=1)
        ramp = np.minimum(knots[1:] / 3, 1.0) * self.offset_m
        bent[:, 0] -= ramp * np.sin(bent[:, 2])
        bent[:, 1] += ramp * np.cos(bent[:, 2])
        return bent


def drive(family: str, seed: int, folder: Path, engine: str | None = None, recipe: Recipe | None = None) -> int:
    """Drive one scenario and write its samples as one shard; returns their number (0 where the shard was there already).

    `engine`: folder of an engine that drives instead of the disturbed expert.
    """
    from spanvla_ros.sim import scenario as scenarios
    from spanvla_ros.sim.simulation import Simulation

    recipe = recipe or Recipe()
    name = f"{family}_{seed:05d}" + ("_engine" if engine else "")
    if finished(folder, name):
        return 0
    planner = None
    if engine:
        from spanvla_ros.engine.load import load_planner

        planner = load_planner(engine)
    rng = np.random.default_rng([seed, sum(map(ord, family))])
    scenario = scenarios.build(family, seed)
    simulation = Simulation(scenario)
    simulation.reset()
    simulation.kick(rng.uniform(-1, 1) * recipe.start_lateral_m, rng.uniform(-1, 1) * recipe.start_yaw_rad, 0.0)
    disturbance = Disturbance(recipe, rng)
    buffer = InputBuffer(planner.spec if planner else GRID)
    jpegs: dict[int, bytes] = {}
    count, step = 0, 0
    every_sample, every_plan = round(recipe.sample_s / 0.05), round(recipe.plan_s / 0.05)
    trajectory = None
    with ShardWriter(folder, name) as shard:
        while step * 0.05 < recipe.limit_s and not simulation.finished:
            ego, stamp = simulation.ego, simulation.stamp_ns
            buffer.add_odometry(stamp, ego.pose, ego.speed_mps, ego.yaw_rate_rps)
            sampling, planning = step % every_sample == 0, step % every_plan == 0
            if sampling or (planning and planner):
                jpegs[stamp] = simulation.jpeg("front")
                buffer.add_image("front", stamp, jpegs[stamp])
            if planning:
                decision = simulation.expert.plan()
                if abs(decision.fields["lateral_offset_m"]) > recipe.give_up_m:
                    break
                waypoints = disturbance.bend(decision.waypoints_base, step * 0.05)
                try:
                    observation = buffer.observe(stamp, scenario.command)
                except NotReady:
                    observation = None
                plan = Plan(
                    t0_ns=stamp,
                    waypoints_base=waypoints,
                    waypoint_interval_s=0.5,
                    pose_odom=ego.pose,
                    speed_mps=ego.speed_mps,
                    reasoning="",
                    tokens=0,
                    seed=0,
                    engine_hash="",
                )
                if planner and observation:
                    plan = planner.plan(observation)
                trajectory = densify(plan)
                if sampling and observation:
                    sample = Sample(
                        id=f"{name}_{step:04d}",
                        observation=observation,
                        future=decision.waypoints_base,
                        reasoning=reasoning_text(decision.trace),
                        mode=decision.mode,
                        family=family,
                        map=str(scenario.map_id),
                        label="pos",
                        fields=_scene(decision.fields),
                        cells=simulation.cells("front"),
                    )
                    record = to_record(
                        sample,
                        split=scenarios.split(seed),
                        seed=seed,
                        decision={"longitudinal": decision.longitudinal, "lateral": decision.lateral},
                        components=list(decision.components),
                        provenance={"source": "simulator", "driver": "engine" if planner else "disturbed expert"},
                    )
                    frames = {c: [(f.stamp_ns, jpegs[f.stamp_ns]) for f in fs] for c, fs in observation.images.items()}
                    shard.add(record, frames)
                    count += 1
            simulation.advance(trajectory, 0.05)
            step += 1
    simulation.close()
    if planner:
        planner.close()
    return count


def _scene(fields: Mapping[str, float]) -> dict[str, float | list[float]]:
    """Scene facts with the curvatures of all look-ahead distances as one list, nearest first."""
    ahead = [k for k in fields if k.startswith("curvature_1pm_")]
    return {k: round(v, 5) for k, v in fields.items() if k not in ahead} | {"curvature_1pm": [round(fields[k], 5) for k in ahead]}


def _work(job: tuple) -> tuple[str, int, str | None]:
    family, seed, *_ = job
    try:
        return f"{family} {seed}", drive(*job), None
    except Exception as error:  # one bad drive must not end hours of collection; it is counted and reported
        return f"{family} {seed}", 0, f"{type(error).__name__}: {error}"


def collect(families: list[str], seeds: range, folder: Path, workers: int = 2, engine: str | None = None) -> Iterator[tuple[str, int, str | None]]:
    """Drive every family with every seed in `workers` processes; yields (drive, samples, error or None) as they finish.

    Drives whose shard is there already are skipped, so a broken run goes on where it stopped.
    """
    jobs = [(family, seed, folder, engine) for seed in seeds for family in families]
    # libsumo holds one world per process, and a fresh process per batch of drives bounds its memory
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=20) as pool:
        yield from pool.imap_unordered(_work, jobs)
