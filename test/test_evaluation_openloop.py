import dataclasses

import numpy as np
import pytest
from helpers import S

from spanvla_ros import geometry
from spanvla_ros.contracts import Plan
from spanvla_ros.evaluation.openloop import constant_velocity, errors, means, percentiles, recorded_future

T0 = 1_700_000_000 * S


def plan_at(t_s, speed=10.0, yaw_rate=0.0, offset_m=0.0):
    """A plan of a car on a circle (straight line: yaw_rate 0), shifted sideways by offset_m at every waypoint."""
    pose = drive(np.array([t_s]), speed, yaw_rate)[0]
    waypoints = geometry.constant_turn(speed, yaw_rate, 0.5 * np.arange(1, 11)) + [0, offset_m, 0]
    return Plan(
        t0_ns=T0 + round(t_s * S),
        waypoints_base=waypoints,
        waypoint_interval_s=0.5,
        pose_odom=pose,
        speed_mps=speed,
        reasoning="",
        tokens=0,
        seed=0,
        engine_hash="",
    )


def drive(times_s, speed, yaw_rate):
    """Poses of the car on its circle, far from the origin of the odometry and turned."""
    return geometry.to_global(np.array([300.0, -40.0, 2.0]), geometry.constant_turn(speed, yaw_rate, times_s))


def recording(seconds, speed=10.0, yaw_rate=0.0):
    times = np.arange(0, seconds + 0.01, 0.02)
    return np.array([T0 + round(t * S) for t in times]), drive(times, speed, yaw_rate)


def table(plans, stamps, poses, name="ade_m"):
    return means([errors(plan, recorded_future(plan, stamps, poses))[name] for plan in plans])


def test_a_perfect_plan_has_no_error():
    stamps, poses = recording(6.0, yaw_rate=0.2)
    future = recorded_future(plan_at(1.0, yaw_rate=0.2), stamps, poses)
    np.testing.assert_allclose(future, plan_at(1.0, yaw_rate=0.2).waypoints_base, atol=1e-3)
    assert table([plan_at(1.0, yaw_rate=0.2)], stamps, poses)["3"]["model"] == pytest.approx(0, abs=1e-3)


def test_constant_shift_is_the_error_at_every_horizon():
    stamps, poses = recording(6.0)
    for name in ("ade_m", "fde_m"):
        result = table([plan_at(0.0, offset_m=0.7), plan_at(1.0, offset_m=0.7)], stamps, poses, name)
        for horizon in ("1", "2", "3", "5"):
            assert result[horizon] == {"model": pytest.approx(0.7), "constant_velocity": pytest.approx(0, abs=1e-6), "n": 2}


def test_the_final_error_is_that_of_the_last_waypoint():
    """A car that brakes from 10 m/s with 1 m/s2 is t^2 / 2 behind the one that doesn't."""
    times = np.arange(0, 6.0, 0.02)
    stamps, poses = np.array([T0 + round(t * S) for t in times]), np.column_stack([10 * times - times**2 / 2, 0 * times, 0 * times])
    plan = dataclasses.replace(plan_at(0.0), pose_odom=np.zeros(3))
    result = errors(plan, recorded_future(plan, stamps, poses))
    for horizon in (1, 2, 3, 5):
        assert result["fde_m"][str(horizon)] == pytest.approx((horizon**2 / 2,) * 2, abs=1e-3)
    assert result["ade_m"]["1"] == pytest.approx(((0.125 + 0.5) / 2,) * 2, abs=1e-3)


def test_constant_velocity_keeps_heading():
    plan = plan_at(0.0, yaw_rate=0.3)
    np.testing.assert_allclose(constant_velocity(plan)[:, 1:], 0)
    stamps, poses = recording(6.0, yaw_rate=0.3)
    assert table([plan], stamps, poses)["3"]["constant_velocity"] > 1.0


def test_horizons_beyond_the_recording_are_empty():
    stamps, poses = recording(2.2)
    result = table([plan_at(0.0), plan_at(1.0)], stamps, poses)
    assert result["1"]["n"] == 2 and result["2"]["n"] == 1 and result["3"] is None


def test_percentiles():
    assert percentiles(list(range(101))) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([]) is None
