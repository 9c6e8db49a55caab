"""Quality of service of every topic, in one place."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, *, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


IMAGE = _profile(10, reliable=False)
CAMERA_INFO = _profile(1, reliable=False)
ODOMETRY = _profile(200, reliable=False)
# a latched subscription does not match a volatile publisher, which `ros2 topic pub` makes by default
COMMAND = _profile(1, reliable=True)
ROUTE = _profile(1, reliable=True, latched=True)
TF = _profile(100, reliable=True)
TF_STATIC = _profile(100, reliable=True, latched=True)
OUTPUT = _profile(1, reliable=True)
PLAN_INFO = _profile(10, reliable=True)

# a simulator in lock-step must lose nothing
SIM_IMAGE = _profile(2, reliable=True)
SIM_ODOMETRY = _profile(100, reliable=True)
SIM_CLOCK = _profile(10, reliable=True)
