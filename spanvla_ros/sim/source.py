"""The simulator as a Source: observations out, plans in, in one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spanvla_ros.contracts import EgoHistory, ModelSpec, NotReady, Observation, Plan, Source, Trajectory
from spanvla_ros.planning.inputs import Grid, InputBuffer
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.sim.ego import STEP_S
from spanvla_ros.sim.pictures.camera import FRONT
from spanvla_ros.sim.simulation import Simulation

_BLANK = np.zeros((FRONT.height, FRONT.width, 3), np.uint8)


class SimulationSource(Source):
    """Lock-step drive of a simulation. The observation is built from JPEG bytes and odometry like in the car.

    As in the car, the newest frame of the first camera asks for a plan. Until an observation can be formed (1.5 s of history) the expert
    drives. A step without a plan keeps the last one, and so does the time in which faulty cameras show nothing.
    With pictures=False the frames are blank arrays, for planners that don't look. on_step is called after every 0.05 s, for a
    judge that looks at `simulation.truth()`.
    """

    def __init__(
        self,
        simulation: Simulation,
        spec: ModelSpec | Grid,
        *,
        period_s: float = 0.1,
        pictures: bool = True,
        on_step: Callable[[], None] | None = None,
    ):
        self.simulation = simulation
        self._grid = spec
        self._pictures = pictures
        self._steps = round(period_s / STEP_S)
        self._on_step = on_step
        self._trajectory: Trajectory | None = None

    def reset(self) -> Observation:
        """Start of the scenario plus the stretch that the expert drives."""
        self.simulation.reset()
        self._buffer = InputBuffer(self._grid)
        self._trajectory = None
        self._odometry()
        self._anchor_ns = -1
        anchor_ns = self._cameras()
        while True:
            try:
                return self._buffer.observe(anchor_ns, self.simulation.command)
            except NotReady:
                self._trajectory = self.simulation.expert.plan().trajectory
                anchor_ns = self._drive()

    def step(self, plan: Plan | None) -> Observation | None:
        """Follow `plan` for one period, or until the next observation; None at the end of the route."""
        if plan is not None:
            self.follow(plan)
        before = self._anchor_ns
        while True:
            anchor_ns = self._drive()
            if self.simulation.finished:
                return None
            if anchor_ns > before:
                try:
                    return self._buffer.observe(anchor_ns, self.simulation.command)
                except NotReady:
                    continue

    def follow(self, plan: Plan) -> None:
        """Drive along `plan` from the next 0.05 s on."""
        self._trajectory = densify(plan)

    def motion(self) -> tuple[EgoHistory, np.ndarray]:
        """Ego history up to this instant and the pose (3,) of base_link now."""
        return self._buffer.motion(self.simulation.stamp_ns)

    def _drive(self) -> int:
        for _ in range(self._steps):
            self.simulation.advance(self._trajectory, STEP_S)
            self._odometry()
            if self._on_step is not None:
                self._on_step()
        return self._cameras()

    def _odometry(self) -> None:
        ego = self.simulation.ego
        self._buffer.add_odometry(self.simulation.stamp_ns, ego.pose, ego.speed_mps, ego.yaw_rate_rps)

    def _cameras(self) -> int:
        """Take in what the cameras deliver; the newest stamp of the first one."""
        for camera in self._grid.cameras:
            for stamp_ns, picture in self.simulation.exposures(camera, None if self._pictures else _BLANK):
                self._buffer.add_image(camera, stamp_ns, picture)
                if camera == self._grid.cameras[0]:
                    self._anchor_ns = max(self._anchor_ns, stamp_ns)
        return self._anchor_ns
