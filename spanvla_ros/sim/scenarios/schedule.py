"""What the traffic lights of the route do in an episode."""

from __future__ import annotations

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.signals import Signals


class Schedule:
    """Holds the lights as the scenario wants them: from the warm-up on, and step by step."""

    def __init__(self, scenario: Scenario, signals: Signals):
        self._lights = scenario.lights
        self._signals = signals
        route = scenario.route
        self._stops = [stop for stop in route.path.stops if stop.signal is not None and route.start_s < stop.exit_s and stop.s < route.end_s + 60.0]
        self._since_s: float | None = None
        plotted = self._lights.own == "plot"
        for stop in self._stops:
            if self._lights.own != "cycle":
                first_red = plotted and self._lights.starts_red and stop is self._stops[0]
                colour = "red" if first_red else "green"
                signals.show(stop.signal, colour)
                signals.hold(stop.signal, colour)

    def step(self, time_s: float, route_s: float) -> None:
        """Turn the first light red when the ego comes near, and green again some seconds later."""
        if self._lights.own != "plot" or not self._stops:
            return
        stop = self._stops[0]
        if self._since_s is None and stop.s - route_s - VEHICLE.front_m < self._lights.turns_red_m:
            self._since_s = time_s
        if self._since_s is not None:
            waited = time_s - self._since_s >= self._lights.green_after_s
            self._signals.hold(stop.signal, "green" if waited else "red")
