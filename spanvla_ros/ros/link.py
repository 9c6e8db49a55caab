"""The simulator's side of the lock-step: what comes back for the image with a given stamp."""

from __future__ import annotations

import enum
import json
import threading
import time
from typing import Any

from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory

from spanvla_ros.contracts import Trajectory
from spanvla_ros.ros import conversions, qos


class Answer(enum.Enum):
    """What the planner said to an image."""

    PLAN = "plan"
    REJECTED = "rejected"
    NONE = "none"


class PlannerLink:
    """Hears the planner node `name` (e.g. /spanvla_planner). Callbacks run in the executor, `wait` in the driving thread."""

    def __init__(self, node: Node, name: str):
        self._condition = threading.Condition()
        self._awaited_ns: int | None = None
        self._answer = Answer.NONE
        self._planned_ns: int | None = None
        self._newest: Trajectory | None = None
        self._alive_s = -float("inf")
        node.create_subscription(MultiDOFJointTrajectory, f"{name}/output/trajectory", self._on_trajectory, qos.OUTPUT)
        node.create_subscription(String, f"{name}/output/plan_info", self._on_info, qos.PLAN_INFO)
        self._reset = node.create_client(Trigger, f"{name}/reset")

    @property
    def alive(self) -> bool:
        """The planner is active: it publishes plan_info at every heartbeat."""
        return time.monotonic() - self._alive_s < 1.0

    def expect(self, stamp_ns: int) -> None:
        """Call before the image is published: the answer may be faster than the caller."""
        with self._condition:
            self._awaited_ns, self._answer = stamp_ns, Answer.NONE

    def wait(self, timeout_s: float) -> tuple[Answer, Trajectory | None]:
        """Answer to the expected stamp, NONE when the planner is silent for `timeout_s`; and the newest trajectory, whatever its state."""
        with self._condition:
            self._condition.wait_for(lambda: self._answer is not Answer.NONE, timeout_s)
            return self._answer, self._newest

    def reset(self, timeout_s: float) -> bool:
        """Ask the planner to forget the drive so far; False when it doesn't answer."""
        done = threading.Event()
        if self._reset.wait_for_service(timeout_sec=timeout_s):
            self._reset.call_async(Trigger.Request()).add_done_callback(lambda _: done.set())
        if not done.wait(timeout_s):
            return False
        with self._condition:
            self._newest = None
        return True

    def _on_trajectory(self, message: MultiDOFJointTrajectory) -> None:
        trajectory = conversions.from_trajectory(message)
        with self._condition:
            self._newest = trajectory
            self._conclude()

    def _on_info(self, message: String) -> None:
        info: dict[str, Any] = json.loads(message.data)
        self._alive_s = time.monotonic()
        with self._condition:
            if info["event"] == "plan":
                self._planned_ns = info["anchor_ns"]
                self._conclude()
            elif info["event"] == "rejected" and info["anchor_ns"] == self._awaited_ns:
                self._answer = Answer.REJECTED
                self._condition.notify_all()

    def _conclude(self) -> None:
        """A plan is there once both its trajectory and its plan_info are: HOLD and STOPPING may carry the stamp of the image too."""
        if self._planned_ns == self._awaited_ns and self._newest is not None and self._newest.stamp_ns == self._awaited_ns:
            self._answer = Answer.PLAN
            self._condition.notify_all()
