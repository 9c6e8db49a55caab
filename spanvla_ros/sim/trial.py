"""One judged drive with everything the report shows of it; and the loop that drives it in this process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from spanvla_ros.contracts import InputError, Observation, Plan
from spanvla_ros.evaluation import birdview, sketch
from spanvla_ros.evaluation.benchmark import latency
from spanvla_ros.evaluation.driving import Judge
from spanvla_ros.evaluation.pdm.scene import WAYPOINT_S, WAYPOINTS
from spanvla_ros.evaluation.pdm.scorer import score
from spanvla_ros.evaluation.tape import PERIOD_S, Box, Ground, Snapshot, Tape, rings
from spanvla_ros.geometry import to_global
from spanvla_ros.planning import consistency
from spanvla_ros.planning.planner import Rate
from spanvla_ros.planning.prompt import SLOW_LEAD
from spanvla_ros.sim import frame as frames
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.latency import Latency, Thinker, drivable
from spanvla_ros.sim.planners import DrivingPlanner
from spanvla_ros.sim.reaction import Reaction
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource

_FRAME_NS = 100_000_000
_SNAPSHOT_NS = round(PERIOD_S * 1e9)
_SCORED_NS = 1_000_000_000  # one plan per second of driving
_SHOWN_M = 60.0
_FILM = "front"


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A plan for the PDM score: frame it was made at, waypoints (8, 3) in base_link."""

    index: int
    waypoints_base: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What the text of a plan is worth: whether the plan does what it says, whether it was thought slowly, and whether the scene asks for it."""

    verdict: str
    slow: bool
    complex: bool


class Trial:
    """Judge and witness of a simulation's scenario. Call `stepped` after every 0.05 s from the reset on, `planned` for every plan.

    watches: the planner asks for the pictures, else they are taken here for the clips alone; time_limit_s: below the scenario's own.
    """

    def __init__(self, simulation: Simulation, *, watches: bool = True, time_limit_s: float = np.inf):
        scenario = simulation.scenario
        self.simulation = simulation
        self.judge = Judge(scenario.family, scenario.seed, min(scenario.time_limit_s, time_limit_s))
        self._takes = simulation.renders and not watches
        self._frames: list[frames.Frame] = []
        self._snapshots: list[Snapshot] = []
        self._made: list[_Made] = []
        self._said: list[_Said] = []
        self._expert = simulation.expert_with(Style())  # says which scenes are complex; the one that may drive is left alone
        self._reaction = Reaction(simulation)
        self._times_ms: list[float] = []
        self._plan: Plan | None = None
        self._plans = self._refused = 0

    def stepped(self) -> None:
        """Look at the simulation as it stands now."""
        simulation = self.simulation
        truth = simulation.truth()
        self.judge.watch(truth)
        self._reaction.watch()
        if simulation.stamp_ns % _FRAME_NS == 0:
            self._frames.append(frames.take(simulation))
        if simulation.stamp_ns % _SNAPSHOT_NS == 0:
            self._snapshots.append(self._snapshot(truth))

    def planned(self, plan: Plan, took_ms: float) -> None:
        """Take note of a plan that is followed; it was made for the newest frame or, with late pictures, for one before."""
        self._plans += 1
        self._times_ms.append(took_ms)
        self._plan = plan
        if plan.revision != 1:  # the plan with the whole text stands for its picture
            return
        if plan.reasoning and plan.t0_ns % _SCORED_NS == 0:
            verdict = consistency.check(plan).verdict.value
            self._said.append(_Said(verdict=verdict, slow=plan.reasoning.startswith(SLOW_LEAD), complex=self._expert.plan().mode == "slow"))
        known = plan.waypoint_interval_s == WAYPOINT_S and len(plan.waypoints_base) >= WAYPOINTS
        if known and self._frames and plan.t0_ns % _SCORED_NS == 0 and self._frames[-1].stamp_ns >= plan.t0_ns:
            index = len(self._frames) - 1 - (self._frames[-1].stamp_ns - plan.t0_ns) // _FRAME_NS
            self._made.append(_Made(index=index, waypoints_base=plan.waypoints_base[:WAYPOINTS]))

    def refused(self) -> None:
        """Take note of a picture without a plan, or with one that no car can drive."""
        self._refused += 1

    def result(self) -> dict[str, Any]:
        """The judge's result with scores of the plans, latency (plan_times_ms of every plan) and state hash."""
        scenario = self.simulation.scenario
        return {
            **self.judge.result(),
            "map_id": scenario.map_id,
            "variant": scenario.variant,
            "engine_hash": self._plan.engine_hash if self._plan is not None else "",
            "plans": self._plans,
            "refused": self._refused,
            "reaction_s": self._reaction.seconds,
            "pdm": self._pdm(),
            "reasoning": self._reasoning(),
            "plan_latency_ms": latency(self._times_ms),
            "plan_times_ms": [round(value, 3) for value in self._times_ms],
            "state_hash": self.simulation.state_hash,
        }

    def pictures(self, result: dict[str, Any]) -> dict[str, bytes]:
        """File name -> content: the drive from above, its speed, and a clip where it failed."""
        if not self._snapshots:
            return {}
        tape = Tape(result=result, ground=self._ground(), snapshots=self._snapshots)
        made = {"top.svg": sketch.from_above(tape).encode(), "speed.svg": sketch.speed(tape).encode()}
        film = birdview.clip(tape)
        return made if film is None else {**made, "clip.webp": film}

    def _snapshot(self, truth: Any) -> Snapshot:
        simulation, ego = self.simulation, self.simulation.ego
        stop = simulation.route.path.next_stop(simulation.route_s)
        plan = self._plan
        return Snapshot(
            time_s=truth.time_s,
            pose=truth.pose,
            speed_mps=truth.speed_mps,
            footprint=truth.footprint,
            boxes=tuple(
                Box(name=a.name, kind=a.kind, corners=a.corners, braking=a.braking)
                for a in simulation.actors
                if abs(a.x - ego.x) < _SHOWN_M and abs(a.y - ego.y) < _SHOWN_M
            ),
            plan=np.empty((0, 3)) if plan is None else to_global(plan.pose_odom, plan.waypoints_base),
            stop=simulation.route.path.pose(stop.s) if stop is not None and stop.signal is not None else None,
            lamp=truth.lamp,
            jpeg=self._picture(),
            text=plan.reasoning if plan is not None else "",
        )

    def _picture(self) -> bytes | None:
        """What the front camera shows, or showed last."""
        if self._takes:
            return self.simulation.jpeg(_FILM)
        return self.simulation.delivered.get(_FILM) if self.simulation.renders else None

    def _ground(self) -> Ground:
        road, route = self.simulation.road, self.simulation.route
        line = route.path.pose(np.linspace(route.start_s, route.end_s, max(int(route.length_m), 2)))[:, :2]
        ways = np.concatenate([line, [s.pose[:2] for s in self._snapshots]])
        window = shapely.box(*(ways.min(axis=0) - _SHOWN_M), *(ways.max(axis=0) + _SHOWN_M))
        areas = {name: rings(getattr(road, name).intersection(window)) for name in ("drivable", "sidewalk", "white", "yellow")}
        return Ground(**areas, route=line)

    def _reasoning(self) -> dict[str, int] | None:
        """Counts over one plan per second: verdicts of the rule check, slow thinking, in complex scenes and on free road; None without texts."""
        if not self._said:
            return None
        counts = {verdict.value: sum(s.verdict == verdict.value for s in self._said) for verdict in consistency.Verdict}
        return {
            "plans": len(self._said),
            **counts,
            "complex": sum(s.complex for s in self._said),
            "slow_in_complex": sum(s.slow and s.complex for s in self._said),
            "slow_in_free": sum(s.slow and not s.complex for s in self._said),
        }

    def _pdm(self) -> dict[str, float] | None:
        """Mean sub-scores of one plan per second against what really happened in the 5 s after it; None without such plans."""
        rows = []
        for made in self._made:
            if made.index + frames.AHEAD >= len(self._frames):
                continue
            scene = frames.pdm_scene(self.simulation.road, self.simulation.route, self._frames, made.index)
            found = {version: score(scene, made.waypoints_base[None], version) for version in ("v1", "v2")}
            values = {name: float(value[0]) for name, value in found["v2"].values.items()}
            rows.append({"epdms": float(found["v2"].total[0]), "pdms": float(found["v1"].total[0]), **values})
        if not rows:
            return None
        return {"plans": len(rows), **{name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}}


