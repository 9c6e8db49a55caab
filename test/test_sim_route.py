import functools
import math
import timeit

import numpy as np
import pytest

from spanvla_ros.contracts import Command, ConfigError
from spanvla_ros.sim.roads import maps, road
from spanvla_ros.sim.roads.route import SPACING_M, Route

shapely = pytest.importorskip("shapely")


@pytest.fixture(params=maps.committed(), scope="module")
def loaded(request):
    return road.load(request.param)


@pytest.fixture(scope="module")
def paths(loaded):
    starts = [lane for edge in loaded.entries for lane in loaded.rows[edge]]
    return [loaded.path(names) for lane in starts for names in loaded.walks(lane, 400.0, 6)]


def test_paths_stay_on_their_lanes(loaded, paths):
    assert paths
    for path in paths:
        inside = shapely.contains_xy(loaded.route_area(path), path.xy[2:-2, 0], path.xy[2:-2, 1])
        assert inside.all()
        assert np.abs(path.curvature).max() < 0.2
        np.testing.assert_allclose(np.hypot(*np.diff(path.xy, axis=0).T), SPACING_M, atol=0.03)
        for stop in path.stops:
            turned = path.yaw[path.index(stop.exit_s)] - path.yaw[path.index(stop.s)]
            side = {Command.LEFT: turned > 0.3, Command.RIGHT: turned < -0.3, Command.STRAIGHT: abs(turned) < 0.9}
            assert side[stop.turn], (stop, turned)


def test_spans_cover_the_path_and_name_its_lanes(loaded, paths):
    for path in paths:
        assert path.spans[0].start_s == 0.0 and path.spans[-1].end_s == path.length_m
        assert all(a.end_s == b.start_s for a, b in zip(path.spans, path.spans[1:]))
        for span in path.spans:
            middle = 0.5 * (span.start_s + span.end_s)
            assert path.lane_at(middle) == span.lane
            assert loaded.lanes[span.lane].polygon.distance(shapely.Point(path.pose(middle)[:2])) < 0.3
        for stop in path.stops:
            assert path.lane_at(stop.s + 0.1) == stop.connector or stop.exit_s - stop.s < 0.6
            assert path.next_stop(stop.exit_s - 0.1) == stop and path.turn_at(stop.s) is stop.turn
        assert path.next_stop(path.length_m) is None


def point_beside(pose, offset):
    x, y, yaw = pose
    return shapely.Point(x - offset * math.sin(yaw), y + offset * math.cos(yaw))


def test_widths_end_at_kerb_and_middle(loaded, paths):
    """A point just inside a width is on the road; the width of the other direction leads onto its lanes."""
    side = loaded.side
    for path in paths[:8]:
        for span in path.spans:
            lane = loaded.lanes[span.lane]
            if lane.junction or span.end_s - span.start_s < 20:
                continue
            s = 0.5 * (span.start_s + span.end_s)
            i = path.index(s)
            beside = functools.partial(point_beside, path.pose(i * SPACING_M))
            assert lane.polygon.buffer(0.3).contains(beside(side * min(path.inner_m[i], 1.5)))
            assert loaded.drivable.contains(beside(side * (path.inner_m[i] - 0.2)))
            assert loaded.drivable.contains(beside(-side * (path.outer_m[i] - 0.2)))
            assert not loaded.drivable.contains(beside(-side * (path.outer_m[i] + 0.3)))
            if path.oncoming_m[i]:
                other = loaded.oncoming[lane.edge]
                facing = shapely.union_all([row.polygon for row in loaded.lanes_of(other)])
                assert facing.contains(beside(side * (path.inner_m[i] + 0.5 * path.oncoming_m[i])))
                assert path.oncoming_m[i] == sum(row.width_m for row in loaded.lanes_of(other))


def test_projection_inverts_pose(paths):
    path = paths[0]
    for s, lateral, heading in ((50.0, 1.2, 0.1), (path.stops[0].s + 8.0, -0.6, -0.2), (300.25, 0.0, 0.0)):
        x, y, yaw = path.pose(s)
        pose = np.array([x - lateral * np.sin(yaw), y + lateral * np.cos(yaw), yaw + heading])
        np.testing.assert_allclose(path.project(pose, near_s=s + 4.0), (s, lateral, heading), atol=0.06)


def test_projection_is_quick(paths):
    pose = paths[0].pose(100.0)
    assert min(timeit.repeat(lambda: paths[0].project(pose, 99.0), number=100, repeat=5)) / 100 < 100e-6


def test_lane_change_blends_to_the_inner_lane():
    loaded = road.load("town-6001")
    path = loaded.path(("i2_1", ":J_12_0", "o1_1"), changes=(("i2_1", 60.0, 100.0),))
    outer, inner = loaded.lanes["i2_1"], loaded.lanes["i2_2"]
    before, after = (shapely.LineString(lane.baseline) for lane in (outer, inner))
    assert before.distance(shapely.Point(path.pose(58.0)[:2])) < 0.1
    assert after.distance(shapely.Point(path.pose(102.0)[:2])) < 0.1
    middle = shapely.Point(path.pose(80.0)[:2])
    assert before.distance(middle) == pytest.approx(1.75, abs=0.2) and after.distance(middle) == pytest.approx(1.75, abs=0.2)
    assert [span.lane for span in path.spans] == ["i2_1", "i2_2", ":J_12_0", "o1_1"]
    assert path.outer_m[path.index(50)] == 1.75 and path.outer_m[path.index(110)] == 5.25
    assert np.abs(np.diff(path.inner_m[: path.index(200)])).max() < 0.3
    assert np.abs(path.curvature[: path.index(200)]).max() < 0.06


def test_what_does_not_join_is_named():
    loaded = road.load("town-6001")
    with pytest.raises(ConfigError, match=":J_3_0"):
        loaded.path(("i2_1", ":J_3_0"))
    with pytest.raises(ConfigError, match="no such lane"):
        loaded.path(("nolane",))
    with pytest.raises(ConfigError, match="i2_2"):
        loaded.path(("i2_2", ":J_12_0", "o1_1"), changes=(("i2_2", 10.0, 50.0),))


def test_route_commands_the_turn_in_time():
    loaded = road.load("town-6001")
    path = loaded.path(("i2_2", ":J_12_0", "o1_1"))
    route = Route(path=path, start_s=30.0, end_s=380.0)
    stop = path.stops[0]
    assert route.command(stop.s - 45.0) is Command.STRAIGHT and route.command(stop.s - 35.0) is Command.LEFT
    assert route.command(stop.exit_s - 1.0) is Command.LEFT and route.command(stop.exit_s + 1.0) is Command.STRAIGHT
    assert route.completion(30.0) == 0.0 and route.completion(205.0) == 0.5 and route.completion(400.0) == 1.0
