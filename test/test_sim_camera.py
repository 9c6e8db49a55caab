from pathlib import Path

import numpy as np
import pytest

from spanvla_ros.sim.pictures.camera import CAMERAS, FRONT, FRONT_LEFT, FRONT_RIGHT, Camera

RIGS = Path(__file__).parents[1] / "config" / "rigs"
POSE = np.array([12.0, -3.0, 2.1])


def rig(name: str) -> dict:
    return pytest.importorskip("yaml").safe_load((RIGS / name).read_text())["cameras"]


@pytest.mark.parametrize("name", ["demo.yaml", "minisim.yaml"])
def test_cameras_are_those_of_the_rigs(name):
    cameras = rig(name)
    assert set(cameras) == (set(CAMERAS) if name == "minisim.yaml" else {"front"})
    for key, values in cameras.items():
        camera = CAMERAS[key]
        assert all(getattr(camera, field) == values[field] for field in ("width", "height", "x_m", "y_m", "z_m"))
        for angle, degrees in ((camera.hfov_rad, "hfov_deg"), (camera.yaw_rad, "yaw_deg"), (camera.pitch_rad, "pitch_deg")):
            assert np.degrees(angle) == pytest.approx(values[degrees])


@pytest.mark.parametrize("camera", [*CAMERAS.values(), *(CAMERAS[name].jittered(np.random.default_rng(1)) for name in CAMERAS)])
def test_picture_and_projection_agree(camera: Camera):
    """Clip space, pixels, intrinsics and axes are four ways to say the same."""
    axes, eye = camera.axes(POSE), camera.eye(POSE)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    points = eye[:3] + np.array([(0.0, 0.0, 20.0), (3.0, -1.0, 9.0), (-6.0, 2.0, 30.0)]) @ axes
    u, v, depth = camera.project(POSE, points)
    np.testing.assert_allclose(depth, (20.0, 9.0, 30.0))
    assert (u[0], v[0]) == pytest.approx((camera.width / 2, camera.height / 2))
    clip = np.c_[points, np.ones(3)] @ camera.clip_matrix(POSE).T
    np.testing.assert_allclose((clip[:, 0] / clip[:, 3] + 1) / 2 * camera.width, u)
    np.testing.assert_allclose((1 - clip[:, 1] / clip[:, 3]) / 2 * camera.height, v)
    optical = np.array([(0.0, 0.0, 20.0), (3.0, 1.0, 9.0), (-6.0, -2.0, 30.0)]) @ camera.intrinsics.T  # y points down there
    np.testing.assert_allclose(optical[:, :2] / optical[:, 2:], np.c_[u, v])


def test_pitch_looks_down_and_yaw_to_the_left():
    ahead = np.array([[41.5, 0.0, 1.55]])
    level = FRONT.project(np.zeros(3), ahead)
    down = Camera(name="down", width=448, height=252, hfov_rad=FRONT.hfov_rad, x_m=1.5, z_m=1.55, pitch_rad=0.1)
    assert down.project(np.zeros(3), ahead)[1][0] == pytest.approx(level[1][0] - FRONT.focal_px * np.tan(0.1))
    left = np.array([[10.0, 25.0, 1.0]])
    assert 0 < FRONT_LEFT.project(np.zeros(3), left)[0][0] < 224  # beyond the middle of its picture
    assert FRONT_RIGHT.project(np.zeros(3), left)[2][0] < 0  # behind it


def test_side_cameras_overlap_the_front_one():
    for side, camera in ((1, FRONT_LEFT), (-1, FRONT_RIGHT)):
        angle = side * np.radians(27.0)
        point = np.array([[1.5 + 40 * np.cos(angle), 40 * np.sin(angle), 1.0]])
        for seeing in (FRONT, camera):
            u, _, depth = seeing.project(np.zeros(3), point)
            assert depth[0] > 0 and 0 < u[0] < seeing.width


def test_jitter_is_small_seeded_and_changes_everything():
    fields = ("hfov_rad", "x_m", "y_m", "z_m", "yaw_rad", "pitch_rad")
    limits = np.array([0.011, 0.04, 0.04, 0.04, np.radians(1.0), np.radians(1.0)])
    rng = np.random.default_rng(5)
    many = [FRONT_LEFT.jittered(rng) for _ in range(60)]
    shifts = np.array([[getattr(camera, f) - getattr(FRONT_LEFT, f) for f in fields] for camera in many])
    assert (np.abs(shifts) <= limits + 1e-9).all() and (np.abs(shifts).max(0) > 0.6 * limits).all()
    assert FRONT.jittered(np.random.default_rng(3)) == FRONT.jittered(np.random.default_rng(3)) != FRONT
    assert all(camera.name == "front_left" and (camera.width, camera.height) == (448, 252) for camera in many)
