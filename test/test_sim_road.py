import re

import numpy as np
import pytest

from spanvla_ros.contracts import Command, ConfigError
from spanvla_ros.sim.roads import maps, road

shapely = pytest.importorskip("shapely")


@pytest.fixture(params=maps.committed(), scope="module")
def loaded(request):
    return road.load(request.param)


def test_lanes_and_connectors_join(loaded):
    for lane in loaded.lanes.values():
        for name in lane.successors:
            after = loaded.lanes[name]
            assert (after.junction is None) != (lane.junction is None)
            assert np.hypot(*(lane.baseline[-1] - after.baseline[0])) < 0.1
            assert after.length_m > 0
        if lane.junction:
            assert lane.turn and lane.control and len(lane.successors) == 1
            assert (lane.control == "signal") == (lane.signal is not None)
            assert all(loaded.lanes[rival].junction == lane.junction for rival in lane.yields_to)


def test_neighbours_lie_on_the_side_of_the_middle(loaded):
    for lane in loaded.lanes.values():
        if lane.inner:
            inner = loaded.lanes[lane.inner]
            assert inner.outer == lane.name and inner.index == lane.index + 1
            middle = len(lane.baseline) // 2
            along = lane.baseline[middle] - lane.baseline[middle - 1]
            across = inner.baseline[np.hypot(*(inner.baseline - lane.baseline[middle]).T).argmin()] - lane.baseline[middle]
            assert (along[0] * across[1] - along[1] * across[0]) * loaded.side > 0


def test_oncoming_is_mutual(loaded):
    assert any(loaded.oncoming.values())
    for edge, other in loaded.oncoming.items():
        assert other is None or loaded.oncoming[other] == edge


def test_programmes_and_heads_agree(loaded):
    """Every approach with a signal has two heads ahead of its stop line that show the colour of all its links."""
    for lane in loaded.lanes.values():
        ways = [loaded.lanes[name] for name in lane.successors]
        links = [way.signal for way in ways if way.signal]
        for tls, link in links:
            assert all(len(letters) > link for _, letters in loaded.programmes[tls])
            letters = {letters[link].lower() for _, letters in loaded.programmes[tls]}
            assert letters == {"r", "y", "g"}
            heading = lane.baseline[-1] - lane.baseline[-2]
            heads = [h for h in loaded.heads if h.tls == tls and abs(np.angle(np.exp(1j * (h.yaw - np.arctan2(*heading[::-1]))))) < 0.1]
            assert len(heads) == 2
            for head in heads:
                assert (np.array(head.head[:2]) - lane.baseline[-1]) @ heading > 0
                assert loaded.drivable.distance(shapely.Point(head.post)) > 0.5


def test_yielding_is_never_mutual_but_at_lights(loaded):
    for lane in loaded.lanes.values():
        for rival in lane.yields_to:
            assert lane.name not in loaded.lanes[rival].yields_to
            assert lane.polygon.distance(loaded.lanes[rival].polygon) == 0
    left = [lane for lane in loaded.lanes.values() if lane.signal and lane.turn is (Command.RIGHT if loaded.lefthand else Command.LEFT)]
    assert not left or any(lane.yields_to for lane in left)


def test_paint_is_on_the_road_and_not_in_junctions(loaded):
    paint = loaded.white.union(loaded.yellow)
    assert paint.difference(loaded.drivable.buffer(0.01)).area < 0.1
    zebras = shapely.union_all([crossing.polygon for crossing in loaded.crossings])
    # a stop line is 0.25 m thick
    inside = shapely.union_all(list(loaded.junctions.values())).buffer(-0.4)
    assert paint.difference(zebras).intersection(inside).area < 0.02 * paint.area


def test_crossings_reach_over_the_road(loaded):
    for crossing in loaded.crossings:
        assert shapely.LineString(crossing.line).length > 3.0
        for end in (crossing.line[0], crossing.line[-1]):
            assert loaded.sidewalk.distance(shapely.Point(end)) < 2.5
        assert crossing.junction is None or crossing.junction in loaded.junctions


def test_unknown_map_is_named():
    with pytest.raises(ConfigError, match="nowhere-1"):
        road.load("nowhere-1")


