import numpy as np
import pytest

from spanvla_ros import geometry
from spanvla_ros.contracts import Plan
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.planning.validity import Limits, violations


def plan(waypoints, speed=8.0, pose=(100.0, -50.0, 2.5)):
    return Plan(
        t0_ns=5, waypoints_base=waypoints, waypoint_interval_s=0.5, pose_odom=np.array(pose), speed_mps=speed, reasoning="", tokens=0, seed=0, engine_hash=""
    )


ARC = geometry.constant_turn(8.0, 0.2, 0.5 * np.arange(1, 11))


def test_starts_at_the_measured_state_and_passes_every_waypoint():
    made = plan(ARC)
    dense = densify(made)
    np.testing.assert_allclose(dense.poses_odom[0], made.pose_odom)
    assert dense.speeds_mps[0] == 8.0 and len(dense.times_s) == 51
    local = geometry.to_local(made.pose_odom, dense.poses_odom[5::5])
    np.testing.assert_allclose(local, ARC, atol=1e-9)
    assert violations(dense, Limits()) == []


def test_coming_to_rest_never_reverses():
    t = np.minimum(np.arange(1, 11) * 0.5, 4.0)
    x = 8 * t - t**2
    dense = densify(plan(np.column_stack([x, 0 * x, 0 * x])))
    assert dense.speeds_mps.min() >= 0 and dense.speeds_mps[-1] < 0.2


def test_the_jitter_of_a_standing_car_is_no_reversing():
    jitter = np.random.default_rng(0).normal(0, 0.06, (10, 3)) * [1, 1, 0.1]
    dense = densify(plan(jitter, speed=0.0))
    assert dense.speeds_mps.min() >= -0.01 and violations(dense, Limits()) == []


def test_rigid_motion_of_the_start_moves_the_whole_trajectory():
    a, b = densify(plan(ARC)), densify(plan(ARC, pose=(0, 0, 0)))
    np.testing.assert_allclose(a.speeds_mps, b.speeds_mps, atol=1e-9)
    np.testing.assert_allclose(geometry.to_local(np.array([100.0, -50.0, 2.5]), a.poses_odom), b.poses_odom, atol=1e-9)


@pytest.mark.parametrize(
    ("waypoints", "word"),
    [(ARC * [9, 1, 1], "speed"), (ARC * [-1, 1, 1], "reverse"), (geometry.constant_turn(20.0, 0.9, 0.5 * np.arange(1, 11)), "lateral"), (ARC * np.nan, "finite")],
)
def test_what_no_car_can_drive_is_named(waypoints, word):
    assert any(word in line for line in violations(densify(plan(waypoints, speed=8.0)), Limits()))
