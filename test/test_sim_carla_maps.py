"""Our OpenDRIVE files, read by the carla wheel (no server), hold the lanes and routes of our world within 0.1 m."""

import functools
import gzip
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from shapely.geometry import LineString, MultiLineString, Point, Polygon

from spanvla_ros.geometry import wrap
from spanvla_ros.sim.roads import maps, opendrive
from spanvla_ros.sim.roads import road as roads

carla = pytest.importorskip("carla", reason="the carla wheel is an extra: pip install 'spanvla_ros[carla]'")

TOLERANCE_M = 0.1
NUMBER = re.compile(r"-?\d+\.\d+")
every_map = pytest.mark.parametrize("name", maps.committed())


class CarlaMap:
    """carla.Map of one of our maps, in our names and in our frame."""

    def __init__(self, name):
        text = gzip.decompress(maps.xodr_file(name).read_bytes()).decode()
        self.map = carla.Map(name, text)
        self.names = {int(road.get("id")): road.get("name") for road in ET.fromstring(text).iter("road")}
        self.world = roads.load(name)
        rows = {}
        for waypoint in self.map.generate_waypoints(0.25):
            rows.setdefault(self.lane(waypoint), []).append(waypoint)
        self.rows = {lane: sorted(row, key=lambda w: w.s) for lane, row in rows.items()}

    def lane(self, waypoint):
        """Name of our lane or connector of a waypoint."""
        name = self.names[waypoint.road_id]
        if name in self.world.lanes:
            return name
        return self.world.lanes_of(name)[-abs(waypoint.lane_id)].name

    def line(self, lane):
        """Centre line of one of our lanes as CARLA has it. Its waypoints end short of the lane by less than their distance."""
        row = self.rows[lane]
        return LineString([place(waypoint) for waypoint in [*row, *row[-1].next_until_lane_end(0.02), row[-1]]])


def place(waypoint):
    return waypoint.transform.location.x, -waypoint.transform.location.y


@functools.cache
def loaded(name):
    return CarlaMap(name)


@every_map
def test_the_committed_file_is_what_the_net_gives(name):
    kept, made = gzip.decompress(maps.xodr_file(name).read_bytes()).decode(), opendrive.document(maps.net_file(name))
    # another processor rounds the eighth decimal otherwise
    assert NUMBER.sub("#", kept) == NUMBER.sub("#", made)
    np.testing.assert_allclose(np.array(NUMBER.findall(kept), float), np.array(NUMBER.findall(made), float), rtol=0, atol=1e-6)


@every_map
def test_every_lane_is_there_with_its_width_and_side(name):
    ours = loaded(name)
    assert set(ours.rows) == set(ours.world.lanes)
    for lane, row in ours.rows.items():
        assert row[0].lane_width == pytest.approx(ours.world.lanes[lane].width_m, abs=0.01)
        assert row[0].is_rht != ours.world.lefthand
        assert row[0].is_junction == (ours.world.lanes[lane].junction is not None)


@every_map
def test_waypoints_lie_on_our_lanes_and_look_along_them(name):
    ours = loaded(name)
    for lane, row in ours.rows.items():
        # lanes end obliquely in our world, square in OpenDRIVE: the ends may lie on the neighbours
        baseline = MultiLineString([ours.world.lanes[other].baseline for other in around(ours.world, lane)])
        for waypoint in row[::8]:
            assert baseline.distance(Point(place(waypoint))) < TOLERANCE_M, (lane, waypoint.s)
        middle = row[len(row) // 2]
        own = LineString(ours.world.lanes[lane].baseline)
        at = own.project(Point(place(middle)))
        step = np.subtract(own.interpolate(at + 1.0).coords[0], own.interpolate(max(at - 1.0, 0.0)).coords[0])
        assert abs(wrap(np.arctan2(step[1], step[0]) + np.radians(middle.transform.rotation.yaw))) < np.radians(8)


@every_map
def test_our_lanes_lie_on_waypoints(name):
    ours = loaded(name)
    lines = {lane: ours.line(lane) for lane in ours.rows}
    for lane in ours.rows:
        theirs = MultiLineString([lines[other] for other in around(ours.world, lane)])
        own = LineString(ours.world.lanes[lane].baseline)
        for at in np.arange(0.0, own.length, 2.0):
            assert theirs.distance(own.interpolate(at)) < TOLERANCE_M, (lane, at)


@every_map
def test_routes_follow_the_waypoints(name):
    """Path.xy rounds the corners of lanes with a Gaussian of 1.5 m; the OpenDRIVE lanes are rounded less."""
    ours = loaded(name)
    world = ours.world
    rng = np.random.default_rng(0)
    starts = [lane.name for lane in world.lanes.values() if lane.junction is None and lane.successors]
    driven = 0
    for start in rng.choice(starts, min(len(starts), 8), replace=False):
        for names in world.walks(str(start), world.lanes[str(start)].length_m + 150.0, 2):
            xy = world.path(names).xy
            path = LineString(xy)
            chain, here = [ours.rows[names[0]][4]], 0
            while True:
                ways = {ours.lane(waypoint): waypoint for waypoint in chain[-1].next(1.0)}
                # a lane between two junctions may be shorter than the step
                ahead = [k for k in range(here, min(here + 4, len(names))) if names[k] in ways]
                if not ahead:
                    break
                here = ahead[0]
                chain.append(ways[names[here]])
            assert here == len(names) - 1, f"CARLA leads from {names[here]} to {sorted(ways)}, our route is {names}"
            # a path ends up to 0.5 m before its last lane does
            assert max(path.distance(Point(place(waypoint))) for waypoint in chain[:-1]) < TOLERANCE_M, names
            theirs = LineString([place(waypoint) for waypoint in chain])
            assert max(theirs.distance(Point(at)) for at in xy if 0.5 < theirs.project(Point(at)) < theirs.length - 0.5) < TOLERANCE_M, names
            driven += 1
    assert driven >= 3


@every_map
def test_crosswalks_are_our_crossings(name):
    ours = loaded(name)
    theirs, outline = [], []
    for corner in ours.map.get_crosswalks():
        outline.append((corner.x, -corner.y))
        if len(outline) > 2 and np.hypot(*np.subtract(outline[-1], outline[0])) < 1e-3:
            theirs.append(Polygon(outline))
            outline = []
    assert len(theirs) == len(ours.world.crossings)
    for crossing in ours.world.crossings:
        assert min(polygon.symmetric_difference(crossing.polygon).area for polygon in theirs) < 0.05 * crossing.polygon.area


@every_map
def test_every_arm_with_a_signal_has_one_light_of_its_own(name):
    ours = loaded(name)
    world = ours.world
    arms = {opendrive.signal_name(lane.edge) for lane in world.lanes.values() for way in lane.successors if world.lanes[way].signal}
    assert {light.id for light in ours.map.get_all_landmarks_of_type("1000001")} == arms


def around(world, lane):
    """The lane and what leads to it or away from it."""
    return [lane, *world.lanes[lane].successors, *(other.name for other in world.lanes.values() if lane in other.successors)]
