"""`~/debug/image`: the picture that a plan was made from with the plan drawn in, for people who look; drawn only while they do."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from spanvla_ros.contracts import Observation, Plan
from spanvla_ros.evaluation import overlay
from spanvla_ros.planning.rig import load_rig
from spanvla_ros.ros import conversions, qos
from spanvla_ros.ros.rig import DEMO_RIG
from spanvla_ros.share import share

WIDTH_PX = 640
_LINES = 4  # room for the text, so that the size of the picture doesn't change


class DebugImage:
    """sensor_msgs/Image rgb8, at most one per plan, in a thread of its own: the planning thread only leaves a plan here. While one is drawn,
    a newer plan replaces the one that waits.

    camera: whose pictures are shown; rig_file: how it is mounted, "" for that of the demo model.
    """

    def __init__(self, node: LifecycleNode, camera: str, rig_file: str):
        self._node, self._camera = node, camera
        rig = load_rig(Path(rig_file).expanduser() if rig_file else share(DEMO_RIG))
        self._mounting = rig.cameras.get(camera, overlay.DEMO_MOUNTING)
        self._publisher = node.create_lifecycle_publisher(Image, "~/debug/image", qos.OUTPUT)
        self._condition = threading.Condition()
        self._waiting: tuple[Observation, Plan] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="debug image", daemon=True)
        self._thread.start()

    def show(self, observation: Observation, plan: Plan) -> None:
        """Have it drawn if anybody listens, and it begins where its picture was taken. Costs microseconds."""
        if plan.t0_ns == observation.t0_ns and self._publisher.get_subscription_count():
            with self._condition:
                self._waiting = observation, plan
                self._condition.notify()

    def destroy(self) -> None:
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._waiting is not None)
                if self._stopping:
                    return
                (observation, plan), self._waiting = self._waiting, None
            try:
                self._publish(observation, plan)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with a picture for people, the next one may be drawn
                self._node.get_logger().warning(f"no debug image: {type(error).__name__}: {error}", throttle_duration_sec=10.0)

    def _publish(self, observation: Observation, plan: Plan) -> None:
        picture = observation.images[self._camera][-1]
        rgb = draw(picture.rgb, self._mounting, plan)
        message = Image(header=conversions.header(picture.stamp_ns, self._camera), height=rgb.shape[0], width=rgb.shape[1])
        message.encoding, message.step, message.data = "rgb8", 3 * rgb.shape[1], rgb.tobytes()
        self._publisher.publish(message)


def draw(rgb: np.ndarray, mounting: overlay.Mounting, plan: Plan) -> np.ndarray:
    """Picture (H, W, 3) of at most WIDTH_PX with the plan on the road and a strip below with speed and text."""
    height, width = rgb.shape[:2]
    if width > WIDTH_PX:
        rgb = cv2.resize(rgb, (WIDTH_PX, round(height * WIDTH_PX / width)), interpolation=cv2.INTER_AREA)
    drawn = overlay.draw_plan(rgb, overlay.Camera.mounted(mounting, rgb.shape[:2]), plan.waypoints_base)
    reach_m = float(np.hypot(*plan.waypoints_base[-1, :2]))
    seconds = plan.waypoint_interval_s * len(plan.waypoints_base)
    lines = [f"t0 {plan.t0_ns / 1e9:.1f} s   {plan.speed_mps:.1f} m/s   {reach_m:.0f} m in {seconds:g} s", plan.reasoning]
    captioned = overlay.caption(drawn, lines, min_lines=_LINES)
    rows = rgb.shape[0] + overlay.caption(rgb[:1], [], min_lines=_LINES).shape[0] - 1
    return np.ascontiguousarray(captioned[:rows])
