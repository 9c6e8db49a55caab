"""What is to be said about the plans over a recorded drive: one row per plan, and the figures that a gate may limit."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spanvla_ros.contracts import NS_PER_S, Plan, Trajectory
from spanvla_ros.evaluation import openloop
from spanvla_ros.evaluation.pdm.comfort import comfort
from spanvla_ros.evaluation.supervision import Supervision
from spanvla_ros.planning import consistency, validity
from spanvla_ros.planning.consistency import Verdict
from spanvla_ros.planning.supervisor import State
from spanvla_ros.planning.trajectory import densify

# as in the PDM score: the first 4 s at 10 Hz
_COMFORT_SAMPLES = 41
_COMPARED_S = np.arange(0.0, 2.01, 0.5)
# what is skipped without being a failure: images before the model's history is complete, and messages that are no image
NO_FAILURE = ("HISTORY_SHORT", "ODOMETRY_INVALID", "COMMAND_UNKNOWN")

_LATENCIES = {"p50": "median", "p95": "95th percentile", "p99": "99th percentile", "max": "longest"}
_STATES = tuple(state.value for state in State if state is not State.WAITING)

# name -> (meaning, unit); shares are 0-1
FIGURES: dict[str, tuple[str, str]] = {
    "plans": ("plans", ""),
    "refused_share": ("images that gave no plan, those before the first history aside", "share"),
    **{f"ade_{h}s_m": (f"average displacement error up to {h} s", "m") for h in openloop.HORIZONS_S},
    **{f"fde_{h}s_m": (f"displacement error at {h} s", "m") for h in openloop.HORIZONS_S},
    "comfort_share": ("plans within nuPlan's comfort bounds (PDMS C, first 4 s)", "share"),
    "invalid_share": ("plans that break a limit of `validity`", "share"),
    "jump_p95_m": ("shift of a plan against the one before it within 2 s, 95th percentile", "m"),
    "contradiction_share": ("plans whose text says the opposite of what they do", "share"),
    "agreement_share": ("plans that do what their text says, of those where it can be told", "share"),
    "deadline_miss_share": ("plans that came later than `supervisor.deadline_s`", "share"),
    **{f"{state.lower()}_share": (f"heartbeats in {state} from the first plan on", "share") for state in _STATES},
    **{f"latency_{name}_ms": (f"time for a plan, {text}", "ms") for name, text in _LATENCIES.items()},
}


def text_of(name: str, value: float | None) -> str:
    """A figure with its unit."""
    unit = FIGURES[name][1]
    if value is None:
        return "–"
    return {"share": f"{100 * value:.1f} %", "m": f"{value:.2f} m", "ms": f"{value:.0f} ms"}.get(unit, f"{value:g}")


def judge(plans: Sequence[Plan], futures_base: Sequence[np.ndarray], limits: validity.Limits) -> list[dict[str, Any]]:
    """A row per plan: errors against its recorded future (T, 3), comfort, broken limits, text, and its shift against the plan before."""
    dense = [densify(plan) for plan in plans]
    rows = []
    for k, (plan, future, comfortable) in enumerate(zip(plans, futures_base, _comfortable(dense))):
        said = consistency.check(plan) if plan.reasoning else None
        rows.append(
            {
                "t0_ns": plan.t0_ns,
                "plan_hash": hashlib.sha256(plan.waypoints_base.tobytes() + plan.reasoning.encode()).hexdigest()[:12],
                "latency_ms": plan.timings_ms.get("total"),
                "speed_mps": plan.speed_mps,
                **openloop.errors(plan, future),
                "comfortable": comfortable,
                "broken": validity.violations(dense[k], limits),
                "jump_m": _jump(dense[k], dense[k - 1]) if k else None,
                "verdict": said.verdict.value if said else None,
                "said": str(said) if said else "",
                "reasoning": plan.reasoning,
            }
        )
    return rows


def _comfortable(dense: Sequence[Trajectory]) -> list[bool]:
    """All have the horizon of the model, so that they are judged at once."""
    count = min(len(dense[0].times_s), _COMFORT_SAMPLES) if dense else 0
    states = np.zeros((len(dense), count, 11))
    for state, plan in zip(states, dense):
        state[:, :3], state[:, 3] = plan.poses_odom[:count], plan.speeds_mps[:count]
        state[:, 5], state[:, 9] = plan.accelerations_mps2[:count], plan.yaw_rates_rps[:count]
        state[:, 6] = state[:, 3] * state[:, 9]
    return [bool(score) for score in comfort(states, "v1")[0]] if dense else []


def _jump(now: Trajectory, before: Trajectory) -> float | None:
    """Largest distance within 2 s between where two plans have the car at the same instants; None where they share no such time."""
    at = _COMPARED_S + (now.stamp_ns - before.stamp_ns) / NS_PER_S
    if at[-1] > before.times_s[-1]:
        return None
    places = [[np.interp(when, plan.times_s, plan.poses_odom[:, axis]) for axis in (0, 1)] for plan, when in ((now, _COMPARED_S), (before, at))]
    return float(np.hypot(*np.subtract(*places)).max())


def figures(rows: Sequence[Mapping[str, Any]], skipped: Mapping[str, int], supervision: Supervision) -> dict[str, float | None]:
    """Every name of FIGURES; None where this drive can't tell."""
    refused = sum(count for code, count in skipped.items() if code not in NO_FAILURE)
    verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
    told = verdicts[Verdict.AGREES.value] + verdicts[Verdict.CONTRADICTS.value]
    times = np.array([row["latency_ms"] for row in rows if row["latency_ms"] is not None])
    jumps = [row["jump_m"] for row in rows if row["jump_m"] is not None]
    shares = supervision.shares()
    found: dict[str, float | None] = {"plans": len(rows), "refused_share": _share(refused, len(rows) + refused)}
    for kind in ("ade_m", "fde_m"):
        for horizon, entry in openloop.means([row[kind] for row in rows]).items():
            found[f"{kind[:3]}_{horizon}s_m"] = None if entry is None else entry["model"]
    found |= {
        "comfort_share": _share(sum(row["comfortable"] for row in rows), len(rows)),
        "invalid_share": _share(sum(bool(row["broken"]) for row in rows), len(rows)),
        "jump_p95_m": float(np.percentile(jumps, 95)) if jumps else None,
        "contradiction_share": _share(verdicts[Verdict.CONTRADICTS.value], sum(verdicts.values())),
        "agreement_share": _share(verdicts[Verdict.AGREES.value], told),
        "deadline_miss_share": _share(supervision.deadline_misses, supervision.plans),
        **{f"{state.lower()}_share": shares.get(state, 0.0) if shares else None for state in _STATES},
        **{f"latency_p{p}_ms": float(np.percentile(times, p)) if len(times) else None for p in (50, 95, 99)},
        "latency_max_ms": float(times.max()) if len(times) else None,
    }
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
