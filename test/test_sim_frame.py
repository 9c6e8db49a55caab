import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

shapely = pytest.importorskip("shapely", reason="needs the extra [sim]")
pytest.importorskip("sumolib", reason="needs the extra [sim]")

from spanvla_ros.contracts import VEHICLE, DataError
from spanvla_ros.evaluation.pdm.areas import locate
from spanvla_ros.evaluation.pdm.scorer import score
from spanvla_ros.sim import chart as charts
from spanvla_ros.sim import frame as frames_of
from spanvla_ros.sim.chart import Chart, Guide
from spanvla_ros.sim.frame import Frame, Object, driven, from_document, scene, to_document

HALF = 1.6
GAP = 0.1  # between lanes and junction, as nets have them


def lane(name, edge, x, y, junction=None, signal=None):
    baseline = np.array([(x[0], y), (x[1], y)], float)
    polygon = shapely.box(x[0], y - HALF, x[1], y + HALF)
    return SimpleNamespace(name=name, edge=edge, polygon=polygon, baseline=baseline, speed_mps=8.33, junction=junction, signal=signal)


def road():
    """A road along x with an opposite lane; a junction from x = 50 to 70, whose cross traffic has a connector too."""
    lanes = [
        lane("in_0", "in", (-150, 50 - GAP), 0.0),
        lane("out_0", "out", (70 + GAP, 250), 0.0),
        lane("back_0", "back", (-150, 50 - GAP), 2 * HALF + GAP),
        lane(":J_0_0", ":J_0", (50, 70), 0.0, "J", ("J", 0)),
        lane(":J_1_0", ":J_1", (50, 70), 3.0, "J", ("J", 1)),
    ]
    return SimpleNamespace(map_id="toy-0", lanes={each.name: each for each in lanes}, junctions={"J": shapely.box(50, -10, 70, 10)})


CHART = charts._chart(road())
X = np.arange(-150.0, 250.0, 1.0)
GUIDE = Guide(line=np.column_stack([X, 0 * X, 0 * X]), spans=((0, 200, "in_0"), (200, 220, ":J_0_0"), (220, 400, "out_0")))


def ego(x, speed=8.0, y=0.0):
    return np.array([x, y, 0, speed, 0, 0, 0, 0, 0, 0, 0], float)


def car(name, x, y=0.0, speed=0.0, kind="VEHICLE"):
    return Object(name=name, type=kind, x=x, y=y, yaw=0.0, length_m=4.5, width_m=1.85, vx=speed, vy=0.0)


def run(count=80, speed=8.0, start=0.0, things=lambda k: (), red=lambda k: (), y=0.0):
    return [
        Frame(stamp_ns=k * 100_000_000, ego=ego(start + 0.1 * k * speed, speed, y), objects=tuple(things(k)), red=tuple(red(k)))
        for k in range(count)
    ]


def scores(frames, index=20, version="v2"):
    made = scene(CHART, GUIDE, frames, index, driven(frames, index))
    return {k: float(v[0]) for k, v in score(made, made.human[None], version).values.items()}, made


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_driving_straight_over_every_seam_is_perfect(version):
    for start in np.arange(-60.0, 60.0, 3.7):
        values, made = scores(run(start=start), version=version)
        assert min(values.values()) > 0.97, (start, values)
    assert made.history.shape == (14, 11) and made.history[-1, 0] == pytest.approx(made.ego[0] - 0.8)


def test_small_gaps_are_closed_only_for_the_drivable_area():
    places = np.column_stack([np.linspace(30, 90, 601), np.zeros(601), np.zeros(601)])[None]
    frames = run()
    where = locate(scene(CHART, GUIDE, frames, 20), places)
    assert not where.non_drivable.any()
    off = places + [0, -HALF + VEHICLE.width_m / 2 - 0.3, 0]
    assert locate(scene(CHART, GUIDE, frames, 20), off).non_drivable.any()


def test_the_opposite_lane_is_not_on_the_route_and_neither_is_cross_traffic():
    made = scene(CHART, GUIDE, run(), 20)
    assert made.route_lanes == {"in_0", ":J_0_0", "out_0"}
    values, _ = scores(run(y=2 * HALF + GAP, start=-80.0))
    assert values["ddc"] == 0.0 and values["dac"] == 1.0


def test_only_the_lamp_of_the_route_counts_and_only_while_it_is_red():
    values, _ = scores(run(start=20.0, red=lambda k: (":J_1_0",)))
    assert values["tlc"] == 1.0
    values, _ = scores(run(start=20.0, red=lambda k: (":J_0_0",)))
    assert values["tlc"] == 0.0
    values, _ = scores(run(start=0.0, red=lambda k: (":J_0_0",) if k < 30 else ()))
    assert values["tlc"] == 1.0


