"""CARLA's conventions and ours: frames, the body of a vehicle, pedals and steering wheel.

CARLA is left-handed (y to the right, yaw clockwise, degrees); its vehicles have their origin somewhere between the axles.
Here is REP-103 with the origin at the rear axle. The numbers of `Pedals` are estimates: nobody has driven a server with them yet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from spanvla_ros.contracts import VEHICLE, Vehicle
from spanvla_ros.geometry import to_global, to_local
from spanvla_ros.sim.ego import MAX_ACCELERATION_MPS2, MAX_BRAKING_MPS2, STEP_S, EgoState
from spanvla_ros.sim.pictures.camera import Camera


def pose(transform: Any) -> np.ndarray:
    """(3,) x, y, yaw in the world frame of a carla.Transform."""
    return np.array([transform.location.x, -transform.location.y, -math.radians(transform.rotation.yaw)])


def transform(carla: Any, at: np.ndarray, z_m: float) -> Any:
    """carla.Transform of a pose (3,) at a height."""
    place = carla.Location(x=float(at[0]), y=-float(at[1]), z=float(z_m))
    return carla.Transform(place, carla.Rotation(pitch=0.0, yaw=-math.degrees(at[2]), roll=0.0))


def height_m(actor: Any) -> float:
    """Height of an actor's origin when its box stands on the ground: about 0 for vehicles, half their size for walkers."""
    return float(actor.bounding_box.extent.z - actor.bounding_box.location.z)


@dataclass(frozen=True, kw_only=True)
class Body:
    """A CARLA vehicle seen from its rear axle: `size` from its bounding box and wheels; axle_m: rear axle in the actor's frame
    (negative: behind the origin); lock_rad: steering angle of the front wheels at full steering; curve: speed [km/h] -> share of it."""

    size: Vehicle
    axle_m: float
    lock_rad: float
    curve: tuple[tuple[float, float], ...]

    @classmethod
    def measure(cls, actor: Any) -> Body:
        """Of a spawned vehicle. Where its wheels make no sense, the axles divide its box as those of NAVSIM's vehicle do."""
        physics = actor.get_physics_control()
        box = actor.bounding_box
        wheels = np.array([[wheel.position.x, -wheel.position.y, 0.0] for wheel in physics.wheels]).reshape(-1, 3)
        # wheel positions are in the world, and in centimetres
        along = np.sort(to_local(pose(actor.get_transform()), wheels / 100.0)[:, 0])
        base = along[-2:].mean() - along[:2].mean() if len(along) >= 4 else 0.0
        if 1.0 < base < 2 * box.extent.x and abs(along[:2].mean()) < 2 * box.extent.x:
            axle = float(along[:2].mean())
        else:
            share = 2 * box.extent.x / VEHICLE.length_m
            base, axle = VEHICLE.wheel_base_m * share, box.location.x - VEHICLE.center_m * share
        lock = max((wheel.max_steer_angle for wheel in physics.wheels), default=0.0)
        return cls(
            size=Vehicle(
                wheel_base_m=float(base),
                front_m=float(box.location.x + box.extent.x - axle),
                rear_m=float(axle - box.location.x + box.extent.x),
                width_m=float(2 * box.extent.y),
            ),
            axle_m=float(axle),
            lock_rad=math.radians(lock or 70.0),
            curve=tuple((point.x, point.y) for point in physics.steering_curve),
        )

    def rear_axle(self, actor: Any) -> np.ndarray:
        """Pose (3,) of the rear axle of the vehicle now."""
        return to_global(pose(actor.get_transform()), np.array([self.axle_m, 0.0, 0.0]))

    def origin(self, rear_axle: np.ndarray) -> np.ndarray:
        """Pose (3,) of the actor whose rear axle is there."""
        return to_global(rear_axle, np.array([-self.axle_m, 0.0, 0.0]))

    def state(self, actor: Any, before: EgoState | None) -> EgoState:
        """Ego state now; acceleration since `before`, one step earlier; the steering angle of a vehicle with NAVSIM's wheel base that turns so."""
        at, velocity = self.rear_axle(actor), actor.get_velocity()
        speed = velocity.x * math.cos(at[2]) - velocity.y * math.sin(at[2])
        rate = -math.radians(actor.get_angular_velocity().z)
        # a standing car shows no curvature
        kept = before.steer_rad if before else 0.0
        steer = math.atan(VEHICLE.wheel_base_m * rate / speed) if speed > 1.0 else kept
        return EgoState(
            x=float(at[0]),
            y=float(at[1]),
            yaw=math.remainder(float(at[2]), 2 * math.pi),
            speed_mps=float(speed),
            acceleration_mps2=(speed - before.speed_mps) / STEP_S if before else 0.0,
            steer_rad=steer,
        )

    def footprint(self, state: EgoState) -> np.ndarray:
        """Corners (4, 2) in the world frame, from the front left counter-clockwise."""
        front, rear, half = self.size.front_m, -self.size.rear_m, self.size.width_m / 2
        corners = np.array([[front, half, 0.0], [rear, half, 0.0], [rear, -half, 0.0], [front, -half, 0.0]])
        return to_global(state.pose, corners)[:, :2]

    def mount(self, carla: Any, camera: Camera, origin_z_m: float) -> Any:
        """carla.Transform of a camera relative to the vehicle, whose origin is `origin_z_m` above the ground."""
        return carla.Transform(
            carla.Location(x=self.axle_m + camera.x_m, y=-camera.y_m, z=camera.z_m - origin_z_m),
            carla.Rotation(pitch=-math.degrees(camera.pitch_rad), yaw=-math.degrees(camera.yaw_rad), roll=0.0),
        )

    def wheel(self, steer_rad: float, speed_mps: float) -> float:
        """CARLA's steering, -1 (left) to 1, for the turn that `steer_rad` is to a vehicle with NAVSIM's wheel base."""
        own = math.atan(math.tan(steer_rad) * self.size.wheel_base_m / VEHICLE.wheel_base_m)
        share = float(np.interp(3.6 * speed_mps, *zip(*self.curve))) if self.curve else 1.0
        return min(max(-own / (self.lock_rad * share), -1.0), 1.0)


class Pedals:
    """Acceleration [m/s^2] -> (throttle, brake), each 0 to 1.

    Full throttle is taken for 4 m/s^2, full brake for 8; an integral makes up for what that gets wrong: drag, gears, slopes.
    Between them the car coasts. Wanted is limited to what the simulator's own car can do.
    """

    _THROTTLE_MPS2, _BRAKE_MPS2 = 4.0, 8.0
    _COAST_MPS2 = 0.2
    _GAIN, _MOST_MPS2 = 0.8, 2.0  # 1/s; limit of the integral

    def __init__(self) -> None:
        self._missing = 0.0

    def press(self, wanted_mps2: float, state: EgoState) -> tuple[float, float]:
        wanted = min(max(wanted_mps2, -MAX_BRAKING_MPS2), MAX_ACCELERATION_MPS2)
        if state.speed_mps < 0.1 and wanted <= 0.0:
            self._missing = 0.0
        else:
            self._missing += self._GAIN * STEP_S * (wanted - state.acceleration_mps2)
            self._missing = min(max(self._missing, -self._MOST_MPS2), self._MOST_MPS2)
        force = wanted + self._missing
        if force >= 0.0:
            return min(force / self._THROTTLE_MPS2, 1.0), 0.0
        return 0.0, min(-force / self._BRAKE_MPS2, 1.0) if force < -self._COAST_MPS2 else 0.0
