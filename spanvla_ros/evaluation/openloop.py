"""Open-loop errors: plans against what the car really did afterwards, beside a car that keeps speed and heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spanvla_ros import geometry
from spanvla_ros.contracts import NS_PER_S, Plan

HORIZONS_S = (1, 2, 3, 5)


def recorded_future(plan: Plan, stamps_ns: np.ndarray, poses_odom: np.ndarray) -> np.ndarray:
    """Recorded poses (T, 3) at the plan's waypoint times, in base_link at t0; rows beyond the recording are NaN.

    stamps_ns (N,) increasing, poses_odom (N, 3) in the frame of `plan.pose_odom`.
    """
    # relative seconds: nanosecond stamps exceed the exact range of float64
    seconds = (np.asarray(stamps_ns, np.int64) - plan.t0_ns) / NS_PER_S
    at = plan.waypoint_interval_s * np.arange(1, len(plan.waypoints_base) + 1)
    future = geometry.to_local(plan.pose_odom, geometry.interpolate_poses(seconds, poses_odom, at))
    future[at > seconds[-1]] = np.nan
    return future


def constant_velocity(plan: Plan) -> np.ndarray:
    """Waypoints (T, 3) in base_link of a car that keeps the speed and heading of t0."""
    return geometry.constant_turn(plan.speed_mps, 0.0, plan.waypoint_interval_s * np.arange(1, len(plan.waypoints_base) + 1))


def displacement(plan: Plan, waypoints_base: np.ndarray, future_base: np.ndarray, horizon_s: float) -> float:
    """Mean distance in metres over the waypoints up to the horizon; NaN where the recording ends before it."""
    count = round(horizon_s / plan.waypoint_interval_s)
    return float(np.linalg.norm((waypoints_base - future_base)[:count, :2], axis=1).mean())


def final(plan: Plan, waypoints_base: np.ndarray, future_base: np.ndarray, horizon_s: float) -> float:
    """Distance in metres at the horizon; NaN where the recording ends before it."""
    return float(np.linalg.norm((waypoints_base - future_base)[round(horizon_s / plan.waypoint_interval_s) - 1, :2]))


def errors(plan: Plan, future_base: np.ndarray) -> dict[str, dict[str, tuple[float, float]]]:
    """{"ade_m", "fde_m"} -> horizon in seconds -> error of the plan and of constant velocity; horizons beyond the recording or the plan
    are left out."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name, measure in (("ade_m", displacement), ("fde_m", final)):
        found[name] = {}
        for horizon in (h for h in HORIZONS_S if h <= plan.waypoint_interval_s * len(plan.waypoints_base) + 1e-9):
            pair = measure(plan, plan.waypoints_base, future_base, horizon), measure(plan, constant_velocity(plan), future_base, horizon)
            if np.isfinite(pair).all():
                found[name][str(horizon)] = pair
    return found


def means(entries: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, dict[str, float] | None]:
    """Horizon -> {model, constant_velocity, n}: means over the plans that have that horizon, None where none has.

    entries: of every plan, `errors(...)["ade_m"]` or `["fde_m"]`.
    """
    result: dict[str, dict[str, float] | None] = {}
    for horizon in map(str, HORIZONS_S):
        pairs = np.array([entry[horizon] for entry in entries if horizon in entry])
        means_m = pairs.mean(axis=0) if len(pairs) else None
        result[horizon] = None if means_m is None else {"model": float(means_m[0]), "constant_velocity": float(means_m[1]), "n": len(pairs)}
    return result


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """{p50, p95, p99} of `values`, None where there are none."""
    if not len(values):
        return None
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 95, 99)}
