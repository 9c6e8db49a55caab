"""Camera_info and mounting against the rig of the training: every difference has its number in it."""

from __future__ import annotations

from types import SimpleNamespace as Box

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from helpers import demo_spec  # noqa: E402

from spanvla_ros.planning.lens import fitting  # noqa: E402
from spanvla_ros.planning.rig import Camera, load_rig  # noqa: E402
from spanvla_ros.ros.rig import RigCheck, lens_differences, mount_differences  # noqa: E402
from spanvla_ros.share import share  # noqa: E402

FRONT = load_rig(share("config/rigs/demo.yaml")).cameras["front"]
VALUES = {"base_frame": "base_link", "rig_check": "error", "rig_file": "", "rectify": True}


def info(hfov_deg=70.0, width=448, height=252, cx=None, d=()):
    focal = width / (2 * np.tan(np.radians(hfov_deg / 2)))
    k = [focal, 0.0, width / 2 if cx is None else cx, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return Box(k=k, d=list(d), distortion_model="plumb_bob", width=width, height=height, header=Box(frame_id="front"))


def test_the_trained_camera_has_no_differences():
    assert lens_differences("front", FRONT, info()) == [] and mount_differences("front", FRONT, FRONT.base_from_optical) == []


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (info(50.0), "horizontal field of view is 50.0 deg, trained with 70.0 deg"),
        (info(height=448), "vertical field of view is 70.0 deg, trained with 43.0 deg"),
        (info(cx=300.0), "the middle of the picture looks -13.4 deg right of the optical axis"),
        (info(d=[-0.3, 0.1, 0.0, 0.0, 0.0]), "the picture is distorted (plumb_bob [-0.3, 0.1])"),
        (info(float("nan")), "no calibration"),
    ],
)
def test_differences_of_the_lens_are_named(found, line):
    assert any(line in difference for difference in lens_differences("front", FRONT, found)), lens_differences("front", FRONT, found)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"z_m": 2.1}, "mounted at z = 2.10 m, trained with 1.55 m"),
        ({"yaw_deg": 20.0}, "looks to 20.0 deg, trained with 0.0 deg"),
        ({"pitch_deg": 8.0}, "looks down by 8.0 deg, trained with 0.0 deg"),
    ],
)
def test_differences_of_the_mounting_are_named(change, line):
    pose = Camera(**{**vars(FRONT), **change}).base_from_optical
    assert mount_differences("front", FRONT, pose) == [f"camera front: {line}"]
    assert mount_differences("front", FRONT, pose, turned=True) == ([f"camera front: {line}"] if "z_m" in change else [])


class Node:
    """What a RigCheck needs of one."""

    def __init__(self):
        self.told, self.diagnostics = [], self

    def set(self, task, level, text, values):
        self.told.append((task, int.from_bytes(level, "little"), text))

    def create_subscription(self, *_):
        return None


def test_error_refuses_until_every_camera_is_known_and_as_trained():
    node, used = Node(), []
    check = RigCheck(node, demo_spec(), VALUES, lambda camera, lens: used.append((camera, lens)))
    assert "no camera_info of camera front yet" in check.refused and check.differs == ""
    check.on_camera_info("front", info(50.0))
    assert "50.0 deg" in check.differs and check.refused == check.differs and node.told[-1][:2] == ("rig", 2)
    check.on_camera_info("front", info(110.0, 800, 600))
    assert check.refused == "" and "110.0 deg rectified to the trained 70.0 deg" in node.told[-1][2]
    assert used[-1][0] == "front" and used[-1][1].covers
    check.on_camera_info("front", info())
    assert check.refused == "" and used[-1] == ("front", None)
    warned = RigCheck(Node(), demo_spec(), {**VALUES, "rig_check": "warn", "rectify": False}, lambda *_: None)
    warned.on_camera_info("front", info(110.0, 800, 600))
    assert warned.refused == ""


def test_a_lens_is_made_again_only_for_another_calibration_or_mounting(monkeypatch):
    made = []
    monkeypatch.setattr("spanvla_ros.ros.rig.fitting", lambda *given: made.append(given) or fitting(*given))
    check = RigCheck(Node(), demo_spec(), VALUES, lambda *_: None)

    def moved(frame, x_m):
        transform = Box(rotation=Box(x=-0.5, y=0.5, z=-0.5, w=0.5), translation=Box(x=x_m, y=0.0, z=1.55))
        check._on_tf(Box(transforms=[Box(header=Box(frame_id="base_link"), child_frame_id=frame, transform=transform)]))

    check.on_camera_info("front", info(110.0, 800, 600))
    assert len(made) == 1
    for number in range(50):
        moved(f"wheel_{number}", 0.0)
    check.on_camera_info("front", info(110.0, 800, 600))
    assert len(made) == 1
    moved("front", 1.5)
    assert len(made) == 2 and check.refused == ""
    check.on_camera_info("front", info(100.0, 800, 600))
    assert len(made) == 3
