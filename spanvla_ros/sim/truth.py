"""Ground truth of one instant. Only the judge gets it; no planner input is made from it."""

from __future__ import annotations

import numpy as np
import shapely

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.driving import Truth
from spanvla_ros.sim.ego import EgoState, box, footprint
from spanvla_ros.sim.road import RoadMap
from spanvla_ros.sim.route import Route
from spanvla_ros.sim.world import Actor

_NEAR_M = 30.0


class Witness:
    """Makes `Truth` for one route."""

    def __init__(self, road: RoadMap, route: Route):
        self._route = route
        # kerbs are a few centimetres wide: their inner edge counts as road
        self._drivable = road.drivable.buffer(0.05)
        shapely.prepare(self._drivable)
        self._lanes = road.route_area(route.path)

    def truth(self, time_s: float, ego: EgoState, route_s: float, actors: tuple[Actor, ...], lamp: str) -> Truth:
        corners = footprint(ego)
        centre = corners.mean(axis=0)
        _, lateral, _ = self._route.path.project(ego.pose, route_s)
        on_axis = self._route.path.pose(route_s)[:2]
        return Truth(
            time_s=time_s,
            pose=ego.pose,
            speed_mps=ego.speed_mps,
            footprint=corners,
            boxes={
                actor.name: box(actor.x, actor.y, actor.yaw, actor.length_m, actor.width_m)
                for actor in actors
                if abs(actor.x - ego.x) < _NEAR_M and abs(actor.y - ego.y) < _NEAR_M
            },
            route_m=min(max(route_s - self._route.start_s, 0.0), self._route.length_m),
            route_length_m=self._route.length_m,
            off_route_m=max(abs(lateral), float(np.hypot(*(ego.pose[:2] - on_axis)))),
            front_to_line_m=self._route.path.stop_s - route_s - VEHICLE.front_m,
            lamp=lamp,
            off_road=not bool(shapely.contains_xy(self._drivable, corners[:, 0], corners[:, 1]).all()),
            off_lane=not bool(shapely.contains_xy(self._lanes, centre[0], centre[1])),
        )
