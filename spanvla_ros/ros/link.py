"""The simulator's side of the lock-step: what comes back for the image with a given stamp."""

from __future__ import annotations

import enum
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory

from spanvla_ros.contracts import Plan, Trajectory
from spanvla_ros.planning.supervisor import Reason
from spanvla_ros.ros import conversions, qos

# the planner lacks history or a frame: that is no fault of the plan
_UNREADY = {
    Reason.HISTORY_SHORT.value, Reason.ODOMETRY_MISSING.value, Reason.ODOMETRY_BEHIND.value, Reason.ODOMETRY_GAP.value,
    Reason.IMAGE_MISSING.value, Reason.IMAGE_BLACK.value, Reason.IMAGE_FROZEN.value, Reason.IMAGE_RESIZED.value, Reason.CAMERA_SKEW.value,
}  # fmt: skip


class Answer(enum.Enum):
    """What the planner said to an image."""

    PLAN = "plan"
    REJECTED = "rejected"
    UNREADY = "unready"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan as it was published: the model's waypoints, the trajectory to follow, and how long it took."""

    plan: Plan
    trajectory: Trajectory
    took_ms: float


class PlannerLink:
    """Hears the planner node `name` (e.g. /spanvla_planner). Callbacks run in the executor, `wait` in the driving thread."""

    def __init__(self, node: Node, name: str):
        self._condition = threading.Condition()
        self._awaited_ns: int | None = None
        self._answer = Answer.NONE
        self._info: dict[str, Any] | None = None
        self._trajectory: Trajectory | None = None
        self._planned: Planned | None = None
        self._alive_s = -float("inf")
        # the newest trajectory, whatever made it: what a car without lock-step follows
        self.newest: Trajectory | None = None
        node.create_subscription(MultiDOFJointTrajectory, f"{name}/output/trajectory", self._on_trajectory, qos.OUTPUT)
        node.create_subscription(String, f"{name}/output/plan_info", self._on_info, qos.PLAN_INFO)
        self._reset = node.create_client(Trigger, f"{name}/reset")

    @property
    def alive(self) -> bool:
        """The planner is active: it publishes plan_info at every heartbeat."""
        return time.monotonic() - self._alive_s < 1.0

    @property
    def info(self) -> dict[str, Any] | None:
        """The plan_info that was the last answer."""
        return self._info

    def expect(self, stamp_ns: int) -> None:
        """Call before the image is published: the answer may be faster than the caller."""
        with self._condition:
            self._awaited_ns, self._answer, self._planned, self._info, self._trajectory = stamp_ns, Answer.NONE, None, None, None

    def wait(self, timeout_s: float) -> tuple[Answer, Planned | None]:
        """Answer to the expected stamp, NONE when the planner is silent for `timeout_s`; and the plan, if that is the answer."""
        with self._condition:
            self._condition.wait_for(lambda: self._answer is not Answer.NONE, timeout_s)
            return self._answer, self._planned

    def reset(self, timeout_s: float) -> bool:
        """Ask the planner to forget the drive so far; False when it doesn't answer."""
        done = threading.Event()
        if self._reset.wait_for_service(timeout_sec=timeout_s):
            self._reset.call_async(Trigger.Request()).add_done_callback(lambda _: done.set())
        return done.wait(timeout_s)

    def _on_trajectory(self, message: MultiDOFJointTrajectory) -> None:
        self.newest = trajectory = conversions.from_trajectory(message)
        with self._condition:
            if trajectory.stamp_ns == self._awaited_ns:
                self._trajectory = trajectory
                self._conclude()

    def _on_info(self, message: String) -> None:
        info: dict[str, Any] = json.loads(message.data)
        self._alive_s = time.monotonic()
        with self._condition:
            if info["anchor_ns"] != self._awaited_ns or self._answer is not Answer.NONE:
                return
            if info["event"] == "plan":
                self._info = info
                self._conclude()
            elif info["event"] == "rejected":
                self._info = info
                self._answer = Answer.UNREADY if info["reason"] in _UNREADY else Answer.REJECTED
                self._condition.notify_all()

    def _conclude(self) -> None:
        """A plan is there once both its trajectory and its plan_info are: HOLD and STOPPING may carry the stamp of the image too."""
        if self._info is None or self._trajectory is None or self._answer is not Answer.NONE:
            return
        info = self._info
        plan = conversions.plan_from(info)
        self._planned = Planned(plan=plan, trajectory=self._trajectory, took_ms=info["timings_ms"].get("total", 0.0))
        self._answer = Answer.PLAN
        self._condition.notify_all()
