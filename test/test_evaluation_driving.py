import numpy as np
import pytest

from spanvla_ros.evaluation.contact import overlap
from spanvla_ros.evaluation.driving import Judge, Thing, Truth

BOX = np.array([(2.5, 1.0), (-2.5, 1.0), (-2.5, -1.0), (2.5, -1.0)])


def thing(x, y=0.0, kind="vehicle", speed=0.0, yaw=0.0) -> Thing:
    return Thing(kind=kind, corners=BOX + [x, y], speed_mps=speed, yaw=yaw)


def instant(time_s: float, route_m: float, **changes) -> Truth:
    values = dict(
        time_s=time_s,
        pose=np.array([route_m, 0.0, 0.0]),
        speed_mps=5.0,
        acceleration_mps2=0.0,
        yaw_rate_rps=0.0,
        footprint=BOX + [route_m, 0],
        things={},
        route_m=route_m,
        route_length_m=100.0,
        off_route_m=0.0,
        line="",
        front_to_line_m=np.inf,
        lamp="",
        control=None,
        off_road=False,
        off_lane=False,
        traffic_speed_mps=None,
    )
    return Truth(**(values | changes))


def drive(*instants, family="lane") -> dict:
    judge = Judge(family, 1, 300.0)
    for now in instants:
        judge.watch(now)
    return judge.result()


def along(**changes) -> dict:
    """100 m at 10 m/s; values of `changes` may be functions of the metre."""
    rows = []
    for k in range(101):
        rows.append(instant(k * 0.1, float(k), **{name: value(k) if callable(value) else value for name, value in changes.items()}))
    return drive(*rows)


def kinds(result) -> list[str]:
    return [entry["type"] for entry in result["infractions"]]


def test_clean_drive_is_perfect():
    result = along()
    assert result["route_completion"] == 1.0 and result["driving_score_lb21"] == 100 == result["driving_score_lb20"]
    assert result["infractions"] == [] and result["ended"] == "completed" and result["success"] and result["neuroncap"] == 5.0


@pytest.mark.parametrize(("kind", "coefficient", "factor"), [("pedestrian", 1.0, 0.5), ("vehicle", 0.7, 0.6), ("static", 0.6, 0.65)])
def test_collisions_in_both_formulas(kind, coefficient, factor):
    result = along(things=lambda k: {"it": thing(30.0, 0.5, kind)} if k < 40 else {})
    (entry,) = result["infractions"]
    assert entry["type"] == f"collision_{kind}" and entry["actor"] == "it" and entry["time_s"] == pytest.approx(2.5)
    assert result["driving_score_lb21"] == pytest.approx(100 / (1 + coefficient), abs=0.01)
    assert result["driving_score_lb20"] == pytest.approx(100 * factor, abs=0.01)
    assert not result["success"] and result["at_fault"] == 1 and entry["at_fault"]


def test_several_infractions_add_in_21_and_multiply_in_20():
    result = along(things=lambda k: {"it": thing(30.0)} if k < 40 else {}, line="a", lamp="red", front_to_line_m=lambda k: 60.0 - k)
    assert kinds(result) == ["collision_vehicle", "red_light"]
    assert result["driving_score_lb21"] == pytest.approx(100 / (1 + 0.7 + 0.4), abs=0.01)
    assert result["driving_score_lb20"] == pytest.approx(100 * 0.6 * 0.7, abs=0.01)


@pytest.mark.parametrize(
    ("mine", "where", "speed", "at_fault"),
    [
        (0.0, (4.0, 0.0), -5.0, False),  # standing, hit head-on
        (5.0, (4.0, 0.0), -5.0, True),
        (5.0, (-4.5, 0.0), 9.0, False),  # struck from behind
        (5.0, (-4.5, 0.0), 3.0, True),  # a slower one behind: the ego swept into it
        (5.0, (0.0, 1.5), 9.0, True),  # side by side
    ],
)
def test_fault(mine, where, speed, at_fault):
    things = {"it": thing(*where, speed=speed)}
    result = drive(instant(0, 0, speed_mps=mine), instant(0.1, 0, speed_mps=mine, things=things))
    assert [entry["at_fault"] for entry in result["infractions"]] == [at_fault] and result["at_fault"] == at_fault


