import cv2
import numpy as np
import pytest
from helpers import demo_spec

from spanvla_ros.contracts import Command, InputError, NotReady
from spanvla_ros.planning.inputs import InputBuffer

S = 1_000_000_000
START = 1_700_000_000 * S


def filled(image_shift_ns=0, odometry_hz=50, until_s=2.0, skip=()):
    buffer = InputBuffer(demo_spec())
    for k in range(int(until_s * 10) + 1):
        picture = np.full((126, 224, 3), k * 5, np.uint8)
        buffer.add_image("front", START + k * S // 10 + image_shift_ns, cv2.imencode(".png", picture)[1].tobytes())
    for k in range(int(until_s * odometry_hz) + 1):
        if k not in skip:
            t = k / odometry_hz
            buffer.add_odometry(START + round(t * S), np.array([8 * t, 0.5 * t, 0.1 * t]), 8.0 + t, 0.1)
    return buffer


def test_frames_and_poses_are_chosen_by_stamp():
    observation = filled().observe(START + 2 * S, Command.LEFT)
    assert [f.stamp_ns for f in observation.images["front"]] == [START + 3 * S // 2, START + 2 * S]
    assert [int(f.rgb[0, 0, 0]) for f in observation.images["front"]] == [75, 100]
    np.testing.assert_allclose(observation.pose_odom, [16, 1, 0.2], atol=1e-9)
    np.testing.assert_allclose(observation.history.poses_base[-1], 0, atol=1e-12)
    np.testing.assert_allclose(observation.history.speeds_mps, [8.5, 9, 9.5, 10], atol=1e-6)
    assert observation.history.acceleration_mps2 == pytest.approx(1.0, abs=1e-5)
    assert observation.command is Command.LEFT


def test_poses_between_odometry_stamps_are_interpolated():
    observation = filled(odometry_hz=7).observe(START + 2 * S - S // 20)
    np.testing.assert_allclose(observation.pose_odom, np.array([8, 0.5, 0.1]) * 1.95, atol=1e-6)


def test_order_of_arrival_does_not_matter():
    ordered, mixed = filled().observe(START + 2 * S), InputBuffer(demo_spec())
    for k in np.random.default_rng(0).permutation(101):
        t = k / 50
        mixed.add_odometry(START + round(t * S), np.array([8 * t, 0.5 * t, 0.1 * t]), 8.0 + t, 0.1)
    for k in np.random.default_rng(1).permutation(21):
        mixed.add_image("front", START + int(k) * S // 10, np.full((126, 224, 3), k * 5, np.uint8))
    again = mixed.observe(START + 2 * S)
    np.testing.assert_array_equal(again.history.poses_base, ordered.history.poses_base)
    np.testing.assert_array_equal(again.images["front"][0].rgb, ordered.images["front"][0].rgb)


def test_ages_are_measured():
    observation = filled(image_shift_ns=-20_000_000).observe(START + 2 * S)
    assert observation.image_ages_s["front"] == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize(
    ("make", "t0", "code"),
    [
        (lambda: InputBuffer(demo_spec()), 2 * S, "ODOMETRY_MISSING"),
        (filled, S, "HISTORY_SHORT"),
        (filled, 21 * S // 10, "ODOMETRY_BEHIND"),
        (lambda: filled(skip=range(60, 80)), 2 * S, "ODOMETRY_GAP"),
    ],
)
def test_not_ready_says_why(make, t0, code):
    with pytest.raises(NotReady) as caught:
        make().observe(START + t0)
    assert caught.value.code == code


def test_a_missing_frame_is_not_replaced_by_an_old_one():
    buffer = InputBuffer(demo_spec())
    for k in range(101):
        buffer.add_odometry(START + k * S // 50, np.zeros(3), 0.0, 0.0)
    buffer.add_image("front", START + 2 * S, np.zeros((126, 224, 3), np.uint8))
    with pytest.raises(NotReady, match="no frame within") as caught:
        buffer.observe(START + 2 * S)
    assert caught.value.code == "IMAGE_MISSING"


def test_bad_values_name_themselves():
    buffer = InputBuffer(demo_spec())
    with pytest.raises(InputError, match="rear"):
        buffer.add_image("rear", START, b"")
    with pytest.raises(InputError, match="nan"):
        buffer.add_odometry(START, np.array([0, np.nan, 0]), 1.0, 0.0)
