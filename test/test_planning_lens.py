"""A real camera seen through the trained lens: what every pixel shows must be what the trained pinhole would show."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace as Box

import cv2
import numpy as np
import pytest

from spanvla_ros.contracts import InputError, NotReady
from spanvla_ros.planning.lens import Lens
from spanvla_ros.planning.rig import Camera, load_rig
from spanvla_ros.share import share

TRAINED = Camera(width=224, height=126, hfov_deg=70.0, x_m=1.5, y_m=0.0, z_m=1.55)


def info(hfov_deg=70.0, width=224, height=126, d=(), model="plumb_bob", cx=None):
    focal = width / (2 * np.tan(np.radians(hfov_deg / 2)))
    k = [focal, 0, width / 2 if cx is None else cx, 0, focal, height / 2, 0, 0, 1]
    return Box(k=k, d=list(d), distortion_model=model, width=width, height=height)


def directions(camera_info, pose=np.eye(3)):
    """A picture whose colours are the direction (in base_link axes of the pinhole) that every pixel looks in."""
    x, y = np.meshgrid(np.arange(camera_info.width), np.arange(camera_info.height))
    points = np.stack([x, y], -1).reshape(-1, 1, 2).astype(np.float64)
    k = np.array(camera_info.k).reshape(3, 3)
    if camera_info.distortion_model == "equidistant":
        flat = cv2.fisheye.undistortPoints(points, k, np.array(camera_info.d))
    else:
        flat = cv2.undistortPoints(points, k, np.array(camera_info.d) if camera_info.d else None)
    rays = np.c_[flat.reshape(-1, 2), np.ones(len(points))] @ pose.T
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return np.clip((rays + 1) * 127.5, 0, 255).reshape(camera_info.height, camera_info.width, 3).round().astype(np.uint8)


@pytest.mark.parametrize(
    "real",
    [
        info(110.0, 800, 600),
        info(90.0, 1600, 900, d=(-0.2, 0.05, 0.001, -0.001, 0.0)),
        info(120.0, 800, 800, d=(0.02, -0.005, 0.001, 0.0), model="equidistant"),
        info(100.0, 640, 480, cx=380.0),
    ],
    ids=["wide", "barrel", "fisheye", "off centre"],
)
def test_pixels_look_where_the_trained_ones_do(real):
    lens = Lens("front", TRAINED, real)
    assert lens.covers and not lens.same
    seen, wanted = lens(directions(real)), directions(info())
    assert seen.shape == wanted.shape and np.abs(seen.astype(int) - wanted).max() <= 3
    # a driver that halves its pictures keeps its camera_info
    half = cv2.resize(directions(real), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert np.abs(lens(half).astype(int) - wanted).max() <= 4


def test_a_camera_that_looks_elsewhere_is_turned():
    mounted = Camera(width=224, height=126, hfov_deg=70.0, x_m=1.5, y_m=0.0, z_m=1.55, yaw_deg=6.0, pitch_deg=-3.0)
    real = info(110.0, 800, 600)
    turn = TRAINED.base_from_optical[:3, :3].T @ mounted.base_from_optical[:3, :3]
    lens = Lens("front", TRAINED, real, mounted.base_from_optical)
    assert lens.covers and np.abs(lens(directions(real, turn)).astype(int) - directions(info())).max() <= 3


def test_the_trained_camera_itself_needs_nothing_at_any_size():
    for scale in (1, 4):
        lens = Lens("front", TRAINED, info(70.0, 224 * scale, 126 * scale, d=[0.0] * 5))
        assert lens.same and lens.covers
    demo = load_rig(share("config/rigs/demo.yaml")).cameras["front"]
    assert Lens("front", demo, info(70.0, 448, 252), demo.base_from_optical).same


def test_what_the_camera_does_not_see_can_not_be_made_up_for():
    assert not Lens("front", TRAINED, info(50.0, 800, 600)).covers
    away = Camera(width=224, height=126, hfov_deg=70.0, x_m=0.0, y_m=0.0, z_m=1.5, yaw_deg=180.0)
    assert not Lens("front", TRAINED, info(110.0, 800, 600), away.base_from_optical).covers


def test_a_large_camera_costs_little():
    trained = Camera(width=1600, height=900, hfov_deg=70.0, x_m=1.5, y_m=0.0, z_m=1.55)
    tracemalloc.start()
    try:
        Lens("front", trained, info(110.0, 1920, 1080, d=[0.01] * 5))
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    # the map itself takes 12 MB; the node makes it while heartbeats wait
    assert peak_mb < 150


def test_a_resolution_that_is_not_that_of_the_calibration_is_named():
    lens = Lens("front", TRAINED, info(110.0, 800, 600))
    with pytest.raises(NotReady, match="camera 'front' sends 640x360 px, its camera_info is for 800x600") as caught:
        lens(np.zeros((360, 640, 3), np.uint8))
    assert caught.value.code == "IMAGE_RESIZED"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"k": [0.0] * 9}, "no calibration"),
        ({"d": [0.1]}, "1 distortion coefficients"),
        ({"distortion_model": "magic"}, "'magic'"),
        ({"k": [float("nan")] * 9}, "no calibration"),
    ],
)
def test_a_calibration_that_can_not_be_used_is_named(wrong, named):
    with pytest.raises(InputError, match=named):
        Lens("front", TRAINED, Box(**{**vars(info()), **wrong}))
