"""Do the cameras of this car look like those that the model was trained with? CameraInfo gives the lens, /tf the mounting."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.planning.rig import Camera, load_rig
from spanvla_ros.ros import qos
from spanvla_ros.ros.diagnostics import ERROR, OK, WARN
from spanvla_ros.share import share

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # no wheel exists; a full ROS 2 has it
    TFMessage = None

DEMO_RIG = "config/rigs/demo.yaml"
_FOV_TOLERANCE_DEG = 3.0
_MOUNT_TOLERANCE_M = 0.3
_YAW_TOLERANCE_DEG = 3.0


def lens_differences(name: str, camera: Camera, info: Any) -> list[str]:
    """sensor_msgs/CameraInfo against the rig: one readable line per difference."""
    fx = float(info.k[0])
    if not np.isfinite(fx) or fx <= 0 or not info.width:
        return [f"camera {name}: camera_info has no calibration (fx = {fx:g}, width = {info.width})"]
    found = []
    hfov_deg = float(np.degrees(2 * np.arctan(info.width / (2 * fx))))
    if abs(hfov_deg - camera.hfov_deg) > _FOV_TOLERANCE_DEG:
        found.append(f"camera {name}: horizontal field of view is {hfov_deg:.1f} deg, trained with {camera.hfov_deg:.1f} deg")
    return found


def mount_differences(name: str, camera: Camera, base_from_camera: np.ndarray) -> list[str]:
    """Pose (4, 4) of the camera's optical frame in base_link against the rig."""
    found = []
    for axis, value, wanted in zip("xyz", base_from_camera[:3, 3], (camera.x_m, camera.y_m, camera.z_m)):
        if abs(value - wanted) > _MOUNT_TOLERANCE_M:
            found.append(f"camera {name}: mounted at {axis} = {value:.2f} m, trained with {wanted:.2f} m")
    forward = base_from_camera[:3, 2]  # an optical frame looks along z
    yaw_deg = float(np.degrees(np.arctan2(forward[1], forward[0])))
    if abs((yaw_deg - camera.yaw_deg + 180) % 360 - 180) > _YAW_TOLERANCE_DEG:
        found.append(f"camera {name}: looks to {yaw_deg:.1f} deg, trained with {camera.yaw_deg:.1f} deg")
    return found


def matrix(transform: Any) -> np.ndarray:
    """geometry_msgs/Transform -> (4, 4)."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = q.x, q.y, q.z, q.w
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), t.x],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), t.y],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), t.z],
            [0, 0, 0, 1],
        ]
    )


class RigCheck:
    """Collects camera_info and transforms and keeps the diagnostic task `rig`."""

    def __init__(self, node: Node, spec: ModelSpec, values: Mapping[str, Any]):
        self._node = node
        self._base_frame, self._mode = values["base_frame"], values["rig_check"]
        rig = None if self._mode == "off" else load_rig(Path(values["rig_file"]).expanduser() if values["rig_file"] else share(DEMO_RIG))
        missing = [] if rig is None else [c for c in spec.cameras if c not in rig.cameras]
        if missing:
            raise ConfigError(f"the rig has no camera {missing[0]!r}, only {', '.join(rig.cameras)}; set parameter rig_file")
        self._cameras = {} if rig is None else {c: rig.cameras[c] for c in spec.cameras}
        self._lock = threading.Lock()
        self._infos: dict[str, Any] = {}
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        self._subscriptions = []
        if TFMessage is not None:
            self._subscriptions = [
                node.create_subscription(TFMessage, topic, self._on_tf, profile)
                for topic, profile in (("/tf", qos.TF), ("/tf_static", qos.TF_STATIC))
            ]
        self._judge()

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    @property
    def refused(self) -> str:
        """Why nothing may be planned: a difference, where rig_check is `error`."""
        return self._text if self._mode == "error" and self._differences else ""

    def on_camera_info(self, camera: str, message: Any) -> None:
        with self._lock:
            known = self._infos.get(camera)
            if known is not None and list(known.k) == list(message.k):
                return
            self._infos[camera] = message
        self._judge()

    def _on_tf(self, message: Any) -> None:
        with self._lock:
            before = len(self._parents)
            for stamped in message.transforms:
                self._parents[stamped.child_frame_id] = (stamped.header.frame_id, matrix(stamped.transform))
            if len(self._parents) == before:
                return
        self._judge()

    def _mounting(self, frame: str) -> np.ndarray | None:
        """Pose of `frame` in the base frame, None while the chain is not complete."""
        pose, seen = np.eye(4), set()
        while frame != self._base_frame:
            if frame not in self._parents or frame in seen:
                return None
            seen.add(frame)
            frame, step = self._parents[frame]
            pose = step @ pose
        return pose

    def _judge(self) -> None:
        with self._lock:
            differences, checked, mounted = [], [], []
            for name, camera in self._cameras.items():
                info = self._infos.get(name)
                if info is None:
                    continue
                checked.append(name)
                differences += lens_differences(name, camera, info)
                pose = self._mounting(info.header.frame_id)
                if pose is not None:
                    mounted.append(name)
                    differences += mount_differences(name, camera, pose)
        extrinsics = "rig file (tf2_msgs is not installed)" if TFMessage is None else f"tf for {', '.join(mounted) or 'no camera yet'}"
        values = {"camera_info": ", ".join(checked) or "none yet", "extrinsics": extrinsics}
        self._differences = differences
        if self._mode == "off":
            level, self._text = OK, "not checked"
        elif differences:
            level, self._text = (ERROR if self._mode == "error" else WARN), "; ".join(differences)
        else:
            level, self._text = OK, "as trained" if checked else "no camera_info yet"
        self._node.diagnostics.set("rig", level, self._text, values)
