"""A drive in the simulator, recorded as a ROS 2 bag: what a car with a careless automation and an attentive person leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bags
import cv2
import numpy as np
from bags import STORE, T
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from spanvla_ros.sim.driver.lapse import Careless
from spanvla_ros.sim.pictures.camera import CAMERAS
from spanvla_ros.sim.scenarios import scenario as scenarios
from spanvla_ros.sim.simulation import Simulation

# the part of vision_msgs that a reader needs; the bag holds the definitions, as every recorder writes them
_RESULTS = "vision_msgs/ObjectHypothesisWithPose[] results\n"
VISION = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "vision_msgs/msg/Detection3D": "std_msgs/Header header\n" + _RESULTS + "vision_msgs/BoundingBox3D bbox\nstring id\n",
    "vision_msgs/msg/Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections\n",
}
for _name, _text in VISION.items():
    STORE.register(get_types_from_msg(_text, _name))

IMAGE, ODOMETRY = "/sensing/camera/{}/image/compressed", "/localization/odometry"
INFO, ENGAGED, COMMAND, OBJECTS = "/sensing/camera/{}/camera_info", "/vehicle/engaged", "/planning/command", "/perception/objects"
EPOCH_NS = 1_700_000_000 * bags.S  # the clock of the car; the recorder's own is another one
_RECORDER_NS = 5 * bags.S
_AFTER_S = 7.5  # driven on after a take-over
_MATTERS_S, _MATTERS_M = 3.0, 0.5  # a lapse from which the good driver would steer this far away within 5 s, shortly before its end


@dataclass(frozen=True)
class Recorded:
    """Where the bag is, and when take-overs were injected (stamps)."""

    path: Path
    takeovers: tuple[int, ...]
    kind: str


def quaternion(yaw: float):
    return T["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=float(np.sin(yaw / 2)), w=float(np.cos(yaw / 2)))


def pose(x: float, y: float, yaw: float, z: float = 0.0):
    return T["geometry_msgs/msg/Pose"](position=T["geometry_msgs/msg/Point"](x=x, y=y, z=z), orientation=quaternion(yaw))


def odometry(stamp: int, ego):
    zero = np.zeros(36)
    twist = T["geometry_msgs/msg/Twist"](linear=bags.vector(ego.speed_mps), angular=bags.vector(z=ego.yaw_rate_rps))
    return T["nav_msgs/msg/Odometry"](
        header=bags.header(stamp, "odom"), child_frame_id="base_link",
        pose=T["geometry_msgs/msg/PoseWithCovariance"](pose=pose(ego.x, ego.y, ego.yaw), covariance=zero),
        twist=T["geometry_msgs/msg/TwistWithCovariance"](twist=twist, covariance=zero),
    )  # fmt: skip


def objects(stamp: int, actors):
    """Boxes of everything within 60 m in the odometry frame."""
    blank = T["geometry_msgs/msg/PoseWithCovariance"](pose=pose(0.0, 0.0, 0.0), covariance=np.zeros(36))
    found = []
    for actor in actors:
        said = T["vision_msgs/msg/ObjectHypothesis"](class_id=actor.kind, score=0.9)
        size = bags.vector(actor.length_m, actor.width_m, actor.height_m)
        box = T["vision_msgs/msg/BoundingBox3D"](center=pose(actor.x, actor.y, actor.yaw), size=size)
        results = [T["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis=said, pose=blank)]
        found.append(T["vision_msgs/msg/Detection3D"](header=bags.header(stamp, "odom"), results=results, bbox=box, id=actor.name))
    return T["vision_msgs/msg/Detection3DArray"](header=bags.header(stamp, "odom"), detections=found)


def calibration(stamp: int, camera):
    roi = T["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return T["sensor_msgs/msg/CameraInfo"](
        header=bags.header(stamp, f"{camera.name}_optical"), height=camera.height, width=camera.width, distortion_model="plumb_bob", d=np.zeros(5),
        k=camera.intrinsics.ravel(), r=np.eye(3).ravel(), p=np.zeros(12), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def mountings(stamp: int, cameras):
    """base_link -> camera -> optical frame, as a car's description has it."""
    transforms = []
    for camera in cameras:
        turned = quaternion(camera.yaw_rad)
        transforms.append(bags.transform("base_link", camera.name, (camera.x_m, camera.y_m, camera.z_m), [getattr(turned, k) for k in "xyzw"]))
        transforms.append(bags.transform(camera.name, f"{camera.name}_optical", (0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5)))
    return T["tf2_msgs/msg/TFMessage"](transforms=transforms)


