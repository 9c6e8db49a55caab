"""Who can drive an episode in this process: the expert, two baselines that see nothing, and an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spanvla_ros.contracts import Command, EgoHistory, EngineError, Observation, Plan
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning import motion
from spanvla_ros.planning.inputs import Grid
from spanvla_ros.planning.planner import Planner
from spanvla_ros.planning.prompt import reasoning_text
from spanvla_ros.share import share
from spanvla_ros.sim.simulation import Simulation

EGO_MLP = "engines/ego_mlp/ego_mlp.onnx"
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
    """Base of the planners without a model of the scene."""

    spec = _GRID
    needs_pictures = False

    def watch(self, simulation: Simulation) -> None:
        pass

    def close(self) -> None:
        pass

    @staticmethod
    def _plan(observation: Observation, waypoints: np.ndarray, reasoning: str = "") -> Plan:
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

    def watch(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def plan(self, observation: Observation) -> Plan:
        decision = self._simulation.expert.plan()
        return self._plan(observation, decision.waypoints_base, reasoning_text(decision.trace))


class ConstantVelocity(_Simple):
    """Keeps speed and heading: what every planner must beat."""

    def plan(self, observation: Observation) -> Plan:
        times = _INTERVAL_S * np.arange(1, _WAYPOINTS + 1)
        return self._plan(observation, constant_turn(float(observation.history.speeds_mps[-1]), 0.0, times))


class EgoMlp(_Simple):
    """A network that knows the car's own motion and the command, and sees nothing: what pictures must be worth.

    Its ONNX graph takes ego (1, 19) of `planning.motion` and gives residuals (1, 10, 3) in metres and radians to the constant-turn
    roll-out; `spanvla train ego_mlp` makes it.
    """

    def __init__(self, path: Path | None = None):
        import onnxruntime

        path = path or share(EGO_MLP)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises errors of its own C++ classes
            raise EngineError(f"{path}: not a network that can be run ({error})") from None

    def plan(self, observation: Observation) -> Plan:
        ego = motion.features(observation.history, observation.command)
        (residuals,) = self._session.run(None, {"ego": ego[None]})
        base = motion.roll_out(observation.history, _INTERVAL_S * np.arange(1, _WAYPOINTS + 1))
        return self._plan(observation, (base + residuals[0]).astype(np.float64))


class EnginePlanner:
    """The model: a planner on an engine, which it closes at the end."""

    needs_pictures = True

    def __init__(self, planner: Planner):
        self._planner = planner
        self.spec = planner.spec

    def watch(self, simulation: Simulation) -> None:
        pass

    def plan(self, observation: Observation, early: Callable[[Plan], None] | None = None) -> Plan:
        return self._planner.plan(observation, early=early)

    def replan(self, history: EgoHistory, pose_odom: np.ndarray, command: Command) -> Plan:
        return self._planner.replan(history, pose_odom, command)

    def close(self) -> None:
        self._planner.close()


SIMPLE_PLANNERS = {"expert": ExpertPlanner, "constant_velocity": ConstantVelocity, "ego_mlp": EgoMlp}
