"""An agent that NAVSIM's devkit can run: the methods of its AbstractAgent by name, nothing of the devkit at import time.

    agent:
      _target_: spanvla_ros.data.navsim.agent.SpanVLAAgent
      engine: /path/to/engine
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, ConfigError, InputError, Plan
from spanvla_ros.data.navsim.logs import COMMANDS
from spanvla_ros.data.navsim.observation import CAMERAS, KNOWN_CAMERAS, OFFSETS_S, frame_indices, observe
from spanvla_ros.engine.load import load_planner
from spanvla_ros.geometry import interpolate_poses
from spanvla_ros.planning.planner import Planner

HORIZON_S, INTERVAL_S = 4.0, 0.5
# AgentInput has no clock; the stamp only seeds the noise
_T0_NS = round(-OFFSETS_S[0] * NS_PER_S)


class SpanVLAAgent:
    """Plans with an engine folder. cameras: name in the model -> NAVSIM's, where it is not the default; backend as in `load_planner`.

    Duck-typed: `requires_scene`, `name`, `initialize`, `get_sensor_config`, `compute_trajectory`.
    """

    requires_scene = False

    def __init__(self, engine: str, cameras: Mapping[str, str] | None = None, trajectory_sampling: Any = None, backend: str = "auto"):
        self._engine, self._backend = engine, backend
        self._cameras = {**CAMERAS, **(cameras or {})}
        unknown = sorted(set(self._cameras.values()) - set(KNOWN_CAMERAS))
        if unknown:
            raise ConfigError(f"cameras {unknown} are not NAVSIM's; it has {', '.join(KNOWN_CAMERAS)}")
        self._trajectory_sampling = trajectory_sampling
        self._planner: Planner | None = None

    def name(self) -> str:
        return type(self).__name__

    def initialize(self) -> None:
        """Open the engine; called once in every worker."""
        if self._planner is None:
            self._planner = load_planner(self._engine, self._backend)
            missing = sorted(set(self._planner.spec.cameras) - set(self._cameras))
            if missing:
                raise ConfigError(f"the model's cameras {missing} have no counterpart in NAVSIM; give them with `cameras`")

    def get_sensor_config(self) -> Any:
        """The devkit's SensorConfig: the frames of the cameras that the model looks at, nothing else."""
        from navsim.common.dataclasses import SensorConfig

        self.initialize()
        spec = self._planner.spec
        wanted = {self._cameras[name].lower(): frame_indices(spec.frame_offsets_s) for name in spec.cameras}
        return SensorConfig(**{camera.lower(): wanted.get(camera.lower(), False) for camera in KNOWN_CAMERAS}, lidar_pc=False)

    def compute_trajectory(self, agent_input: Any) -> Any:
        """The devkit's Trajectory for its AgentInput: poses (T, 3) at the asked sampling, by default 8 at 0.5 .. 4.0 s."""
        from navsim.common.dataclasses import Trajectory
        from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

        sampling = self._trajectory_sampling or TrajectorySampling(time_horizon=HORIZON_S, interval_length=INTERVAL_S)
        poses = poses_of(self.plan(agent_input), sampling.num_poses, sampling.interval_length)
        return Trajectory(poses.astype(np.float32), sampling)

    def plan(self, agent_input: Any) -> Plan:
        """The plan for an AgentInput, with its reasoning. InputError where it lacks what the model needs."""
        self.initialize()
        spec, statuses = self._planner.spec, agent_input.ego_statuses
        if len(statuses) != len(OFFSETS_S):
            raise InputError(f"AgentInput has {len(statuses)} instants, the model needs {len(OFFSETS_S)} (num_history_frames: 4)")
        images = {name: [self._image(agent_input, name, k) for k in frame_indices(spec.frame_offsets_s)] for name in spec.cameras}
        command = np.asarray(statuses[-1].driving_command)
        observation = observe(
            spec,
            _T0_NS,
            np.stack([np.asarray(status.ego_pose, dtype=float) for status in statuses]),
            np.array([float(status.ego_velocity[0]) for status in statuses]),
            images,
            COMMANDS[int(np.argmax(command))] if command.any() else COMMANDS[-1],
        )
        return self._planner.plan(observation)

    def _image(self, agent_input: Any, name: str, k: int) -> np.ndarray:
        image = getattr(agent_input.cameras[k], self._cameras[name].lower()).image
        if image is None:
            raise InputError(f"AgentInput has no picture of {self._cameras[name]} {-OFFSETS_S[k]:g} s before t0; was get_sensor_config used?")
        return np.ascontiguousarray(image)


def poses_of(plan: Plan, count: int, interval_s: float) -> np.ndarray:
    """Poses (count, 3) of a plan every `interval_s`. InputError where the plan is too short."""
    times = plan.waypoint_interval_s * np.arange(len(plan.waypoints_base) + 1)
    wanted = interval_s * np.arange(1, count + 1)
    if wanted[-1] > times[-1] + 1e-6:
        raise InputError(f"the model plans {times[-1]:g} s, asked are {wanted[-1]:g} s")
    return interpolate_poses(times, np.concatenate([np.zeros((1, 3)), plan.waypoints_base]), wanted)
