"""The simulated car: kinematic bicycle about the rear axle with steering-rate limit and acceleration lag."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spanvla_ros.contracts import VEHICLE

STEP_S = 0.05
MAX_STEER_RAD = 0.6
MAX_STEER_RATE_RPS = 0.7
MAX_ACCELERATION_MPS2 = 2.5
MAX_BRAKING_MPS2 = 7.0
ACCELERATION_LAG_S = 0.2


@dataclass(frozen=True, kw_only=True)
class EgoState:
    """Rear-axle pose in the world frame, speed and acceleration along body x, steering angle of the front wheel."""

    x: float
    y: float
    yaw: float
    speed_mps: float
    acceleration_mps2: float = 0.0
    steer_rad: float = 0.0

    @property
    def pose(self) -> np.ndarray:
        """(3,) x, y, yaw in the world frame, which is also the odometry frame."""
        return np.array([self.x, self.y, self.yaw])

    @property
    def yaw_rate_rps(self) -> float:
        return self.speed_mps * math.tan(self.steer_rad) / VEHICLE.wheel_base_m


def advance(state: EgoState, acceleration: float, steer: float, step: float = STEP_S) -> EgoState:
    """One step of the bicycle towards the commanded acceleration [m/s^2] and steering angle [rad]. It never drives backwards."""
    acceleration = min(max(acceleration, -MAX_BRAKING_MPS2), MAX_ACCELERATION_MPS2)
    steer = min(max(steer, -MAX_STEER_RAD), MAX_STEER_RAD)
    change = min(max(steer - state.steer_rad, -MAX_STEER_RATE_RPS * step), MAX_STEER_RATE_RPS * step)
    steer = state.steer_rad + change
    acceleration = state.acceleration_mps2 + (acceleration - state.acceleration_mps2) * (1 - math.exp(-step / ACCELERATION_LAG_S))
    speed = state.speed_mps + acceleration * step
    if speed <= 0.0:
        speed = 0.0
        acceleration = 0.0
    middle = 0.5 * (state.speed_mps + speed)
    turn = middle * math.tan(steer) / VEHICLE.wheel_base_m * step
    heading = state.yaw + 0.5 * turn
    return EgoState(
        x=state.x + middle * math.cos(heading) * step,
        y=state.y + middle * math.sin(heading) * step,
        yaw=math.remainder(state.yaw + turn, 2 * math.pi),
        speed_mps=speed,
        acceleration_mps2=acceleration,
        steer_rad=steer,
    )


def box(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle around (x, y), counter-clockwise from the front left."""
    forward = np.array([math.cos(yaw), math.sin(yaw)]) * length / 2
    left = np.array([-math.sin(yaw), math.cos(yaw)]) * width / 2
    return np.array([x, y]) + np.array([forward + left, -forward + left, -forward - left, forward - left])


def footprint(state: EgoState) -> np.ndarray:
    """Corners (4, 2) of the car in the world frame."""
    ahead = VEHICLE.center_m
    return box(
        state.x + ahead * math.cos(state.yaw), state.y + ahead * math.sin(state.yaw), state.yaw, VEHICLE.length_m, VEHICLE.width_m
    )
