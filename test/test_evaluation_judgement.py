import dataclasses

import numpy as np
import pytest
from helpers import S

pytest.importorskip("scipy", reason="scipy is not installed")

from spanvla_ros.contracts import Plan  # noqa: E402
from spanvla_ros.evaluation.comparison import compare  # noqa: E402
from spanvla_ros.evaluation.judgement import FIGURES, figures, judge  # noqa: E402
from spanvla_ros.evaluation.supervision import Attempt, Supervision, recorded, simulated  # noqa: E402
from spanvla_ros.planning import supervisor, validity  # noqa: E402
from spanvla_ros.planning.messages import OdometrySample  # noqa: E402

T0 = 1_700_000_000 * S
TIMES = 0.5 * np.arange(1, 11)
NOTHING = Supervision(beats=(), plans=0, deadline_misses=0, source="recorded")
FREE = "The road is clear, I keep my speed."


def plan(at_s=0.0, speed=10.0, accel=0.0, offset_m=0.0, text="", took_ms=50.0):
    """A plan of a car on the x axis that begins at 10 m/s * at_s, shifted sideways from its first waypoint on."""
    waypoints = np.column_stack([speed * TIMES + accel * TIMES**2 / 2, np.full(10, offset_m), np.zeros(10)])
    return Plan(
        t0_ns=T0 + round(at_s * S), waypoints_base=waypoints, waypoint_interval_s=0.5, pose_odom=np.array([10.0 * at_s, 0.0, 0.0]), speed_mps=speed,
        reasoning=text, tokens=1, seed=0, engine_hash="e", timings_ms={"total": took_ms},
    )  # fmt: skip


def judged(*plans):
    return judge(plans, [plan().waypoints_base] * len(plans), validity.Limits())


def row(of, before=None):
    return judged(*([before] if before else []), of)[-1]


def test_a_steady_plan_is_right_comfortable_and_allowed():
    found = row(plan())
    assert found["comfortable"] and found["broken"] == [] and found["verdict"] is None and found["jump_m"] is None
    assert {h: pair[0] for h, pair in found["ade_m"].items()} == {h: pytest.approx(0, abs=1e-9) for h in ("1", "2", "3", "5")}


def test_harsh_braking_is_no_comfort_and_more_of_it_breaks_a_limit():
    assert not row(plan(accel=-4.8, speed=30.0))["comfortable"]
    assert row(plan(accel=-2.0, speed=30.0))["comfortable"]
    assert row(plan(accel=-12.0, speed=39.0))["broken"][-1].startswith("deceleration")


def test_a_text_that_says_stop_beside_a_plan_that_speeds_up_is_a_contradiction():
    assert row(plan(accel=2.0, text="A red light is ahead, I stop at the line."))["verdict"] == "contradicts"
    assert row(plan(text=FREE))["verdict"] != "contradicts"


def test_a_jump_is_measured_at_the_same_instants():
    assert row(plan(0.1), plan(0.0))["jump_m"] == pytest.approx(0, abs=0.02)
    assert row(plan(0.1, offset_m=1.5), plan(0.0))["jump_m"] == pytest.approx(1.5, abs=0.1)
    assert row(plan(4.0), plan(0.0))["jump_m"] is None


def test_figures_have_every_name_and_count_what_they_say():
    rows = judged(*(plan(0.1 * k, took_ms=10.0 * (k + 1), offset_m=0.3) for k in range(10)), plan(1.0, accel=8.0))
    beats = [(0, "WAITING", "HISTORY_SHORT")] * 4 + [(0, "NOMINAL", "OK")] * 3 + [(0, "HOLD", "IMAGE_STALE")]
    found = figures(
        rows,
        {"HISTORY_SHORT": 15, "ODOMETRY_INVALID": 3, "IMAGE_MISSING": 1},
        dataclasses.replace(NOTHING, beats=tuple(beats), plans=8, deadline_misses=2),
    )
    assert found.keys() == FIGURES.keys()
    assert found["plans"] == 11 and found["refused_share"] == 1 / 12 and found["invalid_share"] == 1 / 11
    assert found["nominal_share"] == 0.75 and found["hold_share"] == 0.25 and found["stopped_share"] == 0.0
    assert found["deadline_miss_share"] == 0.25 and found["latency_max_ms"] == 100.0 and found["contradiction_share"] is None
    nothing = figures([], {}, NOTHING)
    assert nothing["plans"] == 0 and {value for name, value in nothing.items() if name != "plans"} == {None}


