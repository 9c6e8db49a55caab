"""Traffic lights of the junction: one arm after the other, with holds that a scenario can ask for."""

from __future__ import annotations

from collections.abc import Sequence

YELLOW_S = 3.0
ALL_RED_S = 1.5
_SHORTEST_GREEN_S = 3.0


class Signals:
    """Static cycle green -> yellow -> all red over the arms.

    `hold` pins one arm: "green" (served next and kept), "red" (skipped), or None (the static cycle).
    """

    def __init__(self, arms: int, cycle_s: float, first_arm: int, offset_s: float):
        self._arms = arms
        self._green_s = cycle_s / arms - YELLOW_S - ALL_RED_S
        self._arm = first_arm
        self._stage = "green"
        self._left_s = self._green_s - offset_s % self._green_s
        self._age_s = 0.0
        self._hold: tuple[int, str] | None = None

    def hold(self, arm: int, colour: str | None) -> None:
        self._hold = None if colour is None else (arm, colour)

    def state(self, arm: int) -> str:
        """Lamp of an arm: red, yellow or green."""
        if arm != self._arm or self._stage == "all_red":
            return "red"
        return self._stage

    def sumo_state(self, link_arms: Sequence[int]) -> str:
        """SUMO's state string for all links; pedestrian links stay red."""
        letters = {"red": "r", "yellow": "y", "green": "G"}
        return "".join("r" if arm < 0 else letters[self.state(arm)] for arm in link_arms)

    def step(self, seconds: float) -> None:
        self._left_s -= seconds
        self._age_s += seconds
        if self._stage == "green" and self._hold is not None:
            arm, colour = self._hold
            if colour == "green":
                if arm == self._arm:
                    self._left_s = max(self._left_s, seconds)
                elif self._age_s >= _SHORTEST_GREEN_S:
                    self._left_s = 0.0
            elif arm == self._arm:
                self._left_s = 0.0
        if self._left_s > 1e-9:
            return
        if self._stage == "green":
            self._enter("yellow", YELLOW_S)
        elif self._stage == "yellow":
            self._enter("all_red", ALL_RED_S)
        else:
            self._arm = self._next()
            self._enter("green", self._green_s)

    def _enter(self, stage: str, seconds: float) -> None:
        self._stage, self._left_s, self._age_s = stage, seconds, 0.0

    def _next(self) -> int:
        following = (self._arm + 1) % self._arms
        if self._hold is None:
            return following
        arm, colour = self._hold
        if colour == "green":
            return arm
        return (following + 1) % self._arms if following == arm else following
