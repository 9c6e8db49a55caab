"""A plan as RViz sees it: a line coloured by speed, the state, the reasoning."""

from __future__ import annotations

import textwrap

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from spanvla_ros.contracts import Trajectory
from spanvla_ros.planning.supervisor import Output, State
from spanvla_ros.ros import conversions

_FAST_MPS = 15.0
_LINE_LENGTH = 40  # RViz doesn't wrap
_STATE_COLOURS = {
    State.NOMINAL: (0.2, 0.9, 0.3),
    State.HOLD: (1.0, 0.8, 0.1),
    State.STOPPING: (1.0, 0.4, 0.1),
    State.STOPPED: (1.0, 0.1, 0.1),
}


def markers(output: Output, reasoning: str, frame: str, lifetime_s: float) -> MarkerArray:
    """Markers of one heartbeat; they vanish by themselves when the node is gone."""
    plan = output.trajectory
    label = output.state.value if output.state is State.NOMINAL else f"{output.state.value}: {output.reason.value}"
    found = [_line(plan, frame)]
    for index, (text, height, size) in enumerate(((label, 2.6, 0.8), (reasoning, 1.8, 0.5))):
        found.append(_text(plan, frame, index + 1, text, height, size, _STATE_COLOURS[output.state] if index == 0 else (1.0, 1.0, 1.0)))
    for marker in found:
        marker.lifetime = conversions.duration(lifetime_s)
    return MarkerArray(markers=found)


def _line(plan: Trajectory, frame: str) -> Marker:
    marker = Marker(header=conversions.header(plan.stamp_ns, frame), ns="plan", id=0, type=Marker.LINE_STRIP, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.scale.x = 0.4
    marker.points = [Point(x=float(x), y=float(y), z=0.1) for x, y in plan.poses_odom[:, :2]]
    share = np.clip(np.abs(plan.speeds_mps) / _FAST_MPS, 0, 1)
    marker.colors = [ColorRGBA(r=float(1 - s), g=float(s), b=0.2, a=0.9) for s in share]  # red stands, green drives
    return marker


def _text(plan: Trajectory, frame: str, identity: int, text: str, height: float, size: float, colour: tuple[float, float, float]) -> Marker:
    marker = Marker(header=conversions.header(plan.stamp_ns, frame), ns="plan", id=identity, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
    marker.pose = conversions.pose(plan.poses_odom[0])
    marker.pose.position.z = height
    marker.scale.z = size
    marker.color = ColorRGBA(r=colour[0], g=colour[1], b=colour[2], a=1.0)
    marker.text = textwrap.fill(text, _LINE_LENGTH) or " "  # an empty text marker is an error in RViz
    return marker