def record(path: Path, family: str, seed: int, cameras=("front",), render: bool = False, limit_s: float = 30.0) -> Recorded:
    """Drive one scenario. The automation is engaged after half a second; with an odd seed it has a lapse, at whose end a person takes over
    if it mattered: nobody takes the wheel from one that drives as they would.

    With an even seed nobody takes over before the last second, where the drive is handed back as every drive is.
    """
    scenario = scenarios.build(family, seed)
    simulation = Simulation(scenario, render=render)
    simulation.reset()
    careless = Careless(simulation) if seed % 2 else None
    jpeg = cv2.imencode(".jpg", np.full((252, 448, 3), 90, np.uint8))[1].tobytes()
    trajectory, engaged, takeovers, until, steps, late, mattered_s = None, None, [], limit_s, 0, False, -np.inf
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}

        def send(topic: str, message, stamp: int) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            writer.write(connections[topic], stamp - EPOCH_NS + _RECORDER_NS, STORE.serialize_cdr(message, message.__msgtype__))

        send("/tf_static", mountings(EPOCH_NS, [CAMERAS[name] for name in cameras]), EPOCH_NS)
        while simulation.time_s < until:
            stamp = EPOCH_NS + simulation.stamp_ns
            send(ODOMETRY, odometry(stamp, simulation.ego), stamp)
            if steps % 5 == 0:
                decision = simulation.expert.plan()
                trajectory = careless.plan(decision) if careless else decision.trajectory
                if careless and careless.active:
                    reach = min(len(trajectory.poses_odom), len(decision.trajectory.poses_odom))
                    apart = np.hypot(*(trajectory.poses_odom[:reach] - decision.trajectory.poses_odom[:reach])[:, :2].T).max()
                    mattered_s = simulation.time_s if apart > _MATTERS_M else mattered_s
            ended = careless is not None and careless.lapse is not None and not careless.active
            over = ended and careless.lapse.end_s - mattered_s < _MATTERS_S
            if over and not takeovers:
                takeovers.append(stamp)
                until = simulation.time_s + _AFTER_S
            now = simulation.time_s >= 0.5 and not over and not late
            if now != engaged or steps % 4 == 0:
                send(ENGAGED, T["std_msgs/msg/Bool"](data=bool(now)), stamp)
                engaged = now
            if steps % 10 == 0:
                send(COMMAND, T["std_msgs/msg/String"](data=simulation.command.value), stamp)
            if steps % 2 == 0:
                near = [a for a in simulation.actors if np.hypot(a.x - simulation.ego.x, a.y - simulation.ego.y) < 60]
                send(OBJECTS, objects(stamp, near), stamp)
                for name in cameras:
                    send(INFO.format(name), calibration(stamp, CAMERAS[name]), stamp)
                    picture = np.frombuffer(simulation.jpeg(name) if render else jpeg, np.uint8)
                    message = T["sensor_msgs/msg/CompressedImage"](header=bags.header(stamp, f"{name}_optical"), format="jpeg", data=picture)
                    send(IMAGE.format(name), message, stamp)
            simulation.advance(trajectory, 0.05)
            steps += 1
            if simulation.finished and not takeovers and until == limit_s:
                until = simulation.time_s + 1.0
            late = not takeovers and until - simulation.time_s < 0.8
    simulation.close()
    return Recorded(path=path, takeovers=tuple(takeovers), kind=careless.lapse.kind if careless and careless.lapse else "")
