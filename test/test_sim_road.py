import numpy as np
import pytest

from spanvla_ros.contracts import Command, ConfigError
from spanvla_ros.sim import maps, road

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
