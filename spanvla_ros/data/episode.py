"""One drive in the simulator without pictures: the truth at 10 Hz, and everything a sample is made of later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, Observation, Trajectory
from spanvla_ros.planning.inputs import Grid, InputBuffer
from spanvla_ros.sim import frame as frames_of
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.decision import Decision
from spanvla_ros.sim.ego import STEP_S, EgoState
from spanvla_ros.sim.frame import Frame
from spanvla_ros.sim.signals import Signals
from spanvla_ros.sim.simulation import Simulation

GRID = Grid(
    cameras=("front", "front_left", "front_right"),
    frame_offsets_s=(-1.5, -1.0, -0.5, 0.0),
    history_offsets_s=(-1.5, -1.0, -0.5, 0.0),
)
EXPOSURE_S = 0.5
PLAN_S = 0.25
FUTURE_FRAMES = 50
_BLANK = np.zeros((1, 1, 3), np.uint8)  # stands for a picture that is taken later
_MARGIN_M = 12.0  # of path that must lie ahead
_OFF_M = 6.0  # from the path; what is that far away is lost
_LIGHTS_M = 80.0


@dataclass(frozen=True, kw_only=True)
class Still:
    """What a picture shows."""

    stamp_ns: int
    ego: EgoState
    actors: tuple[Actor, ...]
    signals: Signals


@dataclass(frozen=True, kw_only=True)
class Instant:
    """A moment that may become a sample. index: its frame; observation: with blank pictures; decision: the good driver's."""

    index: int
    observation: Observation
    decision: Decision
    route_s: float
    instruction: str
    lights: tuple[dict[str, Any], ...]


@dataclass(kw_only=True)
class Log:
    """A drive: frames at 10 Hz; stills and instants every 0.5 s, by stamp."""

    frames: list[Frame] = field(default_factory=list)
    stills: dict[int, Still] = field(default_factory=dict)
    instants: list[Instant] = field(default_factory=list)


def drive(simulation: Simulation, choose: Callable[[Decision, Observation | None], Trajectory], limit_s: float) -> Log:
    """Drive on from where `simulation` stands; `choose` turns the expert's decision into what is driven.

    Ends 5 s after the scenario does, after `limit_s`, or where the way is lost.
    """
    log, buffer = Log(), InputBuffer(GRID)
    route, steps = simulation.route, 0
    trajectory: Trajectory | None = None
    ends_s = limit_s
    every = {name: round(seconds / STEP_S) for name, seconds in (("frame", 0.1), ("plan", PLAN_S), ("exposure", EXPOSURE_S))}
    while simulation.time_s < ends_s:
        ego, stamp = simulation.ego, simulation.stamp_ns
        buffer.add_odometry(stamp, ego.pose, ego.speed_mps, ego.yaw_rate_rps)
        if steps % every["frame"] == 0:
            log.frames.append(frames_of.take(simulation))
        exposed = steps % every["exposure"] == 0
        if exposed:
            log.stills[stamp] = Still(stamp_ns=stamp, ego=ego, actors=simulation.actors, signals=copy.deepcopy(simulation.signals))
            for camera in GRID.cameras:
                buffer.add_image(camera, stamp, _BLANK)
        if steps % every["plan"] == 0:
            decision = simulation.expert.plan()
            whole = exposed and simulation.time_s >= -GRID.frame_offsets_s[0]
            observation = buffer.observe(stamp, simulation.command) if whole else None
            if observation is not None:
                log.instants.append(_instant(simulation, len(log.frames) - 1, observation, decision))
            trajectory = choose(decision, observation)
        simulation.advance(trajectory, STEP_S)
        steps += 1
        if simulation.finished:
            ends_s = min(ends_s, simulation.time_s + FUTURE_FRAMES * 0.1 + STEP_S)
        _, lateral, _ = route.path.project(simulation.ego.pose, simulation.route_s)
        if abs(lateral) > _OFF_M or simulation.route_s > route.path.length_m - _MARGIN_M:
            break
    return log


def _instant(simulation: Simulation, index: int, observation: Observation, decision: Decision) -> Instant:
    return Instant(
        index=index,
        observation=observation,
        decision=decision,
        route_s=simulation.route_s,
        instruction=_instruction(simulation),
        lights=tuple(
            {"connector": stop.connector, "state": simulation.signals.state(stop.signal), "distance_m": round(stop.s - simulation.route_s, 1)}
            for stop in simulation.route.path.stops
            if stop.signal is not None and stop.exit_s > simulation.route_s and stop.s - simulation.route_s < _LIGHTS_M
        ),
    )


def _instruction(simulation: Simulation) -> str:
    """What a navigation system would say here."""
    s, command = simulation.route_s, simulation.command
    stop = simulation.route.path.next_stop(s)
    if stop is None or stop.s - s > _LIGHTS_M / 2:
        return "Follow the road."
    where = "at the traffic light" if stop.signal is not None else "at the junction"
    if stop.s <= s:
        where = "in this junction"
    elif stop.s - s > 10.0:
        where += f" in {10 * round((stop.s - s) / 10)} m"
    return f"{'Go straight on' if command in (Command.STRAIGHT, Command.UNKNOWN) else f'Turn {command.value}'} {where}."


def seconds(stamp_ns: int) -> float:
    return stamp_ns / NS_PER_S