def test_a_standing_car_is_hit_and_a_late_one_is_seen_when_it_appears():
    values, _ = scores(run(start=-80.0, things=lambda k: [car("a", -30.0)]))
    assert values["nc"] == 0.0
    values, made = scores(run(start=-80.0, things=lambda k: [car("a", -30.0)] if k > 66 else [car("b", 0.0, 40.0)]))
    assert values["nc"] == 1.0 and made.traffic["v1"].tokens == ("b", "a") and made.traffic["v2"].tokens == ("b",)


def test_what_is_out_of_sight_for_a_moment_is_filled_in():
    hidden = range(30, 36)
    made = scene(CHART, GUIDE, run(things=lambda k: [] if k in hidden else [car("a", 60 + 0.5 * k, 3.0, 5.0, "BICYCLE")]), 20)
    track = made.traffic["v2"].frames[0]
    np.testing.assert_allclose(np.diff(track[:, 0]), 0.5)


def test_an_index_without_five_seconds_behind_it_is_refused():
    frames = run(60)
    scene(CHART, GUIDE, frames, 9)
    with pytest.raises(DataError, match="50 frames"):
        scene(CHART, GUIDE, frames, 10)
    with pytest.raises(DataError, match="wanted are 4 s"):
        driven(frames, 30)
    assert scene(CHART, GUIDE, frames, 5).history is None


def test_a_route_that_crosses_itself_shows_only_the_stretch_near_by():
    angle = np.arange(0, 4 * np.pi, 1 / 30.0)
    circle = np.column_stack([30 * np.cos(angle), 30 * np.sin(angle), angle + np.pi / 2])
    line, _ = Guide(line=circle, spans=()).around(30.0, 0.0)
    assert len(line) < len(circle) / 2


def test_documents_round_trip_through_json():
    frames = run(things=lambda k: [car("a", 60 + 0.5 * k, 3.0, 5.0)], red=lambda k: (":J_0_0",))
    again = from_document(json.loads(json.dumps(to_document(frames))))
    again_chart = Chart.from_document(json.loads(json.dumps(CHART.document())))
    again_guide = Guide.from_document(json.loads(json.dumps(GUIDE.document())))
    one, two = scene(CHART, GUIDE, frames, 20), scene(again_chart, again_guide, again, 20)
    assert [(a.name, a.layer) for a in one.areas] == [(a.name, a.layer) for a in two.areas]
    assert all(a.polygon.symmetric_difference(b.polygon).area < 0.5 for a, b in zip(one.areas, two.areas))
    np.testing.assert_allclose(one.traffic["v1"].frames, two.traffic["v1"].frames, atol=1e-3)
    assert one.red_lights == two.red_lights and one.route_lanes == two.route_lanes
    with pytest.raises(DataError, match="damaged"):
        from_document({"frames": [{}], "objects": {}})


def test_take_reads_a_simulation():
    from spanvla_ros.sim.actor import Actor
    from spanvla_ros.sim.ego import EgoState

    size = dict(length_m=0.5, width_m=0.6, height_m=1.7)
    simulation = SimpleNamespace(
        ego=EgoState(x=10.0, y=0.0, yaw=0.1, speed_mps=5.0, acceleration_mps2=-1.0, steer_rad=0.05),
        actors=(
            Actor(name="p", kind="pedestrian", x=20.0, y=3.0, yaw=np.pi / 2, speed_mps=1.5, **size),
            Actor(name="far", kind="pedestrian", x=220.0, y=3.0, yaw=0.0, speed_mps=1.5, **size),
        ),
        signals=SimpleNamespace(state=lambda signal: "red" if signal == ("J", 1) else "green"),
        road=road(),
        stamp_ns=500,
    )
    frame = frames_of.take(simulation)
    assert [o.name for o in frame.objects] == ["p"] and frame.red == (":J_1_0",)
    assert (frame.objects[0].type, frame.objects[0].vy) == ("PEDESTRIAN", pytest.approx(1.5))
    assert frame.ego[9] == pytest.approx(5 * np.tan(0.05) / VEHICLE.wheel_base_m) and frame.ego[6] == pytest.approx(5 * frame.ego[9])


def test_broken_polygons_become_valid_areas():
    broken = road()
    bow = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    broken.lanes["in_0"] = SimpleNamespace(**{**vars(broken.lanes["in_0"]), "polygon": bow})
    chart = charts._chart(broken)
    assert all(area.polygon.is_valid for area in chart.areas)
    Chart.from_document(chart.document())
    assert dataclasses.is_dataclass(chart)


def test_what_the_ego_touches():
    ahead = 4.049 + 4.5 / 2  # bumper to bumper
    frame = Frame(stamp_ns=0, ego=ego(0.0), objects=(car("near", ahead - 0.1), car("far", ahead + 0.1), car("beside", 2.0, 3.0)), red=())
    assert frames_of.touching(frame) == ("near",)
    assert frames_of.touching(Frame(stamp_ns=0, ego=ego(0.0), objects=(), red=())) == ()
