"""One judged episode under one of the planners that drive in this process."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from spanvla_ros.contracts import Observation, Plan
from spanvla_ros.evaluation.driving import Judge
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning.inputs import Grid
from spanvla_ros.planning.planner import Planner
from spanvla_ros.sim.scenario import Scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource

_GRID = Grid(cameras=("front",), frame_offsets_s=(-0.5, 0.0), history_offsets_s=(-1.5, -1.0, -0.5, 0.0))
_WAYPOINTS, _INTERVAL_S = 10, 0.5


class DrivingPlanner(Protocol):
    """What `drive` asks of a planner; `watch` hands it the simulation before an episode."""

    spec: Any
    needs_pictures: bool

    def watch(self, simulation: Simulation) -> None: ...

    def plan(self, observation: Observation) -> Plan: ...

    def close(self) -> None: ...


class _Simple:
    """Base of the planners without a model."""

    spec = _GRID
    needs_pictures = False

    def watch(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def close(self) -> None:
        pass

    @staticmethod
    def _plan(observation: Observation, waypoints: np.ndarray, reasoning: str) -> Plan:
        return Plan(
            t0_ns=observation.t0_ns,
            waypoints_base=waypoints,
            waypoint_interval_s=_INTERVAL_S,
            pose_odom=observation.pose_odom,
            speed_mps=float(observation.history.speeds_mps[-1]),
            reasoning=reasoning,
            tokens=0,
            seed=0,
            engine_hash="",
        )


class ExpertPlanner(_Simple):
    """The simulator's own driver; sees the whole scene."""

    def plan(self, observation: Observation) -> Plan:
        decision = self._simulation.expert.plan()
        return self._plan(observation, decision.waypoints_base, decision.trace or "")


class ConstantVelocity(_Simple):
    """Keeps speed and heading: what every planner must beat."""

    def plan(self, observation: Observation) -> Plan:
        times = _INTERVAL_S * np.arange(1, _WAYPOINTS + 1)
        return self._plan(observation, constant_turn(float(observation.history.speeds_mps[-1]), 0.0, times), "")


class EnginePlanner:
    """The model: a planner on an engine, which it closes at the end."""

    needs_pictures = True

    def __init__(self, planner: Planner):
        self._planner = planner
        self.spec = planner.spec

    def watch(self, simulation: Simulation) -> None:
        pass

    def plan(self, observation: Observation) -> Plan:
        return self._planner.plan(observation)

    def close(self) -> None:
        self._planner.close()


SIMPLE_PLANNERS = {"expert": ExpertPlanner, "constant_velocity": ConstantVelocity}


def drive(scenario: Scenario, planner: DrivingPlanner, *, render: bool = True, black: bool = False) -> dict[str, Any]:
    """Drive a scenario to its end and return the judge's result."""
    simulation = Simulation(scenario, render=render, black=black)
    judge = Judge(scenario.family, scenario.seed, scenario.time_limit_s)
    source = SimulationSource(simulation, planner.spec, pictures=render or black, on_step=lambda: judge.watch(simulation.truth()))
    try:
        observation = source.reset()
        planner.watch(simulation)
        while observation is not None and judge.ended is None:
            observation = source.step(planner.plan(observation))
        return {**judge.result(), "state_hash": simulation.state_hash}
    finally:
        simulation.close()
