"""The one thread that owns the model: newest anchor image in, plan or reason out; one inference at a time, latest only."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from spanvla_ros.contracts import Command, EgoHistory, Image, InputError, NotReady, Observation, Plan, Trajectory
from spanvla_ros.planning.inputs import InputBuffer
from spanvla_ros.planning.planner import Planner, Rate
from spanvla_ros.planning.supervisor import Reason
from spanvla_ros.planning.trajectory import densify
from spanvla_ros.planning.validity import Limits, violations

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of one anchor image: a plan with its trajectory, or the reason why there is none. received: messages of every input
    that had been taken in by then."""

    anchor_ns: int
    reason: Reason
    detail: str = ""
    observation: Observation | None = None
    plan: Plan | None = None
    trajectory: Trajectory | None = None
    received: Mapping[str, int] = field(default_factory=dict)


def attempt(
    planner: Planner,
    buffer: InputBuffer,
    anchor_ns: int,
    command: Command,
    limits: Limits,
    deadline_s: float | None = None,
    early: Callable[[Attempt], None] | None = None,
) -> Attempt:
    """One plan; deadline_s and early as `Planner.plan`. NotReady passes through: it may be mended by the next message. Every other
    failure becomes a reason; an early plan that breaks a limit is not told of, as the one with the text follows."""
    begun, decoded_s = time.monotonic(), buffer.decoded_s
    try:
        observation = buffer.observe(anchor_ns, command)
    except NotReady:
        raise
    except InputError as error:
        return Attempt(anchor_ns=anchor_ns, reason=Reason.IMAGE_INVALID, detail=str(error))
    seen = Attempt(anchor_ns=anchor_ns, reason=Reason.OK, observation=observation, received=dict(buffer.received))
    decode_ms = 1e3 * (buffer.decoded_s - decoded_s)
    gathered = {"decode": decode_ms, "observe": 1e3 * (time.monotonic() - begun) - decode_ms}

    def tell(plan: Plan) -> None:
        found = _checked(seen, plan, limits, gathered)
        if found.reason is Reason.OK:
            early(found)

    try:
        plan = planner.plan(observation, deadline_s=deadline_s, early=None if early is None else tell)
    except Exception as error:  # noqa: BLE001 - whatever a backend raises, the car must go on along its last plan
        return _failed(seen, error)
    return _checked(seen, plan, limits, gathered)


def again(planner: Planner, buffer: InputBuffer, last: Attempt, t0_ns: int, command: Command, limits: Limits) -> Attempt:
    """The expert alone from the motion up to `t0_ns`, on what it saw and thought at the `last` plan. NotReady as `attempt`."""
    history, pose_odom = buffer.motion(t0_ns)
    seen = replace(last, plan=None, trajectory=None, received=dict(buffer.received))
    try:
        plan = planner.replan(history, pose_odom, command)
    except Exception as error:  # noqa: BLE001 - as above
        return _failed(seen, error)
    return _checked(seen, plan, limits, {})


def _checked(seen: Attempt, plan: Plan, limits: Limits, gathered: Mapping[str, float]) -> Attempt:
    """gathered: stages before those of the planner -> ms."""
    begun = time.monotonic()
    trajectory = densify(plan)
    broken = violations(trajectory, limits)
    plan = replace(plan, timings_ms={**gathered, **plan.timings_ms, "check": 1e3 * (time.monotonic() - begun)})
    if broken:
        return replace(seen, reason=Reason.PLAN_INVALID, detail="; ".join(broken), plan=plan)
    return replace(seen, reason=Reason.OK, detail="", plan=plan, trajectory=trajectory)


def _failed(seen: Attempt, error: Exception) -> Attempt:
    if isinstance(error, InputError):
        return replace(seen, reason=Reason.PLAN_INVALID, detail=str(error))
    return replace(seen, reason=Reason.BACKEND_ERROR, detail=f"{type(error).__name__}: {error}")


def warm_up(planner: Planner) -> Plan:
    """Plan once for a grey picture of a standing car, so that the first real plan is not the slow one."""
    spec = planner.spec
    stamps = tuple(10**10 + round(offset * 1e9) for offset in spec.history_offsets_s)
    count = len(stamps)
    grey = np.full((*spec.image_size, 3), 128, np.uint8)
    frames = tuple(Image(stamp_ns=stamps[-1], rgb=grey) for _ in spec.frame_offsets_s)
    history = EgoHistory(
        stamps_ns=stamps, poses_base=np.zeros((count, 3)), speeds_mps=np.zeros(count), yaw_rates_rps=np.zeros(count), acceleration_mps2=0.0
    )
    return planner.plan(Observation(t0_ns=stamps[-1], images=dict.fromkeys(spec.cameras, frames), history=history, pose_odom=np.zeros(3)))


