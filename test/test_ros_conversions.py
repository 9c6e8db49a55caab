"""What goes through a message comes back to the last bit: a lock-step drive over ROS equals one in one process."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from spanvla_ros.contracts import Plan, Trajectory  # noqa: E402
from spanvla_ros.planning import messages  # noqa: E402
from spanvla_ros.planning.trajectory import densify  # noqa: E402
from spanvla_ros.ros import conversions  # noqa: E402


def test_yaw_survives_a_quaternion():
    rng = np.random.default_rng(5)
    near = [rng.normal(at, spread, 300) for at in (0, np.pi / 2, -np.pi / 2) for spread in (1e-9, 1e-4, 0.05)]
    yaws = np.concatenate([rng.uniform(-np.pi, np.pi, 5000), *near, [0.0, np.pi, -np.pi, np.pi / 2, np.nextafter(np.pi, 0)]])
    for yaw in yaws.tolist():
        made = conversions.quaternion(yaw)
        assert messages.yaw_of(made) == yaw
        assert np.hypot(made.z, made.w) == pytest.approx(1, abs=1e-7)


def test_trajectories_and_odometry_survive_their_messages():
    rng = np.random.default_rng(6)
    for k in range(20):
        plan = Plan(
            t0_ns=1_234_567_890_100_000_000 + k,
            waypoints_base=np.cumsum(rng.normal([3.0, 0.2, 0.05], [0.5, 0.3, 0.05], (10, 3)), axis=0),
            waypoint_interval_s=0.5,
            pose_odom=rng.uniform([-500, -500, -np.pi], [500, 500, np.pi]),
            speed_mps=float(rng.uniform(0, 10)),
            reasoning="",
            tokens=0,
            seed=0,
            engine_hash="",
        )
        sent = densify(plan)
        heard = conversions.from_trajectory(conversions.trajectory(sent, "odom", "base_link"))
        for name in Trajectory.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(heard, name), getattr(sent, name), err_msg=name)
        sample = messages.odometry(conversions.odometry(plan.t0_ns, "odom", "base_link", plan.pose_odom, plan.speed_mps, 0.123456789))
        np.testing.assert_array_equal(sample.pose_odom, plan.pose_odom)
        assert (sample.stamp_ns, sample.speed_mps, sample.yaw_rate_rps) == (plan.t0_ns, plan.speed_mps, 0.123456789)
