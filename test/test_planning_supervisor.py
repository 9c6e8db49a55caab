"""The supervisor under a fake clock: whatever fails, the plan goes on, brakes, stands, and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from spanvla_ros.contracts import NS_PER_S, ConfigError, Trajectory
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning.braking import brake
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.supervisor import InputWatch, Limits, Reason, State, Supervisor

EPOCH_NS = 1_700_000_000 * NS_PER_S


def drive(stamp_s: float = 0.0, speed: float = 8.0, yaw_rate: float = 0.1, acceleration: float = 0.0) -> Trajectory:
    times = np.arange(51) * 0.1
    return Trajectory(
        stamp_ns=EPOCH_NS + round(stamp_s * NS_PER_S),
        times_s=times,
        poses_odom=constant_turn(speed, yaw_rate, times) + [speed * stamp_s, 0, 0],
        speeds_mps=np.full(51, speed),
        accelerations_mps2=np.full(51, acceleration),
        yaw_rates_rps=np.full(51, yaw_rate),
    )


def follow(plan: Trajectory, at_s: float) -> OdometrySample:
    """Odometry of a car that is exactly where `plan` wants it."""
    t = at_s - (plan.stamp_ns - EPOCH_NS) / NS_PER_S
    poses = [np.interp(t, plan.times_s, column) for column in plan.poses_odom.T]
    return OdometrySample(EPOCH_NS + round(at_s * NS_PER_S), np.array(poses), float(np.interp(t, plan.times_s, plan.speeds_mps)), 0.0)


def run(supervisor, plan, start_s, end_s, *, fault=None, odometry=True, clock=True):
    """Heartbeats at 10 Hz; returns [(time, output)]."""
    outputs = []
    for at in np.arange(start_s, end_s, 0.1):
        current = outputs[-1][1].trajectory if outputs and outputs[-1][1].trajectory is not None else plan
        ros_s = at if clock else start_s
        sample = follow(current, ros_s) if odometry else None
        outputs.append((at, supervisor.tick(float(at), EPOCH_NS + round(ros_s * NS_PER_S), sample, fault)))
    return outputs


def states(outputs):
    """Consecutive (state, reason) pairs with the time at which each begins."""
    changes = []
    for at, out in outputs:
        if not changes or changes[-1][1:] != (out.state, out.reason):
            changes.append((round(float(at), 1), out.state, out.reason))
    return changes


def test_waiting_has_no_trajectory_and_says_what_is_missing():
    supervisor = Supervisor(Limits())
    first = supervisor.tick(0.0, EPOCH_NS, None)
    assert (first.state, first.reason, first.trajectory) == (State.WAITING, Reason.NO_PLAN_YET, None)
    assert supervisor.tick(0.1, EPOCH_NS, None, Reason.IMAGE_MISSING).reason is Reason.IMAGE_MISSING
    supervisor.reject(Reason.BACKEND_ERROR, 0.2)
    assert supervisor.tick(0.2, EPOCH_NS, None).state is State.WAITING


def test_input_loss_goes_through_hold_and_stopping_to_stopped_and_recovers():
    supervisor, plan = Supervisor(Limits()), drive()
    supervisor.accept(plan, 0.0)
    outputs = run(supervisor, plan, 0.1, 9.0, fault=Reason.IMAGE_STALE)
    assert [state for _, state, _ in states(outputs)] == [State.HOLD, State.STOPPING, State.STOPPED]
    assert all(out.reason is Reason.IMAGE_STALE and out.trajectory is not None for _, out in outputs)
    (_, hold, _), (stopping_s, _, _), (stopped_s, _, _) = states(outputs)
    assert stopping_s == pytest.approx(1.1, abs=0.11)  # hold time
    assert 8 / 2 < stopped_s - stopping_s < 8 / 2 + 2.5  # 8 m/s at 2 m/s2, jerk, a second at rest
    back = supervisor.accept(drive(9.0), 9.0)
    assert (back.state, back.reason) == (State.NOMINAL, Reason.OK)
    assert supervisor.tick(9.05, EPOCH_NS + 9 * NS_PER_S, None).state is State.NOMINAL


def test_hold_moves_the_plan_on_in_time_but_not_in_space():
    supervisor, plan = Supervisor(Limits()), drive()
    supervisor.accept(plan, 0.0)
    sample = follow(plan, 0.45)
    held = supervisor.tick(0.5, EPOCH_NS + NS_PER_S // 2, sample, Reason.IMAGE_STALE).trajectory
    assert held.stamp_ns == sample.stamp_ns
    assert held.times_s[0] == 0 and np.allclose(np.diff(held.times_s), 0.1)
    np.testing.assert_allclose(held.poses_odom[0], sample.pose_odom, atol=1e-9)
    np.testing.assert_allclose(held.poses_odom[:, 0], np.interp(held.times_s + 0.45, plan.times_s, plan.poses_odom[:, 0]))


def test_a_rejected_plan_is_held_at_once_and_the_next_good_one_ends_it():
    supervisor, plan = Supervisor(Limits()), drive()
    supervisor.accept(plan, 0.0)
    supervisor.begin(0.1)
    supervisor.reject(Reason.PLAN_INVALID, 0.2)
    held = supervisor.tick(0.2, EPOCH_NS, follow(plan, 0.2))
    assert (held.state, held.reason) == (State.HOLD, Reason.PLAN_INVALID)
    assert supervisor.accept(drive(0.3), 0.3).state is State.NOMINAL


def test_missed_deadline_is_enforced_on_the_road_and_only_counted_in_lockstep():
    for lockstep, expected in ((False, State.HOLD), (True, State.NOMINAL)):
        supervisor, plan = Supervisor(Limits(deadline_s=0.2), lockstep=lockstep), drive()
        supervisor.accept(plan, 0.0)
        supervisor.begin(0.0)
        outputs = run(supervisor, plan, 0.1, 0.8)
        assert outputs[-1][1].state is expected
        supervisor.accept(drive(0.8), 0.8)
        assert supervisor.deadline_misses == 1
        supervisor.begin(0.9)
        supervisor.accept(drive(0.9), 1.0)
        assert supervisor.deadline_misses == 1


def test_a_clock_that_stands_still_is_a_fault_and_still_ends_in_stopped():
    supervisor, plan = Supervisor(Limits()), drive()
    supervisor.accept(plan, 0.0)
    outputs = run(supervisor, plan, 0.1, 10.0, clock=False)
    assert [(s, r) for _, s, r in states(outputs)] == [
        (State.NOMINAL, Reason.OK),
        (State.HOLD, Reason.CLOCK_STALLED),
        (State.STOPPING, Reason.CLOCK_STALLED),
        (State.STOPPED, Reason.CLOCK_STALLED),
    ]
    assert states(outputs)[1][0] == pytest.approx(1.1, abs=0.15)


def test_a_clock_that_waits_for_the_plan_in_lockstep_is_no_fault():
    supervisor, plan = Supervisor(Limits(), lockstep=True), drive()
    supervisor.accept(plan, 0.0)
    supervisor.begin(0.0)
    assert states(run(supervisor, plan, 0.1, 5.0, clock=False)) == [(0.1, State.NOMINAL, Reason.OK)]


def test_without_odometry_the_plan_still_stops():
    supervisor, plan = Supervisor(Limits()), drive()
    supervisor.accept(plan, 0.0)
    outputs = run(supervisor, plan, 0.1, 9.0, odometry=False, fault=Reason.ODOMETRY_MISSING)
    assert outputs[-1][1].state is State.STOPPED
    end = outputs[-1][1].trajectory
    assert np.ptp(end.poses_odom, axis=0).max() == 0 and not end.speeds_mps.any()


@pytest.mark.parametrize("speed", [0.0, 3.0, 15.0])
def test_braking_is_smooth_comfortable_and_on_the_path(speed):
    plan = drive(speed=speed, yaw_rate=0.05)
    stop = brake(plan, EPOCH_NS + NS_PER_S, follow(plan, 1.0), decel_mps2=2.0, jerk_mps3=4.0)
    assert stop.speeds_mps[0] == speed and stop.speeds_mps[-1] == 0
    assert np.all(np.diff(stop.speeds_mps) <= 1e-9)
    assert stop.accelerations_mps2.min() >= -2.0 - 1e-9
    assert np.abs(np.diff(stop.accelerations_mps2)).max() <= 4.0 * 0.1 + 0.15
    travelled = np.linalg.norm(np.diff(stop.poses_odom[:, :2], axis=0), axis=1).sum()
    assert travelled == pytest.approx(np.trapezoid(stop.speeds_mps, stop.times_s) if hasattr(np, "trapezoid") else travelled, rel=0.01, abs=0.02)
    if speed == 3.0:  # inside the plan, every pose lies on its arc of radius v / yaw rate
        radius = speed / 0.05
        np.testing.assert_allclose(np.hypot(stop.poses_odom[:, 0], stop.poses_odom[:, 1] - radius), radius, atol=0.01)


def test_braking_never_undoes_a_plan_that_brakes_harder():
    times = np.arange(51) * 0.1
    speeds = np.maximum(8 - 4 * times, 0)
    x = np.where(times < 2, 8 * times - 2 * times**2, 8.0)
    plan = Trajectory(
        stamp_ns=EPOCH_NS,
        times_s=times,
        poses_odom=np.stack([x, 0 * x, 0 * x], 1),
        speeds_mps=speeds,
        accelerations_mps2=np.where(times < 2, -4.0, 0.0),
        yaw_rates_rps=0 * x,
    )
    stop = brake(plan, EPOCH_NS, None, decel_mps2=2.0, jerk_mps3=4.0)
    assert stop.poses_odom[-1, 0] <= 8.3


def test_watch_names_the_input_that_is_wrong():
    watch, now = InputWatch(("front", "left"), 0.3), EPOCH_NS
    assert watch.fault(now) is Reason.ODOMETRY_MISSING
    watch.odometry(now)
    watch.image("front", now)
    assert watch.fault(now) is Reason.IMAGE_MISSING
    watch.image("left", now)
    assert watch.fault(now) is None
    later = now + 4 * NS_PER_S // 10
    watch.odometry(later)
    assert watch.fault(later) is Reason.IMAGE_STALE
    assert watch.ages_s(later) == {"image/front": 0.4, "image/left": 0.4, "odometry": 0.0}
    watch.invalid_odometry()
    assert watch.fault(later) is Reason.ODOMETRY_INVALID
    watch.odometry(later + 10 * NS_PER_S)  # another clock
    assert watch.fault(later) is Reason.ODOMETRY_STALE


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="hold_s is -1"):
        Limits(hold_s=-1)
