from types import SimpleNamespace

import numpy as np
import pytest

from spanvla_ros.evaluation.driving import Judge, overlap, summarize

BOX = np.array([(2.5, 1.0), (-2.5, 1.0), (-2.5, -1.0), (2.5, -1.0)])


def instant(time_s: float, route_m: float, **changes) -> SimpleNamespace:
    values = {
        "time_s": time_s,
        "pose": np.array([route_m, 0.0, 0.0]),
        "speed_mps": 5.0,
        "footprint": BOX + [route_m, 0],
        "boxes": {},
        "route_m": route_m,
        "route_length_m": 100.0,
        "off_route_m": 0.0,
        "front_to_line_m": 1000.0,
        "lamp": "green",
        "off_road": False,
        "off_lane": False,
    }
    return SimpleNamespace(**(values | changes))


def drive(*instants) -> dict:
    judge = Judge("lane", 1, 300.0)
    for now in instants:
        judge.watch(now)
    return judge.result()


def test_clean_drive_is_perfect():
    result = drive(*(instant(k * 0.1, k * 1.0) for k in range(101)))
    assert result["route_completion"] == 1.0 and result["driving_score_lb21"] == 100 == result["driving_score_lb20"]
    assert result["infractions"] == [] and result["ended"] == "completed"


def test_collision_and_red_light_in_both_formulas():
    rows = []
    for k in range(101):
        changes = {"boxes": {"npc": BOX + [30.0, 0.5]}} if k < 40 else {"front_to_line_m": 60.0 - k, "lamp": "red"}
        rows.append(instant(k * 0.1, float(k), **changes))
    result = drive(*rows)
    assert [entry["type"] for entry in result["infractions"]] == ["collision_vehicle", "red_light"]
    assert result["infractions"][0]["actor"] == "npc" and result["infractions"][0]["time_s"] == pytest.approx(2.5)
    assert result["driving_score_lb21"] == pytest.approx(100 / (1 + 0.7 + 0.4), abs=0.01)
    assert result["driving_score_lb20"] == pytest.approx(100 * 0.6 * 0.7, abs=0.01)


def test_green_and_yellow_may_be_passed():
    for lamp in ("green", "yellow"):
        rows = [instant(k * 0.1, float(k), front_to_line_m=50.0 - k, lamp=lamp) for k in range(101)]
        assert drive(*rows)["infractions"] == []


def test_progress_off_the_lanes_does_not_count():
    result = drive(*(instant(k * 0.1, float(k), off_lane=40 <= k < 60) for k in range(101)))
    assert result["route_completion"] == pytest.approx(0.8, abs=0.015)
    assert result["outside_share"] == pytest.approx(0.2, abs=0.015)
    assert result["driving_score_lb21"] == pytest.approx(100 * 0.8 * 0.8, abs=2)
    (entry,) = result["infractions"]
    assert entry["type"] == "outside_route_lanes" and entry["length_m"] == pytest.approx(20.0, abs=1.1)


def test_ends():
    assert drive(instant(0, 0), instant(1, 1, off_route_m=31.0))["ended"] == "route_deviation"
    still = drive(*(instant(k * 1.0, 5.0, speed_mps=0.0) for k in range(70)))
    assert still["ended"] == "blocked" and still["infractions"][-1]["time_s"] == 61.0
    late = drive(*(instant(k * 10.0, k * 0.1) for k in range(40)))
    assert late["ended"] == "timeout" and late["route_completion"] < 0.05


def test_overlap_needs_both_sets_of_axes():
    turned = BOX @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    assert overlap(BOX, turned) and overlap(BOX, turned + [3.5, 3.2])
    # only an axis of the turned box separates these
    assert not overlap(BOX, turned + [3.7, 3.3])
    assert overlap(BOX, BOX + [4.9, 1.9]) and not overlap(BOX, BOX + [5.1, 0])


def test_summary_keeps_families_apart():
    rows = [drive(*(instant(k * 0.1, k * 1.0) for k in range(101))), drive(instant(0, 0), instant(1, 50))]
    rows[1]["family"] = "red"
    summary = summarize(rows)
    assert summary["all"]["route_completion"] == pytest.approx(0.75)
    assert list(summary["families"]) == ["lane", "red"] and summary["families"]["red"]["route_completion"] == 0.5