def test_ring_has_narrow_and_wide_curves_and_no_lights():
    ring = road.load("ring-6000")
    loop = [ring.path((row[0],)) for edge, row in ring.rows.items() if re.fullmatch(r"T\d_T\d", edge)]
    found = 1 / np.maximum(np.abs(np.concatenate([path.curvature for path in loop])), 1e-4)
    assert found.min() > 12 and (found < 25).sum() > 20 and ((found > 40) & (found < 85)).sum() > 20
    assert not ring.programmes and {"priority", "yield"} <= {lane.control for lane in ring.lanes.values() if lane.junction}
    assert all(len(row) == 1 for row in ring.rows.values())


def test_grid_has_nine_lights_and_long_straight_streets():
    grid = road.load("grid-6000")
    assert len(grid.programmes) == 9 and len(grid.crossings) == 37
    assert sum(crossing.junction is None for crossing in grid.crossings) == 1
    single = [grid.lanes[row[0]] for edge, row in grid.rows.items() if len(row) == 1 and grid.oncoming[edge]]
    assert sum(lane.length_m > 200 and np.hypot(*(lane.baseline[-1] - lane.baseline[0])) > lane.length_m - 0.1 for lane in single) >= 4


def test_arterial_merges_by_a_lane_that_ends():
    arterial = road.load("arterial-6000")
    assert all(arterial.oncoming[edge] is None for edge in ("W_R", "R_M", "M_J", "J_We"))
    assert {len(arterial.rows[edge]) for edge in ("W_R", "M_J", "J_E", "Ee_J", "J_We")} <= {2, 3}
    assert arterial.lanes["M_J_0"].length_m > 250 and arterial.lanes["M_J_0"].speed_mps > 13
    ending = arterial.lanes["R_M_0"]
    assert ending.successors == () and ending.length_m > 80
    onward = arterial.lanes[ending.inner].successors[0]
    names = ("A_R_0", arterial.lanes["A_R_0"].successors[0], "R_M_0", onward, arterial.lanes[onward].successors[0])
    path = arterial.path(names, changes=(("R_M_0", 15.0, 75.0),))
    assert [span.lane for span in path.spans if not span.lane.startswith(":")] == ["A_R_0", "R_M_0", "R_M_1", "M_J_0"]
    assert np.abs(path.curvature[: path.index(path.length_m - 5)]).max() < 0.02
    area = arterial.route_area(path)
    assert shapely.contains_xy(area, path.xy[2:-2, 0], path.xy[2:-2, 1]).all()


def test_roundabout_is_one_manoeuvre():
    loaded = road.load("roundabout-6000")
    turns = {}
    for names in loaded.walks("A1_P1_1", 380.0, 40):
        path = loaded.path(names)
        leaves = next(name for name in names if name.startswith("X") and "_P" in name)
        turns[leaves[1]] = next(turn for start, end, turn in path.manoeuvres if end - start > 20)
        entry = next(stop for stop in path.stops if stop.junction == "I1")
        assert entry.control == "yield" and loaded.lanes[entry.connector].yields_to
        assert all(stop.control == "priority" for stop in path.stops if stop.junction[0] in "XP")
    # arms are numbered counter-clockwise, as the traffic goes
    assert turns == {"2": Command.RIGHT, "3": Command.STRAIGHT, "0": Command.LEFT} | ({"1": turns["1"]} if "1" in turns else {})


def test_left_hand_traffic_keeps_left():
    left = road.load("left-6000")
    assert left.lefthand and left.side == -1
    for edge, other in left.oncoming.items():
        lane, facing = left.lanes_of(edge)[-1], shapely.LineString(left.lanes_of(other)[-1].baseline)
        middle = len(lane.baseline) // 2
        along = lane.baseline[middle] - lane.baseline[middle - 1]
        across = np.array(facing.interpolate(facing.project(shapely.Point(lane.baseline[middle]))).coords[0]) - lane.baseline[middle]
        assert along[0] * across[1] - along[1] * across[0] < 0
    assert any(lane.control == "signal" and lane.turn is Command.RIGHT and lane.yields_to for lane in left.lanes.values())
