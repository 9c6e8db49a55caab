"""Do the cameras of this car look like those that the model was trained with? CameraInfo gives the lens, /tf the mounting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.planning.lens import Lens, fitting
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
_ANGLE_TOLERANCE_DEG = 3.0
_DISTORTION = 0.02  # of a coefficient


def lens_differences(name: str, camera: Camera, info: Any) -> list[str]:
    """sensor_msgs/CameraInfo against the rig: one readable line per difference."""
    fx, fy, cx, cy = (float(info.k[i]) for i in (0, 4, 2, 5))
    if not np.isfinite([fx, fy, cx, cy]).all() or min(fx, fy) <= 0 or not info.width or not info.height:
        return [f"camera {name}: camera_info has no calibration (fx = {fx:g}, fy = {fy:g}, width = {info.width})"]
    found = []
    trained_v = 2 * np.degrees(np.arctan(camera.height / (2 * camera.focal_px)))
    for what, length, focal, trained in (("horizontal", info.width, fx, camera.hfov_deg), ("vertical", info.height, fy, trained_v)):
        degrees = float(np.degrees(2 * np.arctan(length / (2 * focal))))
        if abs(degrees - trained) > _FOV_TOLERANCE_DEG:
            found.append(f"camera {name}: {what} field of view is {degrees:.1f} deg, trained with {trained:.1f} deg")
    for what, centre, length, focal in (("right", cx, info.width, fx), ("down", cy, info.height, fy)):
        degrees = float(np.degrees(np.arctan((length / 2 - centre) / focal)))
        if abs(degrees) > _ANGLE_TOLERANCE_DEG:
            found.append(f"camera {name}: the middle of the picture looks {degrees:+.1f} deg {what} of the optical axis")
    bent = [float(value) for value in info.d if abs(value) > _DISTORTION]
    return found + ([f"camera {name}: the picture is distorted ({info.distortion_model} {bent})"] if bent else [])


def mount_differences(name: str, camera: Camera, base_from_camera: np.ndarray, *, turned: bool = False) -> list[str]:
    """Pose (4, 4) of the camera's optical frame in base_link against the rig; turned: the direction is already made up for."""
    found = []
    for axis, value, wanted in zip("xyz", base_from_camera[:3, 3], (camera.x_m, camera.y_m, camera.z_m)):
        if abs(value - wanted) > _MOUNT_TOLERANCE_M:
            found.append(f"camera {name}: mounted at {axis} = {value:.2f} m, trained with {wanted:.2f} m")
    right, _, ahead = base_from_camera[:3, :3].T  # an optical frame looks along z, its x is to the right
    yaw_deg, pitch_deg = (float(np.degrees(a)) for a in (np.arctan2(ahead[1], ahead[0]), -np.arcsin(np.clip(ahead[2], -1, 1))))
    roll_deg = float(np.degrees(-np.arcsin(np.clip(right[2], -1, 1))))
    angles = (("to", yaw_deg, camera.yaw_deg), ("down by", pitch_deg, camera.pitch_deg), ("rolled by", roll_deg, 0.0))
    for what, value, wanted in () if turned else angles:
        if abs((value - wanted + 180) % 360 - 180) > _ANGLE_TOLERANCE_DEG:
            found.append(f"camera {name}: looks {what} {value:.1f} deg, trained with {wanted:.1f} deg")
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
    """Collects camera_info and transforms, keeps the diagnostic task `rig`, and makes up for what a picture can be changed for.

    use: called with camera and lens (None: the picture as it is) when that changes.
    """

    def __init__(self, node: Node, spec: ModelSpec, values: Mapping[str, Any], use: Callable[[str, Lens | None], None]):
        self._node, self._use = node, use
        self._base_frame, self._mode, self._rectify = values["base_frame"], values["rig_check"], values["rectify"]
        rig = None if self._mode == "off" else load_rig(Path(values["rig_file"]).expanduser() if values["rig_file"] else share(DEMO_RIG))
        missing = [] if rig is None else [c for c in spec.cameras if c not in rig.cameras]
        if missing:
            raise ConfigError(f"the rig has no camera {missing[0]!r}, only {', '.join(rig.cameras)}; set parameter rig_file")
        self._cameras = {} if rig is None else {c: rig.cameras[c] for c in spec.cameras}
        self._lock = threading.Lock()
        self._infos: dict[str, Any] = {}
        self._lenses: dict[str, tuple[Any, tuple[Lens | None, bool]]] = {}
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
        """Why nothing may be planned, where rig_check is `error`: a difference, or a camera that nothing is known of."""
        unknown = [c for c in self._cameras if c not in self._infos] if self._mode == "error" else []
        return self.differs or (f"no camera_info of camera {', '.join(unknown)} yet, and rig_check is error" if unknown else "")

    @property
    def differs(self) -> str:
        """The differences that are known by now, where rig_check is `error`."""
        return self._differences if self._mode == "error" else ""

    def on_camera_info(self, camera: str, message: Any) -> None:
        with self._lock:
            known = self._infos.get(camera)
            if known is not None and _calibration(known) == _calibration(message):
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

    def _fitting(self, name: str, info: Any, pose: np.ndarray | None) -> tuple[Lens | None, bool]:
        """`fitting`, again only where calibration or mounting have changed: other frames come and go by the hundred."""
        if not self._rectify:
            return None, False
        given = _calibration(info), None if pose is None else pose.tobytes()
        if self._lenses.get(name, (None,))[0] != given:
            self._lenses[name] = given, fitting(name, self._cameras[name], info, pose)
        return self._lenses[name][1]

    def _judge(self) -> None:
        with self._lock:
            differences, mended, mounted = [], [], []
            for name, camera in self._cameras.items():
                info = self._infos.get(name)
                if info is None:
                    continue
                pose = self._mounting(info.header.frame_id)
                lens, turned = self._fitting(name, info, pose)
                seen = lens_differences(name, camera, info)
                if lens is None:
                    differences += seen
                elif not lens.same:
                    mended.append(f"camera {name}: {lens.hfov_deg:.1f} deg rectified to the trained {camera.hfov_deg:.1f} deg")
                if pose is not None:
                    mounted.append(name)
                    differences += mount_differences(name, camera, pose, turned=turned)
                self._use(name, None if lens is None or lens.same else lens)
            checked = ", ".join(c for c in self._cameras if c in self._infos)
        extrinsics = "rig file (tf2_msgs is not installed)" if TFMessage is None else f"tf for {', '.join(mounted) or 'no camera yet'}"
        values = {"camera_info": checked or "none yet", "extrinsics": extrinsics, "rectified": "; ".join(mended) or "nothing"}
        self._differences = "; ".join(differences)
        if self._mode == "off":
            level, text = OK, "not checked"
        elif differences:
            level, text = (ERROR if self._mode == "error" else WARN), self._differences
        else:
            level, text = OK, "; ".join(mended) or ("as trained" if checked else "no camera_info yet")
        self._node.diagnostics.set("rig", level, text, values)


def _calibration(info: Any) -> tuple:
    return (*info.k, *info.d, info.width, info.height, info.distortion_model, info.header.frame_id)
