"""ROS messages -> contracts, with stand-ins that have nothing but the attributes."""

from __future__ import annotations

from types import SimpleNamespace as Box

import numpy as np
import pytest

from spanvla_ros.contracts import Command, InputError
from spanvla_ros.planning import messages


def odometry(x=1.0, y=2.0, z=0.0, w=1.0, speed=3.0, yaw_rate=0.1):
    return Box(
        header=Box(stamp=Box(sec=7, nanosec=5)),
        pose=Box(pose=Box(position=Box(x=x, y=y, z=0.0), orientation=Box(x=0.0, y=0.0, z=z, w=w))),
        twist=Box(twist=Box(linear=Box(x=speed), angular=Box(z=yaw_rate))),
    )


def test_odometry_keeps_stamp_pose_and_body_twist():
    sample = messages.odometry(odometry(z=np.sin(0.4), w=np.cos(0.4)))
    assert sample.stamp_ns == 7_000_000_005
    np.testing.assert_allclose(sample.pose_odom, [1, 2, 0.8])
    assert (sample.speed_mps, sample.yaw_rate_rps) == (3.0, 0.1)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"x": np.nan}, "position.x is nan"), ({"speed": np.inf}, "linear.x is inf"), ({"w": 0.0}, r"\(0, 0, 0, 0\)"), ({"w": np.nan}, "nan")],
)
def test_bad_odometry_is_named(wrong, named):
    with pytest.raises(InputError, match=named):
        messages.odometry(odometry(**wrong))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_raw_image_honours_encoding_and_step(encoding):
    rgb = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    if encoding == "mono8":
        rgb[...] = rgb[..., :1]
    alpha = np.zeros((3, 5, 1), np.uint8)
    bgr = rgb[..., ::-1]
    pixels = {"rgb8": rgb, "bgr8": bgr, "mono8": rgb[..., :1], "rgba8": np.concatenate([rgb, alpha], 2), "bgra8": np.concatenate([bgr, alpha], 2)}
    pixels = pixels[encoding]
    rows = pixels.reshape(3, -1)
    padded = np.concatenate([rows, np.full((3, 4), 99, np.uint8)], 1)
    message = Box(encoding=encoding, height=3, width=5, step=padded.shape[1], data=padded.tobytes())
    np.testing.assert_array_equal(messages.image(message), rgb)


def test_short_raw_image_and_unknown_encoding_are_named():
    with pytest.raises(InputError, match="holds 10 bytes"):
        messages.image(Box(encoding="rgb8", height=3, width=5, step=15, data=bytes(10)))
    with pytest.raises(InputError, match="'bayer_rggb8'.*cv_bridge"):
        messages.image(Box(encoding="bayer_rggb8", height=3, width=5, step=15, data=bytes(45)))
    with pytest.raises(InputError, match="5x3 yuv422"):  # colour is shared by two pixels
        messages.image(Box(encoding="yuv422", height=3, width=5, step=10, data=bytes(30)))


def test_other_encodings_go_to_the_converter():
    rgb = np.zeros((3, 5, 3), np.uint8)
    assert messages.image(Box(encoding="bayer_rggb8", height=3, width=5, step=5, data=bytes(15)), lambda message: rgb) is rgb


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")])
def test_packed_yuv_gives_the_colours_back(encoding, order):
    colours = {"red": (254, 0, 0), "grey": (120, 120, 120), "blue": (0, 0, 254)}
    for rgb in colours.values():
        r, g, b = np.array(rgb) / 255
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        values = {"Y": 16 + 219 * luma, "U": 128 + 224 * (b - luma) / 1.772, "V": 128 + 224 * (r - luma) / 1.402}
        row = np.tile(np.array([values[c] for c in order]).round().astype(np.uint8), 3)
        padded = np.r_[row, np.full(4, 99, np.uint8)]
        made = messages.image(Box(encoding=encoding, height=2, width=6, step=16, data=np.tile(padded, 2).tobytes()))
        assert made.shape == (2, 6, 3) and np.abs(made.astype(int) - rgb).max() <= 3


def test_compressed_image_stays_encoded():
    assert messages.image(Box(format="jpeg", data=np.frombuffer(b"abc", np.uint8))) == b"abc"
    with pytest.raises(InputError, match="empty"):
        messages.image(Box(format="jpeg", data=b""))


def route(points):
    return Box(poses=[Box(pose=Box(position=Box(x=x, y=y))) for x, y in points])


def test_route_gives_command_and_distance_in_any_frame():
    straight = [(float(x), 0.0) for x in range(50)]
    left = straight[:21] + [(20.0, float(y)) for y in range(1, 20)]
    pose = np.array([5.0, 0.3, 0.0])
    assert messages.route_command(messages.path(route(straight)), pose)[0] is Command.STRAIGHT
    assert messages.route_command(messages.path(route(left)), pose) == (Command.LEFT, 15.0)
    mirrored = np.array(messages.path(route(left))) * [1, -1]
    assert messages.route_command(mirrored, pose * [1, -1, 1])[0] is Command.RIGHT
    turned = messages.path(route(left))[:, ::-1] * [-1, 1]  # everything rotated by 90 degrees
    assert messages.route_command(turned, np.array([-0.3, 5.0, np.pi / 2])) == (Command.LEFT, 15.0)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0)] * 3, [(np.nan, 0.0), (1.0, 0.0)]])
def test_a_route_that_is_no_line_is_refused(points):
    with pytest.raises(InputError, match="route"):
        messages.path(route(points))


def test_command_words():
    assert messages.command(" Left ") is Command.LEFT
    assert messages.command("") is Command.UNKNOWN
    with pytest.raises(InputError, match="'fly'.*left, straight, right, unknown"):
        messages.command("fly")
