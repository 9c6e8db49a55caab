"""A planner node without a model: `python -m spanvla_ros.ros.baseline constant_velocity --ros-args ...`.

It is the planner node itself, with supervisor, history from odometry and all outputs; only what makes the plan is a baseline of
`sim.planners`. So a baseline drives over ROS by the same messages as the model.
"""

from __future__ import annotations

import dataclasses
import sys
import time

from spanvla_ros.contracts import ModelSpec, Observation, Plan
from spanvla_ros.ros.main import spin
from spanvla_ros.ros.planner_node import PlannerNode
from spanvla_ros.sim.planners import SIMPLE_PLANNERS

# the expert needs the truth, which never leaves the simulator by a topic
BASELINES = tuple(name for name in SIMPLE_PLANNERS if name != "expert")


class Baseline:
    """A baseline as the planner node wants its planner: with a ModelSpec that says which messages it needs."""

    engine_hash = ""
    backend_name, passed_over, max_reasoning_tokens = "none", (), 0

    def __init__(self, name: str):
        self._planner = SIMPLE_PLANNERS[name]()
        grid = self._planner.spec
        self.spec = ModelSpec(
            name=name,
            cameras=grid.cameras,
            frame_offsets_s=grid.frame_offsets_s,
            history_offsets_s=grid.history_offsets_s,
            image_size=(28, 28),  # of the grey picture it is warmed up with
            waypoints=1,
            waypoint_interval_s=0.5,
            prompt_version="",
            prompt_tokens=1,
            max_reasoning_tokens=0,
            tokenizer_sha256="",
            taps=(0,),
            flow_steps=1,
            source_sigma=0.0,
            action_scale=((1.0, 1.0, 1.0),),
        )

    def plan(self, observation: Observation, *, deadline_s: float | None = None, early: object = None) -> Plan:
        began = time.perf_counter()
        plan = self._planner.plan(observation)
        return dataclasses.replace(plan, timings_ms={"total": 1e3 * (time.perf_counter() - began)})

    def close(self) -> None:
        self._planner.close()


def main(name: str) -> int:
    """Run the node of a baseline until a signal."""
    return spin(lambda: PlannerNode(lambda values: Baseline(name)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