def test_neuroncap_counts_the_braking_before_the_impact():
    def crash(speeds, other=0.0):
        rows = [instant(0.5 * i, float(i), speed_mps=v) for i, v in enumerate(speeds[:-1])]
        it = {"it": thing(len(speeds) + 2.0, speed=other)}
        return drive(*rows, instant(0.5 * len(rows), float(len(rows)), speed_mps=speeds[-1], things=it), family="crash")["neuroncap"]

    assert crash([10.0, 10.0, 10.0]) == 0.0
    assert crash([10.0, 8.0, 5.0]) == pytest.approx(4 * (1 - 5 / 10))
    # an oncoming one keeps its own share of the impact
    assert crash([10.0, 8.0, 5.0], other=-10.0) == pytest.approx(4 * (1 - 15 / 20))
    # what happened more than 5 s ago is no reaction to this
    assert crash([20.0] + [5.0] * 14) == 0.0


def test_red_light_needs_a_crossing():
    for lamp, found in (("red", ["red_light"]), ("green", []), ("yellow", []), ("", [])):
        assert kinds(along(line="a", lamp=lamp, front_to_line_m=lambda k: 50.0 - k)) == found
    assert kinds(along(line="a", lamp="red", front_to_line_m=lambda k: 150.0 - k)) == []
    # an episode that begins inside a junction has crossed nothing
    assert kinds(along(line="a", lamp="red", front_to_line_m=lambda k: -1.0 - k)) == []


def test_lines_are_told_apart_by_name():
    """Two junctions so close that the second line is first seen behind the bumper."""
    result = along(line=lambda k: "a" if k < 50 else "b", lamp="red", front_to_line_m=lambda k: 40.0 - k if k < 50 else 48.0 - k)
    assert [(e["type"], e["line"]) for e in result["infractions"]] == [("red_light", "a"), ("red_light", "b")]
    again = along(line="a", lamp="red", front_to_line_m=lambda k: 20.0 - k if k < 40 else 60.0 - k)  # round the block
    assert kinds(again) == ["red_light", "red_light"]


def test_stop_sign_wants_a_standstill_before_the_line():
    sign = dict(line="a", control="stop", front_to_line_m=lambda k: 50.0 - k)
    assert kinds(along(**sign)) == ["stop_sign"]
    assert kinds(along(**sign, speed_mps=lambda k: 0.0 if k == 48 else 5.0)) == []
    assert kinds(along(**sign, speed_mps=lambda k: 0.0 if k == 40 else 5.0)) == ["stop_sign"]  # ten metres too early
    assert kinds(along(**{**sign, "control": "yield"})) == []
    assert along(**sign)["driving_score_lb21"] == pytest.approx(100 / 1.25, abs=0.01)


def test_distance_off_the_lanes_lowers_the_score_once():
    result = along(off_lane=lambda k: 40 <= k < 60)
    assert result["route_completion"] == 1.0 and result["outside_share"] == pytest.approx(0.2, abs=0.015)
    assert result["driving_score_lb21"] == result["driving_score_lb20"] == pytest.approx(80, abs=1.5)
    (entry,) = result["infractions"]
    assert entry["type"] == "outside_route_lanes" and entry["length_m"] == pytest.approx(20.0, abs=1.1)


def test_a_start_off_the_lanes_is_no_fault_of_the_driver():
    back = along(off_lane=lambda k: k < 20 or 60 <= k < 70, off_road=lambda k: k < 5)
    assert [(e["type"], e["time_s"]) for e in back["infractions"]] == [("outside_route_lanes", 6.0)] and back["outside_share"] == pytest.approx(
        0.1, abs=0.015
    )
    stays = along(off_lane=True)
    assert stays["infractions"][0]["time_s"] == 5.0 and stays["outside_share"] == pytest.approx(0.5, abs=0.02)


