"""The topics that the planner node publishes."""

from __future__ import annotations

import json
from typing import Any

from nav_msgs.msg import Path
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory
from visualization_msgs.msg import MarkerArray

from spanvla_ros.contracts import Observation, Plan
from spanvla_ros.planning.supervisor import Output
from spanvla_ros.ros import conversions, qos
from spanvla_ros.ros.debug import DebugImage
from spanvla_ros.ros.markers import markers


class Outputs:
    """Publishers of one configured node. What nobody listens to is not converted, except trajectory and plan_info."""

    def __init__(
        self, node: LifecycleNode, mismatches: qos.Mismatches, *, base_frame: str, marker_lifetime_s: float, autoware: bool, debug: DebugImage
    ):
        self._node, self._mismatches, self._base_frame, self.marker_lifetime_s = node, mismatches, base_frame, marker_lifetime_s
        self._debug = debug
        self._made: list[Any] = []
        self._trajectory = self._publisher(MultiDOFJointTrajectory, "trajectory")
        self._path = self._publisher(Path, "path")
        self._reasoning = self._publisher(String, "reasoning")
        self._markers = self._publisher(MarkerArray, "markers")
        self._plan_info = self._publisher(String, "plan_info", qos.PLAN_INFO)
        self._autoware = None
        if autoware and conversions.AutowareTrajectory is not None:
            self._autoware = self._publisher(conversions.AutowareTrajectory, "autoware_trajectory")

    def _publisher(self, kind: type, name: str, profile: Any = qos.OUTPUT) -> Any:
        events = self._mismatches.publisher(f"~/output/{name}")
        self._made.append(self._node.create_lifecycle_publisher(kind, f"~/output/{name}", profile, event_callbacks=events))
        return self._made[-1]

    def destroy(self) -> None:
        self._debug.destroy()
        for publisher in self._made:
            self._node.destroy_lifecycle_publisher(publisher)

    def heartbeat(self, output: Output, frame: str, reasoning: str) -> None:
        """Everything that follows from the supervisor's trajectory; nothing while WAITING."""
        plan = output.trajectory
        if plan is None:
            return
        self._trajectory.publish(conversions.trajectory(plan, frame, self._base_frame))
        if self._path.get_subscription_count():
            self._path.publish(conversions.path(plan, frame))
        if self._markers.get_subscription_count():
            self._markers.publish(markers(output, reasoning, frame, self.marker_lifetime_s))
        if self._autoware is not None and self._autoware.get_subscription_count():
            self._autoware.publish(conversions.autoware_trajectory(plan, frame))

    def reasoning(self, text: str) -> None:
        self._reasoning.publish(String(data=text))

    def picture(self, observation: Observation, plan: Plan) -> None:
        self._debug.show(observation, plan)

    def plan_info(self, info: dict[str, Any]) -> None:
        self._plan_info.publish(String(data=json.dumps(info)))
