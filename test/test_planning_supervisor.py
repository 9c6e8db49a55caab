"""The supervisor under a fake clock: whatever fails, the plan goes on, brakes, stands, and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from spanvla_ros.contracts import NS_PER_S, ConfigError, Trajectory
from spanvla_ros.geometry import constant_turn
from spanvla_ros.planning.braking import brake
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.supervisor import Limits, Reason, State, Supervisor
from spanvla_ros.planning.takeover import Jump, take_over
from spanvla_ros.planning.validity import Limits as ValidityLimits
from spanvla_ros.planning.validity import violations

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


def test_limits_are_checked():
    with pytest.raises(ConfigError, match="hold_s is -1"):
        Limits(hold_s=-1)


def straight(stamp_s: float, start_m: float, speed: float, acceleration: float, *, lateral_m: float = 0.0, end_mps: float = 30.0) -> Trajectory:
    """Along x from start_m on, with a constant acceleration until it stands or has end_mps."""
    times = np.arange(51) * 0.1
    speeds = np.clip(speed + acceleration * times, 0, end_mps)
    moved = np.r_[0, np.cumsum((speeds[1:] + speeds[:-1]) / 2 * 0.1)]
    return Trajectory(
        stamp_ns=EPOCH_NS + round(stamp_s * NS_PER_S),
        times_s=times,
        poses_odom=np.column_stack([start_m + moved, np.full(51, lateral_m), np.zeros(51)]),
        speeds_mps=speeds,
        accelerations_mps2=np.where((speeds > 0) & (speeds < end_mps), acceleration, 0.0),
        yaw_rates_rps=np.zeros(51),
    )


class Car:
    """Does exactly what the newest trajectory says, and keeps a record of it: time, place, speed, acceleration."""

    def __init__(self, plan: Trajectory):
        self.plan, self.rows = plan, []

    def sample(self, at_s: float) -> OdometrySample:
        return follow(self.plan, at_s)

    def drive(self, plan: Trajectory, begin_s: float, end_s: float) -> None:
        self.plan = plan
        for at in np.arange(begin_s, end_s - 1e-9, 0.01):
            t = at - (plan.stamp_ns - EPOCH_NS) / NS_PER_S
            row = [np.interp(t, plan.times_s, v) for v in (plan.poses_odom[:, 0], plan.speeds_mps, plan.accelerations_mps2)]
            self.rows.append((at, *row))

    def steps(self) -> np.ndarray:
        """Largest change of place, speed and acceleration within 0.01 s."""
        return np.abs(np.diff(np.array(self.rows)[:, 1:], axis=0)).max(axis=0)


@pytest.mark.parametrize("acceleration", [-1.5, 0.0, 1.5])
@pytest.mark.parametrize("resumes_s", [0.6, 1.5, 2.8, 4.0])
@pytest.mark.parametrize("latency_s", [0.0, 0.2])
def test_speed_and_acceleration_go_on_without_a_step_through_every_state(acceleration, resumes_s, latency_s):
    """HOLD, STOPPING and the plans that end them: what the car is told at each instant is continuous."""
    limits = Limits(stop_decel_mps2=2.0, stop_jerk_mps3=4.0)
    supervisor, car = Supervisor(limits), Car(straight(0.0, 0.0, 8.0, acceleration))
    supervisor.accept(car.plan, 0.0)
    seen = set()
    for beat in range(1, round(resumes_s * 10) + 10):  # until a second after the takeover: from then on plans are the model's alone
        at = beat * 0.1
        if at < resumes_s:
            out = supervisor.tick(at, EPOCH_NS + round(at * NS_PER_S), car.sample(at), Reason.IMAGE_STALE)
        else:
            # the model plans from what it measured latency_s ago, and has a will of its own
            past = [row for row in car.rows if row[0] <= at - latency_s + 1e-9][-1]
            supervisor.tick(at, EPOCH_NS + round(at * NS_PER_S), car.sample(at))
            out = supervisor.accept(straight(at - latency_s, past[1], past[2], 1.0), at)
        seen.add(out.state)
        assert out.jump == "" and not violations(out.trajectory, ValidityLimits())
        car.drive(out.trajectory, at, at + 0.1)
    place, speed, change = car.steps()
    assert seen == {State.HOLD, State.NOMINAL} | ({State.STOPPING} if resumes_s > 1.2 else set())
    assert place <= 10 * 0.01 + 0.01 and speed <= 4.0 * 0.01
    assert change <= 4.0 * 0.01 + 0.01  # bounded jerk


def test_without_the_lead_over_the_same_takeover_would_jerk():
    before, plan = straight(0.0, 0.0, 8.0, -2.0), straight(1.0, 7.0, 6.0, 1.5)
    led = take_over(plan, before, follow(before, 1.0), jerk_mps3=4.0)
    assert plan.accelerations_mps2[0] == 1.5
    assert led.accelerations_mps2[0] == pytest.approx(-2.0) and np.abs(np.diff(led.accelerations_mps2)).max() <= 4.0 * 0.1 + 1e-6
    np.testing.assert_allclose(led.poses_odom[0], plan.poses_odom[0], atol=1e-9)
    # it ends up on the timing of the plan
    assert abs(led.poses_odom[-1, 0] - plan.poses_odom[-1, 0]) < 0.3 and abs(led.speeds_mps[-1] - plan.speeds_mps[-1]) < 0.3


def test_the_lead_over_goes_from_beside_the_path_to_it_and_is_bounded():
    before, plan = straight(0.0, 0.0, 8.0, 0.0), straight(1.0, 8.0, 8.0, 0.0, lateral_m=0.2)
    led = take_over(plan, before, follow(before, 1.0), jerk_mps3=4.0)
    assert led.poses_odom[0, 1] == pytest.approx(0.0) and np.abs(led.poses_odom[11:, 1] - 0.2).max() < 1e-9
    assert np.abs(np.diff(led.poses_odom[:, 1])).max() < 0.05
    aside = straight(1.0, 8.0, 8.0, 0.0, lateral_m=0.4)
    back = Trajectory(**{**vars(straight(1.0, 8.0, 8.0, 0.0)), "speeds_mps": np.full(51, -1.0)})
    for far, named in ((aside, r"0\.40 m and 0\.0 deg"), (back, r"backwards at 1\.00")):
        with pytest.raises(Jump, match=named):
            take_over(far, before, follow(before, 1.0), jerk_mps3=4.0)
    supervisor = Supervisor(Limits())
    supervisor.accept(before, 0.0)
    supervisor.tick(1.0, EPOCH_NS + NS_PER_S, follow(before, 1.0), Reason.IMAGE_STALE)
    taken = supervisor.accept(aside, 1.0)
    assert taken.state is State.NOMINAL and "0.40 m" in taken.jump and taken.trajectory.poses_odom[0, 1] == 0.4


def test_an_urgent_plan_is_not_softened_for_long():
    before, plan = straight(0.0, 0.0, 8.0, 1.5), straight(1.0, 8.75, 9.5, -6.0)
    led = take_over(plan, before, follow(before, 1.0), jerk_mps3=4.0)
    assert led.accelerations_mps2[0] == pytest.approx(1.5) and led.accelerations_mps2[4] < -5
    assert led.poses_odom[-1, 0] - plan.poses_odom[-1, 0] < 1.5


def test_a_standing_car_does_not_set_off_to_stop():
    stop = brake(straight(0.0, 0.0, 0.0, 2.0), EPOCH_NS, OdometrySample(EPOCH_NS, np.zeros(3), 0.0, 0.0), decel_mps2=2.0, jerk_mps3=4.0)
    assert not stop.speeds_mps.any() and np.ptp(stop.poses_odom[:, 0]) == 0


def test_a_clock_that_went_back_keeps_the_plan_of_the_car_unless_it_is_elsewhere():
    for elsewhere_m, expected in ((0.0, State.HOLD), (200.0, State.WAITING)):
        supervisor, plan = Supervisor(Limits()), drive(yaw_rate=0.0)
        supervisor.accept(plan, 0.0)
        supervisor.tick(0.5, EPOCH_NS + NS_PER_S // 2, follow(plan, 0.5))
        supervisor.clock_jumped(3 * NS_PER_S)
        blind = supervisor.tick(0.6, EPOCH_NS - 24 * NS_PER_S // 10, None)
        assert (blind.state, blind.reason) == (State.HOLD, Reason.CLOCK_JUMPED) and blind.trajectory is not None
        now = follow(plan, 0.7)
        moved = now._replace(stamp_ns=now.stamp_ns - 3 * NS_PER_S, pose_odom=now.pose_odom + [elsewhere_m, 0, 0])
        out = supervisor.tick(0.7, moved.stamp_ns, moved)
        assert (out.state, out.reason) == (expected, Reason.CLOCK_JUMPED)
        if expected is State.HOLD:
            assert out.trajectory.stamp_ns == moved.stamp_ns
            np.testing.assert_allclose(out.trajectory.poses_odom[0], moved.pose_odom, atol=1e-6)
    again = supervisor.accept(drive(-2.0), 0.8)
    assert again.state is State.NOMINAL and again.jump == ""
