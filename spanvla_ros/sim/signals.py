"""Traffic lights of a map: stages of green with yellow and all-red between them, and holds that a scenario can ask for."""

from __future__ import annotations

from collections.abc import Mapping

from spanvla_ros.sim.roads.road import RoadMap

YELLOW_S = 3.0
ALL_RED_S = 1.5
_SHORTEST_GREEN_S = 3.0
_GREEN = "Gg"
_COLOURS = {"G": "green", "g": "green", "y": "yellow"}

Signal = tuple[str, int]  # traffic light and link index, as in `Lane.signal`


class Signals:
    """All traffic lights of a map.

    plan "net": the stages of the net's own programme, with permissive left turns; "split": one approach after the other.
    offset_s: how far into the cycle the episode begins. `hold` pins one link of a light.
    """

    def __init__(self, road: RoadMap, plan: str = "net", offset_s: float = 0.0):
        self._lights = {
            tls: _Light(_split(road, tls, phases) if plan == "split" else _greens(phases), offset_s) for tls, phases in road.programmes.items()
        }

    def hold(self, signal: Signal, colour: str | None) -> None:
        """Serve a link next and keep it green ("green"), skip it ("red"), or run the cycle (None)."""
        self._lights[signal[0]].held = None if colour is None else (signal[1], colour)

    def state(self, signal: Signal) -> str:
        """Lamp of a link: red, yellow or green."""
        return _COLOURS.get(self._lights[signal[0]].letters[signal[1]], "red")

    def show(self, signal: Signal, colour: str) -> None:
        """Switch a light at once to a stage in which the link is green, or is not ("red"). For the time before an episode."""
        self._lights[signal[0]].switch(signal[1], colour)

    @property
    def letters(self) -> Mapping[str, str]:
        """SUMO's state string of every light."""
        return {tls: light.letters for tls, light in self._lights.items()}

    def step(self, seconds: float) -> None:
        for light in self._lights.values():
            light.step(seconds)


class _Light:
    """One traffic light: `stages` of (seconds, letters), the letters shown now, and the link held."""

    def __init__(self, stages: list[tuple[float, str]], offset_s: float):
        self._stages = stages
        offset_s %= sum(seconds for seconds, _ in stages)
        self._stage = 0
        while offset_s >= stages[self._stage][0]:
            offset_s -= stages[self._stage][0]
            self._stage += 1
        self._enter(self._stage)
        self._left_s -= offset_s
        self.held: tuple[int, str] | None = None

    def switch(self, link: int, colour: str) -> None:
        fits = self._fitting(link, colour)
        if fits and self._stage not in fits:
            self._enter(min(fits))

    def step(self, seconds: float) -> None:
        self._left_s -= seconds
        self._age_s += seconds
        if not self._ahead and self.held is not None:
            self._obey(*self.held, seconds)
        if self._left_s > 1e-9:
            return
        if not self._ahead:
            self._stage = self._next()
            self._ahead = [*_transition(self.letters, self._stages[self._stage][1]), self._stages[self._stage]]
        self._left_s, self.letters = self._ahead.pop(0)
        self._age_s = 0.0

    def _enter(self, stage: int) -> None:
        self._stage = stage
        self._left_s, self.letters = self._stages[stage]
        self._age_s = 0.0
        self._ahead: list[tuple[float, str]] = []  # what follows until the stage is reached

    def _obey(self, link: int, colour: str, seconds: float) -> None:
        """Prolong a stage that is as the hold wants it, end one that is not."""
        fits = self._fitting(link, colour)
        if self._stage in fits:
            if colour == "green" or fits == {self._stage}:
                self._left_s = max(self._left_s, seconds)
        elif fits and (colour == "red" or self._age_s >= _SHORTEST_GREEN_S):
            self._left_s = 0.0

    def _fitting(self, link: int, colour: str) -> set[int]:
        """Stages in which the link is green, or is not ("red")."""
        return {i for i, (_, letters) in enumerate(self._stages) if (letters[link] in _GREEN) == (colour == "green")}

    def _next(self) -> int:
        """The stage after this one, in the order of the programme but as the hold wants it."""
        order = [(self._stage + k) % len(self._stages) for k in range(1, len(self._stages) + 1)]
        if self.held is not None:
            fits = self._fitting(*self.held)
            order = [i for i in order if i in fits] or order
        return order[0]


def _transition(now: str, following: str) -> list[tuple[float, str]]:
    """Yellow, then red for every link that loses its green."""
    ends = [a in _GREEN and b not in _GREEN for a, b in zip(now, following)]
    if not any(ends):
        return []
    yellow = "".join("y" if end else a for a, end in zip(now, ends))
    return [(YELLOW_S, yellow), (ALL_RED_S, yellow.replace("y", "r"))]


def _greens(phases: tuple[tuple[float, str], ...]) -> list[tuple[float, str]]:
    """The stages of a programme: its phases without yellow."""
    return [(seconds, letters) for seconds, letters in phases if "y" not in letters and any(c in letters for c in _GREEN)]


def _split(road: RoadMap, tls: str, phases: tuple[tuple[float, str], ...]) -> list[tuple[float, str]]:
    """One stage per approach in which all its links, and nobody else's, are green."""
    approaches: dict[str, list[int]] = {}
    for lane in road.lanes.values():
        for name in lane.successors:
            connector = road.lanes[name]
            if connector.signal is not None and connector.signal[0] == tls:
                approaches.setdefault(lane.edge, []).append(connector.signal[1])
    count = len(phases[0][1])
    green_s = 40.0 / len(approaches) - YELLOW_S - ALL_RED_S
    return [(green_s, "".join("G" if i in links else "r" for i in range(count))) for _, links in sorted(approaches.items())]