def test_ends():
    assert drive(instant(0, 0), instant(1, 1, off_route_m=31.0))["ended"] == "route_deviation"
    still = drive(*(instant(k * 1.0, 5.0, speed_mps=0.0) for k in range(70)))
    assert still["ended"] == "blocked" and still["infractions"][-1]["time_s"] == 61.0
    late = drive(*(instant(k * 10.0, k * 0.1) for k in range(40)))
    assert late["ended"] == "scenario_timeout" and late["route_completion"] < 0.05
    assert late["driving_score_lb21"] == pytest.approx(100 * late["route_completion"] / 1.4, abs=0.01)


def test_a_standstill_that_is_wanted_is_the_whole_route():
    held = drive(*(instant(k * 0.5, min(k, 60.0), goal="standstill", held_s=max(0.0, 0.5 * k - 40)) for k in range(100)))
    assert held["ended"] == "completed" and held["route_completion"] == 1.0 and held["success"] and held["driving_score_lb21"] == 100
    passed = drive(*(instant(k * 0.1, float(k), goal="standstill") for k in range(101)))
    assert passed["ended"] == "stopped" and passed["route_completion"] < 1 and not passed["success"]


def pace(traffic, **changes):
    """40 s at 5 m/s on a long road beside traffic."""
    rows = []
    for k in range(401):
        values = {name: value(k) if callable(value) else value for name, value in changes.items()}
        rows.append(instant(k * 0.1, 0.5 * k, route_length_m=200.0, traffic_speed_mps=traffic, **values))
    return drive(*rows)


def test_min_speed_of_both_versions_and_efficiency():
    result = pace(10.0)
    assert result["efficiency"] == 50.0 and kinds(result) == ["min_speed"] and result["success"]
    assert result["driving_score_lb21"] == pytest.approx(100 / (1 + 0.4 * 0.5), abs=0.01)
    assert result["driving_score_lb20"] == pytest.approx(100 * (1 - 0.3 * 0.5), abs=0.01)
    fast = pace(4.0)
    assert fast["efficiency"] == 125.0 and fast["infractions"] == []
    assert pace(None)["efficiency"] is None


@pytest.mark.parametrize(
    "why",
    [
        {"line": "a", "lamp": "red", "front_to_line_m": 40.0},
        {"line": "a", "lamp": "green", "front_to_line_m": 10.0},
        {"things": lambda k: {"lead": thing(0.5 * k + 15.0)}},
        {"goal": "standstill", "held_s": 1.0},
    ],
)
def test_who_is_hindered_is_not_slow(why):
    assert pace(10.0, **why)["efficiency"] is None


def test_who_was_hindered_gets_time_to_go():
    def lamp(k):
        return {"line": "a", "lamp": "red" if k < 100 else "green", "front_to_line_m": 40.0}

    def slow(k):  # 2 m/s until 4 s after the lamp turned green
        return 2.0 if k < 140 else 10.0

    found = pace(10.0, speed_mps=slow, **{name: lambda k, name=name: lamp(k)[name] for name in ("line", "lamp", "front_to_line_m")})
    assert found["efficiency"] == pytest.approx(100, abs=0.5)


def test_a_thing_beside_the_lane_hinders_nobody():
    assert pace(10.0, things=lambda k: {"parked": thing(0.5 * k + 15.0, 3.5)})["efficiency"] == 50.0


def test_smoothness_is_the_share_of_comfortable_segments():
    def brake(k):  # 7 m/s2 for two of ten seconds
        return -7.0 if 40 <= k < 60 else 0.0

    assert along()["smoothness"] == 1.0
    assert along(acceleration_mps2=brake)["smoothness"] == pytest.approx(0.8)
    assert along(yaw_rate_rps=lambda k: 0.2, speed_mps=40.0)["smoothness"] == 0.0  # 8 m/s2 to the side
    assert drive(instant(0, 0), instant(0.1, 1))["smoothness"] is None


def test_overlap_needs_both_sets_of_axes():
    turned = BOX @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    assert overlap(BOX, turned) and overlap(BOX, turned + [3.5, 3.2])
    # only an axis of the turned box separates these
    assert not overlap(BOX, turned + [3.7, 3.3])
    assert overlap(BOX, BOX + [4.9, 1.9]) and not overlap(BOX, BOX + [5.1, 0])
