"""One judged episode under one of the planners that drive in this process."""

from __future__ import annotations

from typing import Any

from spanvla_ros.evaluation.driving import Judge
from spanvla_ros.sim.planners import DrivingPlanner
from spanvla_ros.sim.scenario import Scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.source import SimulationSource


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
