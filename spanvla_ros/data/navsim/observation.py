"""What the planner gets of NAVSIM, from a log or from the devkit's AgentInput alike: four instants at 2 Hz, the last is t0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Command, ConfigError, EgoHistory, Image, Observation
from spanvla_ros.data.navsim.logs import INTERVAL_S
from spanvla_ros.geometry import to_local, wrap
from spanvla_ros.planning.inputs import Grid

OFFSETS_S = (-1.5, -1.0, -0.5, 0.0)
CAMERAS = {"front": "CAM_F0", "front_left": "CAM_L0", "front_right": "CAM_R0"}  # method section 1
KNOWN_CAMERAS = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")


def parse_cameras(texts: Sequence[str]) -> dict[str, str]:
    """camera -> NAVSIM camera of texts such as "front_left=CAM_L1", which change the defaults. ConfigError for unknown names."""
    found = dict(CAMERAS)
    for text in texts:
        name, _, camera = text.partition("=")
        if not name or camera not in KNOWN_CAMERAS:
            raise ConfigError(f"camera '{text}' is not NAME=CAMERA with one of {', '.join(KNOWN_CAMERAS)}")
        found[name] = camera
    return found


def frame_indices(offsets_s: Sequence[float]) -> list[int]:
    """Which of the four instants a grid asks for. ConfigError where NAVSIM has none at an offset."""
    found = []
    for offset in offsets_s:
        if offset not in OFFSETS_S:
            raise ConfigError(f"the model wants something {-offset:g} s before t0, NAVSIM has {', '.join(f'{-o:g}' for o in OFFSETS_S)} s")
        found.append(OFFSETS_S.index(offset))
    return found


def observe(
    grid: Grid,
    t0_ns: int,
    poses: np.ndarray,
    speeds_mps: np.ndarray,
    images: Mapping[str, Sequence[np.ndarray]],
    command: Command,
) -> Observation:
    """poses (4, 3) in any frame and speeds (4,) along x; images: camera -> RGB of the grid's frames, oldest first.

    Instants are taken as exactly 0.5 s apart, as NAVSIM does. Logs have no yaw rate; here it is that since the instant before.
    """
    stamps = [t0_ns + round(offset * NS_PER_S) for offset in OFFSETS_S]
    turned = wrap(np.diff(poses[:, 2])) / INTERVAL_S
    yaw_rates = np.concatenate([turned[:1], turned])
    rows = frame_indices(grid.history_offsets_s)
    history = EgoHistory(
        stamps_ns=tuple(stamps[k] for k in rows),
        poses_base=to_local(poses[-1], poses)[rows],
        speeds_mps=speeds_mps[rows],
        yaw_rates_rps=yaw_rates[rows],
        acceleration_mps2=float((speeds_mps[rows[-1]] - speeds_mps[rows[-2]]) / ((rows[-1] - rows[-2]) * INTERVAL_S)),
    )
    shown = frame_indices(grid.frame_offsets_s)
    return Observation(
        t0_ns=t0_ns,
        images={name: tuple(Image(stamp_ns=stamps[k], rgb=rgb) for k, rgb in zip(shown, images[name])) for name in grid.cameras},
        history=history,
        pose_odom=poses[-1],
        command=command,
    )
