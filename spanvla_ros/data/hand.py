"""An expert with an unsteady hand: noise on the supervisor, so that a learner sees how to get back (DART, arXiv 1703.09327)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from spanvla_ros.contracts import Trajectory
from spanvla_ros.sim.simulation import Simulation

_STEADY_S, _DRIFT_S = (1.5, 4.0), (0.8, 1.6)  # how long it is steady, and how long it isn't
_DRIFT_M = np.array([2.0, 0.45])  # most that it aims ahead and aside of where the expert wants to be, whatever that is by now
_MOVING_MPS = 1.5


class UnsteadyHand:
    """Lets the car drift off the expert's path for about a second, every few seconds."""

    def __init__(self, simulation: Simulation):
        scenario = simulation.scenario
        self._simulation = simulation
        self._rng = np.random.default_rng([scenario.seed, sum(map(ord, scenario.family)), 1])
        self._until_s = 0.0
        self._next()

    def _next(self) -> None:
        self._from_s = self._until_s + float(self._rng.uniform(*_STEADY_S))
        self._until_s = self._from_s + float(self._rng.uniform(*_DRIFT_S))
        self._aside = self._rng.uniform(-1, 1, 2) * _DRIFT_M

    def plan(self, trajectory: Trajectory) -> Trajectory:
        """What is driven instead of the expert's trajectory."""
        now = self._simulation.time_s
        if now >= self._until_s:
            self._next()
        # who stands at a red light stays there
        if now < self._from_s or self._simulation.ego.speed_mps < _MOVING_MPS:
            return trajectory
        yaw = self._simulation.ego.yaw
        along, across = self._aside
        shift = (along * math.cos(yaw) - across * math.sin(yaw), along * math.sin(yaw) + across * math.cos(yaw), 0.0)
        return dataclasses.replace(trajectory, poses_odom=trajectory.poses_odom + np.array(shift))
