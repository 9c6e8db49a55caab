"""How long the ego takes to brake for somebody who comes into its lane."""

from __future__ import annotations

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.sim.simulation import Simulation

LANE_M = 3.2  # strip along the ego's path: as wide as the narrowest lane of the maps
AHEAD_M = 40.0
BRAKES_MPS2 = 1.0
PATIENCE_S = 5.0


class Reaction:
    """Watches a simulation. The time runs from the first instant at which somebody of the scenario's cast who was beside the ego's lane, not
    further ahead of its front bumper than AHEAD_M, has a corner in it, to the instant at which the car itself (not its plan) begins to
    brake by more than BRAKES_MPS2; below zero where it saw that coming and brakes already. Only the first such event of a drive counts.
    """

    def __init__(self, simulation: Simulation):
        self._simulation = simulation
        self._cast = {role.name for role in simulation.scenario.roles}
        self._beside: set[str] = set()
        self._came_s: float | None = None
        self._brakes_s: float | None = None  # since when
        self.seconds: float | None = None  # None: nobody came in, or the ego didn't brake within PATIENCE_S

    def watch(self) -> None:
        """Look at the simulation as it stands now."""
        now_s = self._simulation.time_s
        if self._simulation.ego.acceleration_mps2 >= -BRAKES_MPS2:
            self._brakes_s = None
        elif self._brakes_s is None:
            self._brakes_s = now_s
        if self._came_s is None and self._cuts_in():
            self._came_s = now_s
        if self._came_s is not None and self._brakes_s is not None and self.seconds is None and now_s - self._came_s <= PATIENCE_S:
            self.seconds = round(self._brakes_s - self._came_s, 3)

    def _cuts_in(self) -> bool:
        simulation = self._simulation
        front_s, path = simulation.route_s + VEHICLE.front_m, simulation.route.path
        reach_s, found = front_s + 2 * AHEAD_M, False
        for actor in simulation.actors:
            if actor.name not in self._cast:
                continue
            s, distance = path.project_points(actor.corners, simulation.route_s, reach_s)
            if s.max() >= reach_s - 1.0:  # what lies beyond is not beside
                continue
            if distance.min() >= LANE_M / 2:
                self._beside.add(actor.name)
            elif actor.name in self._beside and front_s < s.max() and s.min() < front_s + AHEAD_M:
                found = True
        return found
