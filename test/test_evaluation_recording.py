import bags
import numpy as np
import pytest
from helpers import S, demo_spec

from spanvla_ros.contracts import NotReady, Plan
from spanvla_ros.evaluation.recording import Recording
from spanvla_ros.planning.messages import OdometrySample

FIRST = 5000 * S
RESULT = {"family": "lane", "seed": 1, "first_stamp_ns": FIRST, "last_stamp_ns": FIRST + 4 * S}


def plan_info(t0_ns, waypoints):
    return {
        "event": "plan",
        "t0_ns": t0_ns,
        "stamp_ns": t0_ns,
        "state": "NOMINAL",
        "waypoints_base": waypoints,
        "pose_odom": [0.0, 0.0, np.pi / 2],
        "speed_mps": 5.0,
        "reasoning": "the road is free.",
        "command": "left",
    }


def recording():
    """4 s at 10 Hz, a plan every 0.1 s from 1.5 s on, HOLD for the last heartbeats; then a second drive."""
    made = Recording()
    for k in range(201):
        made.odometry.append(OdometrySample(FIRST + k * S // 50, np.array([k / 10, 0.0, 0.0]), 5.0, 0.0))
    for k in range(41):
        stamp = FIRST + k * S // 10
        made.images[stamp] = bags.jpeg(60)
        if k >= 15:
            made.infos.append((100 + k / 10, plan_info(stamp, [[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])))
        state = "WAITING" if k < 15 else "NOMINAL" if k < 35 else "HOLD"
        made.infos.append((100 + k / 10, {"event": "heartbeat", "state": state, "stamp_ns": stamp if k >= 15 else None}))
    made.odometry.append(OdometrySample(FIRST + 1000 * S, np.array([99.0, 0.0, 0.0]), 9.0, 0.0))
    made.infos.append((200.0, plan_info(FIRST + 1000 * S, [[9.0, 9.0, 0.0]])))
    return made


def test_a_drive_is_cut_out_by_its_stamps():
    drive = recording().drive(RESULT, np.empty((0, 2)), moments=3)
    assert len(drive.times_s) == 201 and drive.times_s[-1] == 4.0 and drive.speeds_mps.max() == 5.0
    # 2.5 s of plans, one per second; base_link looks along +y of the odometry frame
    assert len(drive.plans) == 3
    np.testing.assert_allclose(drive.plans[0], [[0, 0], [0, 1], [-1, 2]], atol=1e-9)
    assert [m.time_s for m in drive.moments] == [1.5, pytest.approx(2.7, abs=0.11), 4.0]
    assert drive.states == [(1.5, "NOMINAL"), (3.5, "HOLD")]


def test_shares_count_heartbeats_from_first_to_last_plan():
    share = recording().state_share([RESULT])
    assert share == {"NOMINAL": pytest.approx(20 / 26), "HOLD": pytest.approx(6 / 26)}


class Eye:
    """Plans straight on, and to the side as far as the picture is bright."""

    spec = demo_spec()

    def plan(self, observation):
        shade = observation.images["front"][-1].rgb.mean()
        waypoints = np.column_stack([np.arange(1.0, 11.0), np.full(10, shade / 20), np.zeros(10)])
        return Plan(
            t0_ns=observation.t0_ns,
            waypoints_base=waypoints,
            waypoint_interval_s=0.5,
            pose_odom=observation.pose_odom,
            speed_mps=5.0,
            reasoning="",
            tokens=1,
            seed=0,
            engine_hash="",
        )


def test_black_images_change_what_a_seeing_planner_plans():
    made = recording()
    infos = made.plans(FIRST, FIRST + 4 * S)[:3]
    infos[0]["waypoints_base"] = Eye().plan(made.observation(infos[0], Eye())).waypoints_base.tolist()
    change = made.black_image_change(Eye(), infos)
    assert change == {"n": 3, "mean_m": pytest.approx(3.0, abs=0.01), "max_m": pytest.approx(3.0, abs=0.01), "identical": 1}
    assert made.black_image_change(Eye(), [])["n"] == 0


def test_an_observation_is_formed_from_what_was_heard_around_it():
    made, eye = recording(), Eye()
    observation = made.observation(made.plans()[0], eye)
    assert observation.command.value == "left"
    assert [image.stamp_ns for image in observation.images["front"]] == [FIRST + S, FIRST + 3 * S // 2]
    with pytest.raises(NotReady):
        made.observation(plan_info(FIRST + S, []), eye)


def test_a_plan_whose_inputs_were_not_heard_is_left_out_of_the_black_image_check():
    class Deaf(Recording):
        def observation(self, info, planner):
            raise NotReady("ODOMETRY_MISSING", "no odometry yet")

    assert Deaf().black_image_change(planner=None, infos=[{"t0_ns": 5}])["n"] == 0
