"""Smoothness as in Bench2Drive: how much of a drive stays inside nuPlan's comfort bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from spanvla_ros.evaluation.driving import Truth

SEGMENT = 20  # frames of 0.1 s
_PERIOD_S = 0.1


class Motion:
    """The ego's own motion at 10 Hz."""

    def __init__(self):
        self._rows: list[tuple[float, ...]] = []
        self._next_s = -np.inf

    def watch(self, now: Truth) -> None:
        if now.time_s < self._next_s - 1e-6:
            return
        self._next_s = now.time_s + _PERIOD_S
        self._rows.append((*now.pose, now.speed_mps, now.acceleration_mps2, now.yaw_rate_rps))

    @property
    def smooth_share(self) -> float | None:
        """Share (0-1) of the 2-s segments inside all bounds; None for a drive shorter than one."""
        count = len(self._rows) // SEGMENT
        if not count:
            return None
        from spanvla_ros.evaluation.pdm.comfort import comfort

        rows = np.array(self._rows[: count * SEGMENT])
        states = np.zeros((len(rows), 11))
        states[:, :4] = rows[:, :4]
        states[:, 5] = rows[:, 4]
        states[:, 6] = rows[:, 3] * rows[:, 5]  # centripetal
        states[:, 9] = rows[:, 5]
        return round(float(comfort(states.reshape(count, SEGMENT, 11), "v1")[0].mean()), 4)
