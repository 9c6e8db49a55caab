"""Who will be in the way: stretches of the corridor that others occupy over time, and whether a speed plan gets along with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.driver.corridor import HALF_WIDTH_M, Corridor, Sweep
from spanvla_ros.sim.driver.prediction import TIMES_S, Forecast

_ALONG = np.array([-0.5, -0.25, 0.0, 0.25, 0.5])
_CLEAR_M = {"pedestrian": 0.8, "bicycle": 0.5, "cone": 0.1, "barrier": 0.1}
_VEHICLE_CLEAR_M = 0.3
_STANDING_CLEAR_M = 0.15


@dataclass(frozen=True, kw_only=True)
class Block:
    """One possible future of an actor as seen from the corridor.

    low, high (T,): arc lengths of its ends at TIMES_S, inf / -inf while it is not in the corridor; first: index of the first
    time it is; heading: cosine between it and the path then; pace_mps along the path; ways: connectors it will drive;
    runs: it should have stopped before the junction and did not.
    """

    actor: Actor
    ways: tuple[str, ...]
    runs: bool
    low: np.ndarray
    high: np.ndarray
    first: int
    heading: float
    pace_mps: float

    @property
    def now(self) -> bool:
        return self.first == 0

    @property
    def along(self) -> bool:
        """It drives our way."""
        return self.heading > 0.6

    @property
    def against(self) -> bool:
        return self.heading < -0.6

    @property
    def leaves_s(self) -> float:
        """Time at which it has left the corridor for good (inf: not within the forecast)."""
        last = int(np.flatnonzero(np.isfinite(self.low))[-1])
        return float(TIMES_S[last + 1]) if last + 1 < len(TIMES_S) else np.inf


def find(corridor: Corridor, forecast: Forecast, sweep: Sweep, from_s: float, to_s: float, strict: bool) -> list[Block]:
    """Blocks of the stretch [from_s, to_s] for a car that covers `sweep`. strict: what comes near later counts as much as what is near now."""
    count = len(forecast.actors)
    if not count:
        return []
    moving = np.abs(forecast.xy[:, -1] - forecast.xy[:, 0]).sum(axis=1) > 0.2
    half = np.array([0.5 * a.length_m for a in forecast.actors])
    blocks: list[Block] = []
    for rows, steps in ((np.flatnonzero(~moving), 1), (np.flatnonzero(moving), len(TIMES_S))):
        if not len(rows):
            continue
        s, d = corridor.frenet(forecast.xy[rows, :steps].reshape(-1, 2), from_s - 6.0, to_s + 6.0)
        reach = half[rows] + HALF_WIDTH_M + 1.5 + np.abs(sweep.rear_m).max()
        near = ((np.abs(d).reshape(len(rows), steps) < reach[:, None]) & np.isfinite(s).reshape(len(rows), steps)).any(axis=1)
        rows = rows[near]
        if len(rows):
            blocks += _blocks(corridor, forecast, rows, steps, sweep, from_s, to_s, strict)
    return blocks


def _blocks(corridor, forecast: Forecast, rows: np.ndarray, steps: int, sweep: Sweep, from_s: float, to_s: float, strict: bool) -> list[Block]:
    actors = [forecast.actors[k] for k in rows]
    length = np.array([a.length_m for a in actors])[:, None]
    half = np.array([a.width_m / 2 for a in actors])[:, None, None]
    # standing vehicles are kept away from by the line; here only contact matters
    clear = np.array([_CLEAR_M.get(a.kind, _VEHICLE_CLEAR_M) if steps > 1 else _STANDING_CLEAR_M for a in actors])[:, None, None]
    yaw = forecast.yaw[rows, :steps]
    axis = length[..., None] * _ALONG
    points = np.stack(
        [forecast.xy[rows, :steps, 0, None] + np.cos(yaw)[..., None] * axis, forecast.xy[rows, :steps, 1, None] + np.sin(yaw)[..., None] * axis],
        axis=-1,
    )
    if steps > 1:
        # what is only foreseen to be close will most likely keep clear
        clear = np.maximum(clear - np.clip(0.2 * (TIMES_S - 1.0), 0.0, 0.5)[None, :, None], np.minimum(clear, -0.15))
    s, d = corridor.frenet(points.reshape(-1, 2), from_s, to_s)
    s, d = s.reshape(points.shape[:3]), d.reshape(points.shape[:3])
    relative = yaw - corridor.yaw_at(s[..., 2])
    cosine, sine = np.cos(relative), np.abs(np.sin(relative))
    reach = HALF_WIDTH_M + half * np.maximum(np.abs(cosine), 0.3)[..., None] + clear
    inside = np.abs(d - np.interp(s, sweep.rear_s, sweep.rear_m)) < reach
    inside |= np.abs(d - np.interp(s, sweep.front_s, sweep.front_m)) < reach
    inside &= np.isfinite(s)
    ends = half * sine[..., None]
    low = np.where(inside, s - ends, np.inf).min(axis=2)
    high = np.where(inside, s + ends, -np.inf).max(axis=2)
    found = []
    for k, actor in enumerate(actors):
        there = np.isfinite(low[k])
        if not there.any():
            continue
        first = int(np.argmax(there))
        lows, highs = (low[k], high[k]) if steps > 1 else (np.full(len(TIMES_S), low[k, 0]), np.full(len(TIMES_S), high[k, 0]))
        heading = float(cosine[k, first])
        found.append(
            Block(
                actor=actor,
                ways=forecast.ways[rows[k]],
                runs=forecast.runs[rows[k]],
                low=lows,
                high=highs,
                first=first,
                heading=heading,
                pace_mps=actor.speed_mps * heading,
            )
        )
    return found


def meets(block: Block, times: np.ndarray, at: np.ndarray, before_s: float, after_s: float, space_m: float) -> bool:
    """Whether the car, rear axle at arc lengths `at` (K,) for `times` (K,), comes too close: inside the blocked stretch plus
    `space_m` later than before_s ahead of the other, or earlier than after_s behind it."""
    there = np.flatnonzero(np.isfinite(block.low))
    when = TIMES_S[there]
    pace = max(float(at[-1] - at[-2]) / float(times[-1] - times[-2]), 0.0)

    def place(t: np.ndarray) -> np.ndarray:
        return np.interp(t, times, at) + np.maximum(t - times[-1], 0.0) * pace

    front = place(when + after_s) + VEHICLE.front_m
    rear = place(np.maximum(when - before_s, 0.0)) - VEHICLE.rear_m
    return bool(((front > block.low[there] - space_m) & (rear < block.high[there] + space_m)).any())
