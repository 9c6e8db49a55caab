"""Route correction and centreline search against the official results of the fixtures, and against made-up networks where those are silent."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from spanvla_ros.contracts import DataError
from spanvla_ros.data.navsim import route
from spanvla_ros.data.navsim.city import Block, City, Lane, baseline
from spanvla_ros.evaluation.pdm.fixtures import scene_names
from spanvla_ros.evaluation.pdm.footprint import ego_centers
from spanvla_ros.evaluation.pdm.scene import Area

FOLDER = Path(__file__).parent / "golden" / "pdm"


def city_of(chart):
    """The map of a fixture as the reader of a GeoPackage would give it."""
    lanes = {
        str(entry["id"]): Lane(
            name=str(entry["id"]),
            connector=entry["type"] == "LANE_CONNECTOR",
            block=str(entry["roadblock_id"]),
            polygon=shapely.Polygon(entry["polygon"]),
            baseline=baseline(entry["baseline"]),
            outgoing=tuple(map(str, entry["outgoing"])),
            speed_limit_mps=entry["speed_limit_mps"],
        )
        for entry in chart["lanes"]
    }
    blocks = {
        str(entry["id"]): Block(
            name=str(entry["id"]),
            connector=entry["type"] == "ROADBLOCK_CONNECTOR",
            polygon=shapely.Polygon(entry["polygon"]),
            lanes=tuple(map(str, entry["lane_ids"])),
            incoming=tuple(map(str, entry["incoming"])),
            outgoing=tuple(map(str, entry["outgoing"])),
        )
        for entry in sorted(chart["roadblocks"], key=lambda entry: entry["type"] == "ROADBLOCK_CONNECTOR")
    }
    order = ("INTERSECTION", "CARPARK_AREA")
    grounds = sorted(
        (Area(name=str(entry["id"]), layer=entry["layer"], polygon=shapely.Polygon(entry["exterior"])) for entry in chart["areas"]),
        key=lambda area: order.index(area.layer),
    )
    return City(name="fixture", lanes=lanes, blocks=blocks, grounds=tuple(grounds))


@pytest.mark.parametrize("name", scene_names(FOLDER))
def test_fixture_gives_the_official_map_lanes_and_centreline(name):
    document = json.loads((FOLDER / "scenes" / f"{name}.json").read_text())
    with np.load(FOLDER / "arrays" / f"{name}.npz") as arrays:
        expected = arrays["centerline"]
    city, ego = city_of(document["map"]), np.zeros(11)
    ego[:3] = document["ego"]["pose"]
    areas = city.areas(*map(float, ego_centers(ego)))
    assert [(area.name, area.layer) for area in areas] == [(str(e["token"]), e["layer"]) for e in document["derived"]["drivable_map"]]
    blocks = route.corrected(city, list(map(str, document["route_roadblock_ids"])), ego[:3])
    lanes = route.lanes_of(city, blocks)
    assert list(lanes) == list(map(str, document["derived"]["route_lane_ids"]))
    start = route.starting_lane(city, lanes, [area.name for area in areas if area.baseline is not None], ego)
    path = route.lane_path(city, blocks, lanes, start)
    found = route.centerline(city.lanes[lane].baseline for lane in path)
    assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-12


def network(edges, place=lambda name: (0.0, 0.0), connectors=()):
    """A city of blocks with one lane each. edges: block -> next blocks; place: block -> south-west corner of its 20 m x 4 m."""
    names = sorted({*edges, *(end for ends in edges.values() for end in ends)}, key=lambda name: (name in connectors, name))
    blocks, lanes = {}, {}
    for name in names:
        x, y = place(name)
        polygon = shapely.box(x, y, x + 20, y + 4)
        ahead = tuple(edges.get(name, ()))
        lanes[f"l{name}"] = Lane(
            name=f"l{name}", connector=name in connectors, block=name, polygon=polygon, outgoing=tuple(f"l{end}" for end in ahead),
            baseline=baseline([(x, y + 2), (x + 20, y + 2)]),
        )  # fmt: skip
        blocks[name] = Block(
            name=name, connector=name in connectors, polygon=polygon, lanes=(f"l{name}",), outgoing=ahead,
            incoming=tuple(start for start, ends in edges.items() if name in ends),
        )  # fmt: skip
    return City(name="made up", lanes=lanes, blocks=blocks, grounds=())


def row(name):
    """Blocks a, b, c ... one behind the other; upper case ones are 40 m beside."""
    return 20.0 * (ord(name.lower()) - ord("a")), 40.0 if name.isupper() else 0.0


def at(name, heading=0.0):
    x, y = row(name)
    return np.array([x + 10.0, y + 2.0, heading])


CHAIN = {name: [following] for name, following in zip("abcdefg", "bcdefgh")}


def test_route_that_begins_where_the_ego_is_stays_as_it_is():
    assert route.corrected(network(CHAIN, row), list("bcd"), at("c")) == ("b", "c", "d")


def test_route_ahead_of_the_ego_is_reached_from_where_it_is():
    assert route.corrected(network(CHAIN, row), list("efg"), at("b")) == ("b", "c", "d", "e", "f", "g")


def test_ego_beside_the_route_joins_one_of_its_first_blocks():
    edges = {**CHAIN, "A": ["B"], "B": ["C"], "C": ["d"]}
    assert route.corrected(network(edges, row), list("bcdef"), at("A")) == ("A", "B", "C", "d", "e", "f")
    # the fourth block of the route is too late
    assert route.corrected(network(edges, row), list("abcdef"), at("A")) == ("a", "b", "c", "d", "e", "f")


def test_gaps_are_filled_where_the_map_connects_them():
    assert route.corrected(network(CHAIN, row), list("abfg"), at("a")) == ("a", "b", "c", "d", "e", "f", "g")
    broken = {**CHAIN, "c": []}
    assert route.corrected(network(broken, row), list("abfg"), at("a")) == ("a", "b", "f", "g")


def test_searches_end_at_their_depth():
    names = [chr(ord("a") + k) for k in range(26)]
    edges = dict(zip(names, ([name] for name in names[1:])))
    # 15 blocks backwards count the route's own; what begins further ahead is found by the search forwards, over 30
    assert route.corrected(network(edges, row), ["p", "q"], at("b")) == tuple("bcdefghijklmnopq")
    assert route.corrected(network(edges, row), ["z"], at("a")) == tuple(names)
    assert route._search(network(edges, row), "p", ["a"], 15, forward=False) is None
    assert route._search(network(edges, row), "o", ["a"], 15, forward=False) == list("abcdefghijklmno")


def test_route_is_cut_before_a_connector_that_crosses_an_earlier_one():
    def place(name):
        return row("b") if name == "f" else row(name)

    city = network(CHAIN, place, connectors="bdf")
    assert route.corrected(city, list("abcdefg"), at("a")) == ("a", "b", "c", "d", "e")


def test_heading_decides_between_lanes_on_top_of_each_other():
    city = network({"a": ["b"], "A": ["b"]}, lambda name: row(name.lower()))
    back = dataclasses.replace(city.lanes["lA"], baseline=baseline([(20, 2), (0, 2)]))
    city = dataclasses.replace(city, lanes={**city.lanes, "lA": back})
    lanes = route.lanes_of(city, ["a", "A"])
    for heading, expected in ((0.2, "la"), (np.pi - 0.2, "lA")):
        ego = np.zeros(11)
        ego[:3] = *at("a")[:2], heading
        assert route.starting_lane(city, lanes, lanes, ego).name == expected


def test_ego_off_every_lane_starts_from_the_closest():
    city, ego = network(CHAIN, row), np.zeros(11)
    ego[:3] = 50.0, -6.0, 0.0
    assert route.starting_lane(city, route.lanes_of(city, "abcd"), ["la", "lb", "lc", "ld"], ego).name == "lc"


def test_shorter_of_two_ways_is_the_centreline_and_a_dead_end_the_deepest():
    edges = {"a": ["b", "B"], "b": ["c"], "B": ["C"], "C": ["c"]}
    city = network(edges, row)
    lanes = route.lanes_of(city, ["a", "b", "B", "C", "c"])
    assert route.lane_path(city, ["a", "b", "B", "C", "c"], lanes, city.lanes["la"]) == ("la", "lb", "lc")
    city = network({"a": ["b", "B"], "B": ["C"]}, row)
    lanes = route.lanes_of(city, ["a", "b", "B", "C"])
    city = dataclasses.replace(city, blocks={**city.blocks, "z": dataclasses.replace(city.blocks["b"], name="z", lanes=())})
    assert route.lane_path(city, ["a", "b", "B", "C", "z"], lanes, city.lanes["la"]) == ("la", "lB", "lC")


def test_route_of_another_map_is_an_error():
    with pytest.raises(DataError, match="map made up has no roadblock zz; is the map of another version"):
        route.corrected(network(CHAIN, row), ["a", "zz"], at("a"))
    with pytest.raises(DataError, match="the route names no roadblock"):
        route.corrected(network(CHAIN, row), [], at("a"))