def drive(
    simulation: Simulation, planner: DrivingPlanner, latency: Latency | None = None, rate: Rate | None = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Drive a simulation's scenario to its end and close it: the result (plain JSON values) and the pictures of `Trial.pictures`.

    Time stands still while a plan is made; with a latency, for an `EnginePlanner`, it goes on, and plans are also made as `rate` says.
    """
    began_s = time.perf_counter()
    trial = Trial(simulation, watches=planner.needs_pictures)
    thinker: Thinker | None = None

    def stepped() -> None:
        trial.stepped()
        if thinker is not None:
            thinker.stepped()

    source = SimulationSource(simulation, planner.spec, pictures=planner.needs_pictures, on_step=stepped)
    try:
        observation = source.reset()
        planner.watch(simulation)
        if latency is not None:
            thinker = Thinker(planner, source, latency, rate or Rate(), trial.planned, trial.refused)
        while observation is not None and trial.judge.ended is None:
            if thinker is not None:
                thinker.see(observation)
                observation = source.step(None)
                continue
            plan, took_ms = _drivable(planner, observation)
            if plan is None:
                trial.refused()
            else:
                trial.planned(plan, took_ms)
            observation = source.step(plan)
        result = trial.result()
        result["wall_s"] = round(time.perf_counter() - began_s, 2)
        return result, trial.pictures(result)
    finally:
        simulation.close()


def _drivable(planner: DrivingPlanner, observation: Observation) -> tuple[Plan | None, float]:
    """The plan and the milliseconds that it took; None where the planner node would refuse it: the car follows the last one."""
    began = time.perf_counter()
    try:
        plan = planner.plan(observation)
    except InputError:
        return None, 0.0
    took_ms = 1e3 * (time.perf_counter() - began)
    return plan if drivable(plan) else None, took_ms
