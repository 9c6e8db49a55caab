import dataclasses

import numpy as np
import pytest

from spanvla_ros.contracts import ConfigError

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from shapely.geometry import Point

from spanvla_ros.sim.roads import road
from spanvla_ros.sim.scenarios import family, place, scenario
from spanvla_ros.sim.scenarios.family import FAMILIES, RouteSpec
from spanvla_ros.sim.scenarios.scenario import build, parse_families, parse_seeds


def test_families_and_seeds_of_a_command_line():
    assert parse_families("all") == list(FAMILIES) and parse_families("red,lane") == ["red", "lane"]
    assert list(parse_seeds("6000:6002")) == [6000, 6001] and list(parse_seeds("0:50:20")) == [0, 20, 40]


@pytest.mark.parametrize(("parse", "text", "named"), [
    (parse_families, "lane,fog", "fog"), (parse_families, "", "nothing"),
    (parse_seeds, "7", "7"), (parse_seeds, "a:b", "a:b"), (parse_seeds, "5:5", "empty"), (parse_seeds, "0:9:0", "0:9:0"),
])
def test_wrong_ones_are_named(parse, text, named):
    with pytest.raises(ConfigError, match=named):
        parse(text)


def test_eighteen_families_each_with_its_file():
    assert len(FAMILIES) == 18 and [family.load(name).number for name in FAMILIES] == list(range(1, 19))
    with pytest.raises(ConfigError, match="'fog' is unknown; there are lane"):
        family.load("fog")


def flat(value):
    """A scenario as comparable plain values."""
    if dataclasses.is_dataclass(value):
        return {f.name: flat(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [flat(v) for v in value]
    return {k: flat(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_decides_everything_and_seeds_differ(name):
    first, again, other = build(name, 6004), build(name, 6004), build(name, 6010)
    assert flat(first) == flat(again)
    assert flat(first.route) != flat(other.route)
    assert flat(first.cameras) != flat(other.cameras)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_feature_lies_on_the_route_with_room_before_and_behind(name):
    for seed in range(6000, 6006):
        built = build(name, seed)
        path, route = built.route.path, built.route
        assert route.start_s <= built.feature_s < route.end_s
        assert route.start_s >= 22.0 and route.end_s <= path.length_m - 55.0
        assert road.load(built.map_id).route_area(path).contains(Point(path.pose(built.feature_s)[:2]))


@pytest.mark.parametrize(("spec", "holds"), [
    (RouteSpec(feature="signal", turn="left", before_m=40), lambda path, s: path.next_stop(s - 1).turn.value == "left"),
    (RouteSpec(feature="straight", stretch_m=60, before_m=20), lambda path, s: np.abs(path.curvature[path.index(s) : path.index(s + 60)]).max() < 0.006),
    (RouteSpec(feature="straight", stretch_m=60, before_m=20, oncoming=True), lambda path, s: path.oncoming_m[path.index(s)] > 2.5),
    (RouteSpec(feature="bend", before_m=40, length_m=120), lambda path, s: 1 / 80 <= abs(path.curvature_at(s)) <= 1 / 15),
])  # fmt: skip
def test_places_are_as_asked_for(spec, holds):
    world = road.load("ring-6000" if spec.oncoming else "town-6000")
    for seed in range(5):
        route, feature_s = place.find(world, spec, np.random.default_rng(seed))
        assert holds(route.path, feature_s)


def test_no_place_is_said_plainly():
    with pytest.raises(place.NoPlace, match="town-6000 has no place for a route with merge"):
        place.find(road.load("town-6000"), RouteSpec(feature="merge"), np.random.default_rng(0))


def test_seeds_of_neighbouring_training_drives_share_a_generated_map_and_tests_a_committed_one():
    assert scenario.split(4999) == "train" and scenario.split(5000) == "validation" and scenario.split(9000) == "test"
    assert build("red", 6001).map_id == "town-6001" and build("curve", 9000).map_id == "ring-6000"


def test_in_left_hand_traffic_the_plot_is_mirrored():
    """A parked car stands at the kerb, which is on the left there."""
    for seed in range(6000, 6012):
        built = build("parked", seed)
        parked = built.roles[0]
        assert parked.lateral_m * road.load(built.map_id).side < 0
