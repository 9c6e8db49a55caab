"""Keeps the car's plan alive: WAITING -> NOMINAL -> HOLD -> STOPPING -> STOPPED, each with a reason.

Whatever fails, a trajectory follows at every heartbeat from the first plan on. Stamps and ages are ROS time; deadline, hold
time and stall detection are steady time, which the caller passes in, so that tests need no clock.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import NS_PER_S, ConfigError, Trajectory
from spanvla_ros.planning import validity
from spanvla_ros.planning.braking import INTERVAL_S, brake, shift, stand
from spanvla_ros.planning.messages import OdometrySample
from spanvla_ros.planning.takeover import BLEND_S, Jump, take_over

ELSEWHERE_M = 5.0  # a car that is this far from its plan after a jump of the clock is on another drive


class State(str, enum.Enum):
    """What the published trajectory is made of."""

    WAITING = "WAITING"  # no plan yet, nothing is published
    NOMINAL = "NOMINAL"  # the newest plan of the model
    HOLD = "HOLD"  # the previous plan, moved on in time
    STOPPING = "STOPPING"  # comfortable braking along the previous path
    STOPPED = "STOPPED"  # stays in place


class Reason(str, enum.Enum):
    """Why the state is not NOMINAL."""

    OK = "OK"
    NO_PLAN_YET = "NO_PLAN_YET"
    IMAGE_MISSING = "IMAGE_MISSING"  # a camera has sent nothing yet
    IMAGE_STALE = "IMAGE_STALE"
    IMAGE_INVALID = "IMAGE_INVALID"  # the newest image can't be decoded
    IMAGE_BLACK = "IMAGE_BLACK"
    IMAGE_FROZEN = "IMAGE_FROZEN"  # the same picture again and again while the car moves
    IMAGE_RESIZED = "IMAGE_RESIZED"  # pictures of several sizes within one observation
    CAMERA_SKEW = "CAMERA_SKEW"  # the cameras are too far apart in time
    ODOMETRY_MISSING = "ODOMETRY_MISSING"
    ODOMETRY_STALE = "ODOMETRY_STALE"
    ODOMETRY_INVALID = "ODOMETRY_INVALID"  # NaN, zero quaternion, wrong frame
    ODOMETRY_BEHIND = "ODOMETRY_BEHIND"  # none at or after the stamp of the image
    ODOMETRY_GAP = "ODOMETRY_GAP"
    HISTORY_SHORT = "HISTORY_SHORT"  # not enough past for the model's grid
    DEADLINE_MISSED = "DEADLINE_MISSED"
    PLAN_INVALID = "PLAN_INVALID"
    BACKEND_ERROR = "BACKEND_ERROR"
    RIG_MISMATCH = "RIG_MISMATCH"  # the cameras are not those of the training
    CLOCK_STALLED = "CLOCK_STALLED"
    CLOCK_JUMPED = "CLOCK_JUMPED"  # ROS time went back
    FRAME_CHANGED = "FRAME_CHANGED"  # the odometry is in another frame than before
    RESET = "RESET"  # it was asked for


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times in seconds, motion in SI units."""

    deadline_s: float = 0.5  # anchor image received -> plan
    hold_s: float = 1.0
    max_input_age_s: float = 0.3
    clock_stall_s: float = 1.0
    stop_decel_mps2: float = 2.0
    stop_jerk_mps3: float = 4.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value > 0):
                raise ConfigError(f"{field.name} is {value}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One heartbeat: the trajectory is None only while WAITING. jump: how far the first plan after HOLD, STOPPING or STOPPED was too
    far from where the car is to be led over to; empty when it was not."""

    state: State
    reason: Reason
    trajectory: Trajectory | None
    jump: str = ""


class Supervisor:
    """Turns accepted and rejected plans into one trajectory per heartbeat. Not thread-safe.

    In lock-step the simulator waits for the plan: a missed deadline is counted, not enforced, and a clock that stands still
    while a plan is being made is no fault; nor is a plan led over to, for one process without a supervisor drives the same.
    `limits` and `valid` (what a trajectory may ask for) may be replaced while it runs.
    """

    def __init__(self, limits: Limits, *, valid: validity.Limits | None = None, lockstep: bool = False):
        self.limits = limits
        self.valid = valid or validity.Limits()
        self.lockstep = lockstep
        self.deadline_misses = 0
        self.reset()

    def reset(self) -> None:
        """Forget plan, state and clock: the next tick is WAITING."""
        self.state, self.reason = State.WAITING, Reason.NO_PLAN_YET
        self._trajectory: Trajectory | None = None
        self._begun_s: float | None = None
        self._missed = self._jumped = False
        self._cause: Reason | None = None
        self._entered_s = 0.0
        self._led_until_s = -float("inf")
        self._clock: tuple[int, float] | None = None  # ROS time and the steady time at which it last moved
        self._sample: OdometrySample | None = None
        self._sample_s = 0.0

    def clock_jumped(self, back_ns: int) -> None:
        """ROS time went back by back_ns. The plan of the car goes on under the new time, held until the inputs have a past again; where
        the next odometry shows the car to be elsewhere, a new drive began and the plan is forgotten."""
        self._begun_s, self._cause = None, Reason.CLOCK_JUMPED
        self._missed, self._clock, self._sample, self._jumped = False, None, None, True
        if self._trajectory is not None:
            self._trajectory = dataclasses.replace(self._trajectory, stamp_ns=self._trajectory.stamp_ns - back_ns)

    def begin(self, steady_s: float) -> None:
        """An anchor image that arrived at `steady_s` waits for its plan."""
        if self._begun_s is None:
            self._begun_s, self._missed = steady_s, False

    def accept(self, trajectory: Trajectory, steady_s: float) -> Output:
        """A valid plan: NOMINAL from any state. For BLEND_S after HOLD, STOPPING or STOPPED it is led over to (`takeover`)."""
        self._finish(steady_s)
        if self.state not in (State.WAITING, State.NOMINAL):
            self._led_until_s = steady_s + BLEND_S
        trajectory, jump = self._led(trajectory, steady_s)
        self._trajectory, self._cause, self._jumped = trajectory, None, False
        self.state, self.reason = State.NOMINAL, Reason.OK
        return Output(state=self.state, reason=self.reason, trajectory=trajectory, jump=jump)

    def _led(self, trajectory: Trajectory, steady_s: float) -> tuple[Trajectory, str]:
        """The trajectory as the car can take it up, where it is to be led over, and what kept it from that."""
        fresh = self._fresh(steady_s)
        if fresh is None or steady_s >= self._led_until_s or self.lockstep:
            return trajectory, ""
        try:
            led = take_over(trajectory, self._trajectory, fresh, jerk_mps3=self.limits.stop_jerk_mps3)
        except Jump as jump:
            return trajectory, str(jump)
        broken = validity.violations(led, self.valid)
        return (trajectory, f"led over to, {broken[0]}") if broken else (led, "")

    def refine(self, trajectory: Trajectory, steady_s: float) -> Output | None:
        """The plan that is followed, made again from newer motion; None, and nothing changes, unless NOMINAL. An image that waits for its
        plan waits on."""
        if self.state is not State.NOMINAL:
            return None
        self._trajectory, jump = self._led(trajectory, steady_s)
        return Output(state=self.state, reason=self.reason, trajectory=self._trajectory, jump=jump)

    def reject(self, reason: Reason, steady_s: float) -> None:
        """The plan that was awaited will not come."""
        self._finish(steady_s)
        self._cause = reason

    def tick(self, steady_s: float, ros_ns: int, odometry: OdometrySample | None, fault: Reason | None = None) -> Output:
        """One heartbeat. odometry: newest valid sample; fault: what is wrong with the inputs (`InputWatch.fault`)."""
        if self._clock is None or ros_ns != self._clock[0]:
            self._clock = ros_ns, steady_s
        if odometry is not None and (self._sample is None or odometry.stamp_ns != self._sample.stamp_ns):
            self._sample, self._sample_s = odometry, steady_s
            if self._jumped:
                self._look_around(odometry)
        cause = self._find_cause(steady_s, fault)
        if self._trajectory is None:
            self.reason = cause or Reason.NO_PLAN_YET
            return Output(state=State.WAITING, reason=self.reason, trajectory=None)
        if cause is not None:
            self.reason = cause
            if self.state is State.NOMINAL:
                self._enter(State.HOLD, steady_s, self._trajectory)
        self._advance(steady_s, ros_ns)
        return Output(state=self.state, reason=self.reason, trajectory=self._anchored())

    def _look_around(self, sample: OdometrySample) -> None:
        """After a jump of the clock: is the car still where its plan is?"""
        self._jumped = False
        if self._trajectory is None:
            return
        expected = shift(self._trajectory, max(sample.stamp_ns, self._trajectory.stamp_ns)).poses_odom[0]
        if np.hypot(*(expected - sample.pose_odom)[:2]) > ELSEWHERE_M:
            self._trajectory, self.state = None, State.WAITING

    def _finish(self, steady_s: float) -> None:
        if self._begun_s is not None and steady_s - self._begun_s > self.limits.deadline_s:
            self._count_miss()
        self._begun_s = None

    def _count_miss(self) -> None:
        if not self._missed:
            self.deadline_misses += 1
        self._missed = True

    def _find_cause(self, steady_s: float, fault: Reason | None) -> Reason | None:
        in_flight = self._begun_s is not None
        if steady_s - self._clock[1] > self.limits.clock_stall_s and not (self.lockstep and in_flight):
            return Reason.CLOCK_STALLED
        if fault is not None:
            return fault
        if in_flight and steady_s - self._begun_s > self.limits.deadline_s:
            self._count_miss()
            if not self.lockstep:
                return self._cause or Reason.DEADLINE_MISSED
        return self._cause

    def _enter(self, state: State, steady_s: float, trajectory: Trajectory) -> None:
        self.state, self._entered_s, self._trajectory = state, steady_s, trajectory

    def _fresh(self, steady_s: float) -> OdometrySample | None:
        return self._sample if self._sample is not None and steady_s - self._sample_s <= self.limits.max_input_age_s else None

    def _advance(self, steady_s: float, ros_ns: int) -> None:
        """HOLD -> STOPPING -> STOPPED as time runs out."""
        elapsed = steady_s - self._entered_s
        fresh = self._fresh(steady_s)
        if self.state is State.HOLD:
            # stop early when less of the plan is left than the car needs to be led on
            used_s = ((self._sample.stamp_ns if self._sample else ros_ns) - self._trajectory.stamp_ns) / NS_PER_S
            if elapsed >= self.limits.hold_s or self._trajectory.times_s[-1] - used_s < self.limits.hold_s:
                self._enter(State.STOPPING, steady_s, self._brake(fresh, ros_ns))
        elif self.state is State.STOPPING and elapsed >= self._trajectory.times_s[-1]:
            if fresh is not None and abs(fresh.speed_mps) > 0.5:  # the car did not follow: brake again from where it is
                self._enter(State.STOPPING, steady_s, self._brake(fresh, ros_ns))
            else:
                pose = fresh.pose_odom if fresh is not None else self._trajectory.poses_odom[-1]
                self._enter(State.STOPPED, steady_s, stand(pose, self._sample.stamp_ns if self._sample else ros_ns))

    def _brake(self, fresh: OdometrySample | None, ros_ns: int) -> Trajectory:
        return brake(self._trajectory, ros_ns, fresh, decel_mps2=self.limits.stop_decel_mps2, jerk_mps3=self.limits.stop_jerk_mps3)

    def _anchored(self) -> Trajectory:
        """The trajectory from the newest odometry on; as it is in NOMINAL or when the odometry is older than it."""
        if self.state is State.NOMINAL or self._sample is None:
            return self._trajectory
        if self._sample.stamp_ns - self._trajectory.stamp_ns < INTERVAL_S * NS_PER_S / 100:
            return self._trajectory
        return shift(self._trajectory, self._sample.stamp_ns)
