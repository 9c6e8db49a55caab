import dataclasses

import numpy as np
import pytest

from spanvla_ros.contracts import VEHICLE, Trajectory
from spanvla_ros.geometry import constant_turn, to_local
from spanvla_ros.sim import ego as bicycle
from spanvla_ros.sim import tracker
from spanvla_ros.sim.ego import STEP_S, EgoState

STEP_NS = round(STEP_S * 1e9)


def trajectory(speeds: np.ndarray, yaw_rate: float = 0.0, step: float = 0.1) -> Trajectory:
    times = np.arange(len(speeds)) * step
    distance = np.r_[0, np.cumsum((speeds[1:] + speeds[:-1]) / 2 * step)]
    curvature = yaw_rate / max(speeds[0], 1e-6)
    poses = np.array([constant_turn(1.0, curvature, np.array([d]))[0] for d in distance])
    return Trajectory(
        stamp_ns=0, times_s=times, poses_odom=poses, speeds_mps=speeds, accelerations_mps2=np.gradient(speeds, times), yaw_rates_rps=curvature * speeds
    )


def follow(state: EgoState, plan: Trajectory | None, seconds: float) -> list[EgoState]:
    states = [state]
    for k in range(round(seconds / STEP_S)):
        states.append(bicycle.advance(states[-1], *tracker.control(states[-1], plan, k * STEP_NS)))
    return states


def test_bicycle_drives_the_circle_of_its_steering_angle():
    steer = 0.2
    state = EgoState(x=0, y=0, yaw=0, speed_mps=5.0, steer_rad=steer)
    radius = VEHICLE.wheel_base_m / np.tan(steer)
    for _ in range(100):
        state = bicycle.advance(state, 0.0, steer)
        assert np.hypot(state.x, state.y - radius) == pytest.approx(radius, abs=0.01)


def test_bicycle_limits_steering_rate_and_never_reverses():
    state = EgoState(x=0, y=0, yaw=0, speed_mps=0.2)
    state = bicycle.advance(state, -20.0, 1.0)
    assert state.steer_rad == pytest.approx(bicycle.MAX_STEER_RATE_RPS * STEP_S)
    for _ in range(40):
        state = bicycle.advance(state, -20.0, 1.0)
    assert state.speed_mps == 0.0 and state.acceleration_mps2 == 0.0


@pytest.mark.parametrize("yaw_rate", [0.0, 0.25])
def test_tracker_follows_speed_and_arc(yaw_rate):
    plan = trajectory(np.full(51, 7.0), yaw_rate)
    steer = np.arctan(VEHICLE.wheel_base_m * yaw_rate / 7.0)
    states = follow(EgoState(x=0, y=0.4, yaw=0, speed_mps=6.0, steer_rad=steer), plan, 4.5)
    reference = plan.poses_odom[45]
    error = to_local(states[-1].pose, reference)
    assert abs(error[1]) < 0.15 and abs(error[0]) < 0.6
    assert states[-1].speed_mps == pytest.approx(7.0, abs=0.25)


def test_tracker_stops_with_the_plan_and_holds():
    speeds = np.maximum(6.0 - 2.0 * np.arange(51) * 0.1, 0.0)
    states = follow(EgoState(x=0, y=0, yaw=0, speed_mps=6.0), trajectory(speeds), 4.9)
    assert states[-1].speed_mps == 0.0
    assert states[-1].x == pytest.approx(9.0, abs=0.7)
    still = follow(dataclasses.replace(states[-1], x=9.0), trajectory(np.zeros(51)), 2.0)
    assert len({state.x for state in still}) == 1 and len({state.yaw for state in still}) == 1


def test_tracker_brakes_past_the_end_and_without_a_plan():
    start = EgoState(x=0, y=0, yaw=0, speed_mps=5.0)
    assert follow(start, trajectory(np.full(11, 5.0)), 5.0)[-1].speed_mps == 0.0
    assert follow(start, None, 4.0)[-1].speed_mps == 0.0
