"""Is a trajectory something a car can drive?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import Trajectory


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a plan may ask for at most; beyond it the plan is refused and the last good one is held."""

    speed_mps: float = 40.0
    reverse_mps: float = 0.5
    acceleration_mps2: float = 6.0
    deceleration_mps2: float = 10.0
    lateral_acceleration_mps2: float = 8.0
    yaw_rate_rps: float = 1.5


def violations(trajectory: Trajectory, limits: Limits) -> list[str]:
    """One readable line per broken limit, empty for a good trajectory."""
    t = trajectory
    stacked = np.column_stack([t.poses_odom, t.speeds_mps, t.accelerations_mps2, t.yaw_rates_rps])
    if not np.isfinite(stacked).all():
        return ["the trajectory holds a value that is not finite"]
    checks = (
        ("speed", t.speeds_mps.max(), limits.speed_mps, "m/s"),
        ("reverse speed", -t.speeds_mps.min(), limits.reverse_mps, "m/s"),
        ("acceleration", t.accelerations_mps2.max(), limits.acceleration_mps2, "m/s2"),
        ("deceleration", -t.accelerations_mps2.min(), limits.deceleration_mps2, "m/s2"),
        ("lateral acceleration", np.abs(t.speeds_mps * t.yaw_rates_rps).max(), limits.lateral_acceleration_mps2, "m/s2"),
        ("yaw rate", np.abs(t.yaw_rates_rps).max(), limits.yaw_rate_rps, "rad/s"),
    )
    return [f"{name} {value:.2f} {unit} is over the limit of {limit:g} {unit}" for name, value, limit, unit in checks if value > limit]