class PlanningThread:
    """Waits for anchor images, plans for the newest one and reports every Attempt from its own thread.

    An observation may need odometry at or after t0, or another camera's frame: it is tried again when input arrives, until
    a newer anchor replaces it. deadline_s: time from the arrival of an anchor image to its plan, for which the text is cut; None:
    it is never cut, as in lock-step. rate: what is planned beside that; an image always comes first.
    """

    def __init__(
        self,
        planner: Planner,
        buffer: InputBuffer,
        limits: Limits,
        command: Callable[[], Command],
        report: Callable[[Attempt], None],
        deadline_s: float | None = None,
        rate: Rate | None = None,
    ):
        self._planner, self._buffer, self._limits = planner, buffer, limits
        self._command, self._report, self._deadline_s = command, report, deadline_s
        self._rate = rate or Rate()
        # with one camera no later image can mend a missing frame
        self._mendable = {"ODOMETRY_BEHIND", "ODOMETRY_MISSING"} | ({"IMAGE_MISSING"} if len(planner.spec.cameras) > 1 else set())
        self._condition = threading.Condition()
        self._pending_ns: int | None = None
        self._newest_ns: int | None = None
        self._due_s: float | None = None
        self._retry = False
        self._epoch = 0
        self._stopping = False
        self._last: Attempt | None = None  # whose pictures and text the expert may use again
        self._planned_ns = 0  # stamp that was planned from last
        self._thread = threading.Thread(target=self._run, name="planning", daemon=True)
        self._thread.start()

    def image(self, stamp_ns: int, arrived_s: float) -> bool:
        """An anchor image arrived, at steady time arrived_s; an older one that still waits is dropped. False when it is not newer
        than the last."""
        with self._condition:
            if self._newest_ns is not None and stamp_ns <= self._newest_ns:
                return False
            self._pending_ns = self._newest_ns = stamp_ns
            self._due_s = None if self._deadline_s is None else arrived_s + self._deadline_s
            self._retry = True
            self._condition.notify()
            return True

    def input(self) -> None:
        """Odometry or another camera's image arrived: try again what was not ready."""
        with self._condition:
            if self._pending_ns is not None:
                self._retry = True
            if self._retry or self._rate.replan_s:
                self._condition.notify()

    def update(self, limits: Limits, deadline_s: float | None, rate: Rate) -> None:
        """Other limits, another deadline and rate, from the next image on."""
        with self._condition:
            self._limits, self._deadline_s, self._rate = limits, deadline_s, rate

    def reset(self) -> None:
        """Forget what waits; a plan that is being made will not be reported."""
        with self._condition:
            self._pending_ns = self._newest_ns = self._last = None
            self._epoch += 1

    def stop(self) -> None:
        """Return when the thread has ended, so that the model may be closed."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._asked() or self._replan_ns() is not None)
                if self._stopping:
                    return
                asked, anchor_ns, due_s, epoch, replan_ns = self._asked(), self._pending_ns, self._due_s, self._epoch, self._replan_ns()
                last = self._last
                if asked:
                    self._retry = False
                else:
                    self._planned_ns = replan_ns
            try:
                if asked:
                    self._plan(anchor_ns, due_s, epoch)
                else:
                    self._replan(last, replan_ns, epoch)
            except Exception:  # noqa: BLE001 - a defect must not end the only thread that plans
                _LOG.exception("a callback failed: no plan for %s ns", anchor_ns if asked else replan_ns)
                self._give_up(anchor_ns if asked else replan_ns, epoch)

    def _give_up(self, anchor_ns: int, epoch: int) -> None:
        with self._condition:
            if self._pending_ns == anchor_ns:
                self._pending_ns = None
        with contextlib.suppress(Exception):  # who is told may be what failed
            self._tell(Attempt(anchor_ns=anchor_ns, reason=Reason.BACKEND_ERROR, detail="a defect, see the log"), epoch)

    def _asked(self) -> bool:
        return self._pending_ns is not None and self._retry

    def _replan_ns(self) -> int | None:
        """Stamp of the newest odometry if the expert is due to plan from it."""
        rate, newest_ns = self._rate, self._buffer.newest_odometry_ns
        if self._last is None or newest_ns is None:
            return None
        return newest_ns if rate.due(newest_ns, self._planned_ns, self._last.anchor_ns) else None

    def _plan(self, anchor_ns: int, due_s: float | None, epoch: int) -> None:
        early = (lambda found: self._tell(found, epoch)) if self._rate.plan_early else None
        try:
            found = attempt(self._planner, self._buffer, anchor_ns, self._command(), self._limits, due_s, early)
        except NotReady as error:
            if error.code in self._mendable:
                return
            found = Attempt(anchor_ns=anchor_ns, reason=Reason(error.code), detail=str(error))
        with self._condition:
            if epoch == self._epoch:
                if self._pending_ns == anchor_ns:
                    self._pending_ns = None
                self._last, self._planned_ns = (found if found.plan is not None else None), anchor_ns
        self._tell(found, epoch)

    def _replan(self, last: Attempt, t0_ns: int, epoch: int) -> None:
        """A plan that is not to be had, or that breaks a limit, takes nothing away: the one it would have replaced is as good as before."""
        try:
            found = again(self._planner, self._buffer, last, t0_ns, self._command(), self._limits)
        except NotReady:
            return
        if found.reason is Reason.BACKEND_ERROR:
            with self._condition:
                self._last = None
        if found.reason is not Reason.PLAN_INVALID:
            self._tell(found, epoch)

    def _tell(self, found: Attempt, epoch: int) -> None:
        with self._condition:
            if epoch != self._epoch or self._stopping:
                return
        self._report(found)
