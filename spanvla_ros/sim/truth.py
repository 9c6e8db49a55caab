"""Ground truth of one instant. Only the judge gets it; no planner input is made from it."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.ops import unary_union

from spanvla_ros.contracts import VEHICLE
from spanvla_ros.evaluation.driving import Thing, Truth
from spanvla_ros.sim.actor import Actor
from spanvla_ros.sim.ego import EgoState, footprint
from spanvla_ros.sim.roads.road import RoadMap
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.signals import Signals

_NEAR_M = 30.0
_TRAFFIC_M = 50.0
_OUR_WAY = 0.7  # cosine of the angle between another's heading and the route's
_KINDS = {"pedestrian": "pedestrian", "cone": "static", "barrier": "static"}


class Witness:
    """Makes `Truth` for one scenario."""

    def __init__(self, road: RoadMap, scenario: Scenario):
        self._scenario = scenario
        self._route = route = scenario.route
        # kerbs are a few centimetres wide: their inner edge counts as road
        self._drivable = road.drivable.buffer(0.05)
        shapely.prepare(self._drivable)
        self._lanes = road.route_area(route.path)
        self._wide = self._lanes
        if scenario.passes_m:
            # beside what has to be passed, the lanes of the other direction may be used
            edges = {road.lanes[span.lane].edge for span in route.path.spans}
            other = [lane.polygon for edge in edges if road.oncoming.get(edge) for lane in road.lanes_of(road.oncoming[edge])]
            self._wide = unary_union([self._lanes, *other]).buffer(0.1)
            shapely.prepare(self._wide)

    def truth(self, time_s: float, ego: EgoState, route_s: float, held_s: float, actors: tuple[Actor, ...], signals: Signals) -> Truth:
        route, scenario = self._route, self._scenario
        corners = footprint(ego)
        centre = corners.mean(axis=0)
        _, lateral, _ = route.path.project(ego.pose, route_s)
        on_axis = route.path.pose(route_s)[:2]
        stop = route.path.next_stop(route_s)
        lanes = self._wide if abs(route_s - scenario.feature_s) < scenario.passes_m else self._lanes
        speeds = [actor.speed_mps for actor in actors if self._goes_our_way(actor, ego, route_s)]
        return Truth(
            time_s=time_s,
            pose=ego.pose,
            speed_mps=ego.speed_mps,
            acceleration_mps2=ego.acceleration_mps2,
            yaw_rate_rps=ego.yaw_rate_rps,
            footprint=corners,
            things={
                actor.name: Thing(kind=_KINDS.get(actor.kind, "vehicle"), corners=actor.corners, speed_mps=actor.speed_mps, yaw=actor.yaw)
                for actor in actors
                if abs(actor.x - ego.x) < _NEAR_M and abs(actor.y - ego.y) < _NEAR_M
            },
            route_m=min(max(route_s - route.start_s, 0.0), route.length_m),
            route_length_m=route.length_m,
            off_route_m=max(abs(lateral), float(np.hypot(*(ego.pose[:2] - on_axis)))),
            line=stop.connector if stop else "",
            front_to_line_m=stop.s - route_s - VEHICLE.front_m if stop else float("inf"),
            lamp=signals.state(stop.signal) if stop and stop.signal is not None else "",
            control=(stop.control or "") if stop else "",
            off_road=not bool(shapely.contains_xy(self._drivable, corners[:, 0], corners[:, 1]).all()),
            off_lane=not bool(shapely.contains_xy(lanes, centre[0], centre[1])),
            traffic_speed_mps=float(np.mean(speeds)) if speeds else None,
            held_s=held_s,
            goal=scenario.goal,
        )

    def _goes_our_way(self, actor: Actor, ego: EgoState, route_s: float) -> bool:
        """A vehicle near by on the lanes of our direction."""
        if actor.pdm_type != "VEHICLE" or np.hypot(actor.x - ego.x, actor.y - ego.y) > _TRAFFIC_M:
            return False
        if not shapely.contains_xy(self._lanes, actor.x, actor.y):
            return False
        s, _, _ = self._route.path.project(np.array([actor.x, actor.y, actor.yaw]), route_s, _TRAFFIC_M)
        return float(np.cos(actor.yaw - self._route.path.pose(s)[2])) > _OUR_WAY