def drive(seconds=4.0, images_until_s=4.0, **plans):
    """Attempts, image stamps and odometry of a car on the x axis, 10 Hz pictures, 50 Hz odometry."""
    stamps = [T0 + k * S // 10 for k in range(round(10 * images_until_s) + 1)]
    attempts = [Attempt(anchor_ns=t, took_ms=plans.get("took_ms", 50.0), plan=plan((t - T0) / S)) for t in stamps]
    odometry = [OdometrySample(T0 + k * S // 50, np.array([10.0 * k / 50, 0, 0]), 10.0, 0.0) for k in range(round(50 * seconds) + 1)]
    return attempts, {"front": stamps}, odometry


def test_a_drive_without_faults_is_nominal_from_the_first_plan_on():
    found = simulated(*drive(), supervisor.Limits())
    assert found.shares() == {"NOMINAL": 1.0} and found.deadline_misses == 0 and found.plans == 41
    assert found.beats[0][1] == "WAITING" and [beat[1] for beat in found.changes()] == ["WAITING", "NOMINAL"]


def test_pictures_that_end_are_held_then_stopped_for():
    attempts, images, odometry = drive(8.0, 2.0)
    images["rear"] = [T0 + k * S // 10 for k in range(81)]
    found = simulated(attempts, images, odometry, supervisor.Limits())
    states = [state for _, state, _ in found.changes()]
    assert states[:2] == ["WAITING", "NOMINAL"] and {"HOLD", "STOPPING"} <= set(states)
    assert all(reason == "IMAGE_STALE" for _, state, reason in found.beats if state == "HOLD")


def test_slow_plans_miss_the_deadline_and_make_older_pictures_obsolete():
    found = simulated(*drive(took_ms=900.0), supervisor.Limits())
    # one plan every 0.9 s, of the newest picture each time; after the last picture nobody waits any more
    assert found.plans == 6 and found.deadline_misses == 5
    assert {reason for _, state, reason in found.beats if state == "HOLD"} == {"DEADLINE_MISSED"}


def test_a_plan_that_may_not_be_driven_is_held_over():
    attempts, images, odometry = drive()
    attempts[20:] = [dataclasses.replace(a, plan=None, reason="PLAN_INVALID") for a in attempts[20:]]
    found = simulated(attempts, images, odometry, supervisor.Limits())
    assert found.plans == 41 and found.beats[-1][2] == "PLAN_INVALID" and found.shares()["NOMINAL"] < 0.6


def test_what_the_car_told_is_counted():
    def said(event, state="NOMINAL", reason="OK", **more):
        return {"event": event, "state": state, "reason": reason, **more}

    late = {"timings_ms": {"total": 700.0}}
    infos = [said("heartbeat", "WAITING", "NO_PLAN_YET"), said("plan", anchor_ns=1, timings_ms={"total": 80.0}), said("heartbeat")]
    infos += [said("heartbeat", "HOLD", "DEADLINE_MISSED")] * 2 + [
        said("plan", anchor_ns=2, **late),
        said("heartbeat"),
        said("rejected", anchor_ns=3),
    ]
    # the same picture planned for again, from newer odometry, is no further plan
    found = recorded([(T0 + k, info) for k, info in enumerate([*infos, said("plan", anchor_ns=2, timings_ms={"total": 9.0})])], 0.5)
    assert found.plans == 2 and found.deadline_misses == 1 and found.shares() == {"NOMINAL": 0.5, "HOLD": 0.5}


def results(offset_m, count=100, bag="drive"):
    rows = judged(*(plan(0.1 * k, offset_m=offset_m + 0.1 * (k % 7)) for k in range(count)))
    return {"bag": bag, "rows": rows, "figures": figures(rows, {}, NOTHING)}


def test_a_comparison_is_paired_and_sees_what_is_surely_better():
    first = results(0.5)
    found = compare(first, results(0.2))
    assert found["common"] == 100 and found["identical"] == 0
    entry = found["ade_m"]["3"]
    assert entry["mean"] == pytest.approx(-0.3, abs=1e-6) and entry["low"] <= entry["mean"] <= entry["high"] < 0 and entry["pieces"] == 5
    same = compare(first, first)
    assert same["identical"] == 100 and same["ade_m"]["3"]["mean"] == 0
