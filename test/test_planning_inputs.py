import cv2
import numpy as np
import pytest
from helpers import demo_spec

from spanvla_ros.contracts import Command, InputError, NotReady
from spanvla_ros.planning import inputs
from spanvla_ros.planning.inputs import InputBuffer, InputLimits

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


def test_a_reset_while_the_newest_picture_is_decoded_is_no_crash(monkeypatch):
    buffer = filled()
    buffer.limits = InputLimits(refuse_frozen=True)
    decode = inputs.decode_jpeg

    def slow(data, name, *rest):
        if str(START + 2 * S) in name:
            buffer.reset()
        return decode(data, name, *rest)

    monkeypatch.setattr(inputs, "decode_jpeg", slow)
    with pytest.raises(NotReady) as error:
        buffer.observe(START + 2 * S)
    assert error.value.code == "IMAGE_MISSING"


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


NOISE = np.random.default_rng(0)


def two_cameras(left_late_s=0.0, speed=8.0, until_s=2.0, picture=None, **limits):
    """A car on a straight line; `left` has its stamps later than `front`. picture: (camera, k) -> RGB, else noise."""
    buffer = InputBuffer(demo_spec(cameras=("front", "left")), InputLimits(**limits))
    for k in range(int(until_s * 10) + 1):
        for camera, late_s in (("front", 0.0), ("left", left_late_s)):
            rgb = NOISE.integers(0, 255, (126, 224, 3), dtype=np.uint8) if picture is None else picture(camera, k)
            buffer.add_image(camera, START + k * S // 10 + round(late_s * S), rgb)
    for k in range(int(until_s * 50) + 1):
        buffer.add_odometry(START + k * S // 50, np.array([speed * k / 50, 0, 0]), speed, 0.0)
    return buffer


def refusal(buffer, t0_s=2.0):
    with pytest.raises(NotReady) as caught:
        buffer.observe(START + round(t0_s * S))
    return caught.value.code, str(caught.value)


def test_cameras_beyond_the_skew_budget_are_refused_with_the_number():
    assert two_cameras(0.04, max_skew_s=0.05).observe(START + 2 * S).skew_s == pytest.approx(0.04)
    code, line = refusal(two_cameras(0.04, max_skew_s=0.03))
    assert code == "CAMERA_SKEW" and "0.040 s apart, allowed are 0.03 s; 'left' is at t0 +0.040 s" in line


def test_a_nearer_frame_of_the_late_camera_is_waited_for():
    buffer = two_cameras(-0.04, max_skew_s=0.03)
    code, _ = refusal(buffer)  # the newest frame of left is 0.04 s old; the next one may fit
    assert code == "IMAGE_MISSING"
    buffer.add_image("left", START + 2 * S + S // 100, np.zeros((126, 224, 3), np.uint8))
    assert buffer.observe(START + 2 * S).skew_s == pytest.approx(0.01)


def test_black_pictures_are_refused_unless_switched_off():
    def dark(camera, k):
        rgb = np.full((126, 224, 3), 4, np.uint8)
        rgb[:4, :4] = 255  # dead pixels
        return rgb if camera == "left" else NOISE.integers(0, 255, (126, 224, 3), dtype=np.uint8)

    assert refusal(two_cameras(picture=dark, refuse_black=True, refuse_frozen=True)) == ("IMAGE_BLACK", "camera 'left' sends black pictures")
    # what is black is not called frozen: one switch is enough to look blind
    two_cameras(picture=dark, refuse_frozen=True).observe(START + 2 * S)
    night = np.zeros((126, 224, 3), np.uint8)
    night[80:] = 40  # lamps on the road
    two_cameras(picture=lambda camera, k: night, refuse_black=True).observe(START + 2 * S)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_picture_that_stays_the_same_while_the_car_moves_is_refused(encoded):
    def stuck(camera, k):
        rgb = np.random.default_rng(min(k, 15) if camera == "front" else k).integers(0, 255, (28, 56, 3), dtype=np.uint8)
        return cv2.imencode(".png", rgb)[1].tobytes() if encoded else rgb

    code, line = refusal(two_cameras(picture=stuck, refuse_frozen=True))
    assert code == "IMAGE_FROZEN" and "camera 'front' has sent the same picture for 0.50 s, in which the car moved 4.0 m" in line
    two_cameras(picture=stuck, refuse_frozen=True, speed=0.0).observe(START + 2 * S)  # it stands
    two_cameras(picture=stuck).observe(START + 2 * S)


def test_a_resolution_that_changes_within_the_observation_is_refused():
    code, line = refusal(two_cameras(picture=lambda camera, k: np.full((126 if k < 18 else 252, 224, 3), 99, np.uint8)))
    assert code == "IMAGE_RESIZED" and "changed from (224, 126) to (224, 252) px" in line


def test_pictures_go_through_the_lens_once_and_again_through_another_one():
    buffer, seen = two_cameras(), []

    def mirror(rgb):
        seen.append(rgb)
        return rgb[:, ::-1]

    plain = buffer.observe(START + 2 * S).images["front"]
    buffer.set_lens("front", mirror)
    for _ in range(2):
        turned = buffer.observe(START + 2 * S).images
    np.testing.assert_array_equal(turned["front"][1].rgb, plain[1].rgb[:, ::-1])
    assert len(seen) == 2  # the two frames of front, each once
    buffer.set_lens("front", None)
    np.testing.assert_array_equal(buffer.observe(START + 2 * S).images["front"][1].rgb, plain[1].rgb)
