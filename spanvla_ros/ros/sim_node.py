"""Node `spanvla_simulator`: the embedded simulator as a car on ROS topics, in lock-step by stamp with the planner.

No truth leaves by a topic: results go to a folder.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from spanvla_ros.contracts import NS_PER_S, ConfigError, SpanVLAError, Trajectory
from spanvla_ros.evaluation.results import Results
from spanvla_ros.ros import conversions, parameters, qos, topics
from spanvla_ros.ros.link import Answer, PlannerLink
from spanvla_ros.sim.ego import STEP_S
from spanvla_ros.sim.pictures.camera import CAMERAS
from spanvla_ros.sim.scenarios import scenario as scenarios
from spanvla_ros.sim.scenarios.scenario import Scenario
from spanvla_ros.sim.simulation import Simulation
from spanvla_ros.sim.trial import Trial

# simulated time never goes back; this gap between episodes also ends the history of a planner that can't be reset
EPISODE_NS = 1000 * NS_PER_S
# the expert drives until the planner has its history; longer than this it has no excuse
WARM_UP_S = 2.0
RESET_TIMEOUT_S = 5.0
_POLL_S, _OTHERS_S = 0.05, 2.0


class SimulatorNode(Node):
    """Drives its list of episodes in a thread of its own, then sets `exit_code`: 0, or 1 when there was nobody to drive."""

    def __init__(self, **kwargs: Any):
        super().__init__("spanvla_simulator", automatically_declare_parameters_from_overrides=True, **kwargs)
        self.exit_code: int | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="driving", daemon=True)
        try:
            self._values = values = parameters.read(self, parameters.SIMULATOR)
            self._episodes = _episodes(values)
            self.steps = _steps(values["rate"])
            self._topics = names = topics.load(values["preset"])
        except SpanVLAError as error:
            self.get_logger().error(" ".join(str(error).split()))
            self.exit_code = 2
            return
        cameras = values["cameras"]
        kind = CompressedImage if names.transport == "compressed" else Image
        self._clock = self.create_publisher(Clock, names.clock, qos.SIM_CLOCK)
        self._images = {c: self.create_publisher(kind, names.image.format(camera=c), qos.SIM_IMAGE) for c in cameras}
        self._infos = {c: self.create_publisher(CameraInfo, names.camera_info.format(camera=c), qos.SIM_IMAGE) for c in cameras}
        self._odometry = self.create_publisher(Odometry, names.odometry, qos.SIM_ODOMETRY)
        self._command = self.create_publisher(String, names.command, qos.COMMAND)
        self.link = PlannerLink(self, values["planner"])
        self._thread.start()

    def destroy_node(self) -> None:
        """Also ends the drive; may be called twice."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        super().destroy_node()

    def _run(self) -> None:
        try:
            code = self._drive_all()
        except SpanVLAError as error:
            self.get_logger().error(" ".join(str(error).split()))
            code = 1
        except Exception as error:  # noqa: BLE001 - a thread that dies silently would leave the process waiting for ever
            self.get_logger().error(f"the simulation failed: {type(error).__name__}: {error}")
            code = 1
        self.exit_code = code

    def _drive_all(self) -> int:
        if not self._wait_for_planner():
            return 1
        output = Results(Path(self._values["output_dir"]).expanduser()) if self._values["output_dir"] else None
        for index, scenario in enumerate(self._episodes):
            if self._ending.is_set():
                return 0
            if not self.link.reset(RESET_TIMEOUT_S):
                self.get_logger().warning(f"{self._values['planner']}/reset doesn't answer; the gap in time must do")
            found = self.episode(scenario, (index + 1) * EPISODE_NS).drive()
            if found is None:
                return 0
            result, pictures = found
            if output is not None:
                output.append(result, pictures)
            self.get_logger().info(
                f"episode {index + 1}/{len(self._episodes)} {scenario.name}: {result['ended']}, route {result['route_completion']:.2f}, "
                f"score {result['driving_score_lb21']:.0f}, {len(result['infractions'])} infractions, {result['plans']} plans, "
                f"{result['missed']} missed, {result['real_time_factor']:.2f} x real time"
            )
        return 0

    def episode(self, scenario: Scenario, offset_ns: int) -> Episode:
        """How a scenario is driven."""
        return Episode(self, scenario, offset_ns)

    def _wait_for_planner(self) -> bool:
        """Until the planner is active and hears the first camera and the odometry; the other cameras perhaps nobody wants to hear."""
        end_s = time.monotonic() + self._values["planner_timeout_s"]
        first, *others = self._images.values()
        while not (self.link.alive and self._heard(first, self._odometry)):
            if self._ending.wait(_POLL_S):
                return False
            if time.monotonic() > end_s:
                heard = f"publishes plan_info: {self.link.alive}, images heard by {first.get_subscription_count()}"
                heard += f", odometry by {self._odometry.get_subscription_count()}"
                self.get_logger().error(f"no active planner {self._values['planner']} after {self._values['planner_timeout_s']:g} s ({heard})")
                return False
        end_s = time.monotonic() + _OTHERS_S
        while not self._heard(*others) and time.monotonic() < end_s:
            if self._ending.wait(_POLL_S):
                return False
        return True

    def _heard(self, *publishers: Publisher) -> bool:
        return all(publisher.get_subscription_count() >= self._values["listeners"] for publisher in publishers)

    @property
    def settings(self) -> dict[str, Any]:
        return self._values

    @property
    def ending(self) -> threading.Event:
        return self._ending

    def publish_odometry(self, stamp_ns: int, simulation: Simulation) -> None:
        """Clock first, so that no stamp lies in the future of its receiver."""
        self._clock.publish(Clock(clock=conversions.time(stamp_ns)))
        ego, names = simulation.ego, self._topics
        self._odometry.publish(conversions.odometry(stamp_ns, names.frame, names.base_frame, ego.pose, ego.speed_mps, ego.yaw_rate_rps))

    def publish_command(self, simulation: Simulation) -> None:
        """Before the pictures of the same instant are made, so that it is there when they start a plan."""
        self._command.publish(String(data=simulation.command.value))

    def publish_frame(self, camera: str, stamp_ns: int, jpeg: bytes) -> None:
        """Nominal calibration (no car knows how its cameras really sit) and picture."""
        header = conversions.header(stamp_ns, self._topics.camera_frame.format(camera=camera))
        self._infos[camera].publish(conversions.camera_info(header, CAMERAS[camera]))
        if self._topics.transport == "compressed":
            self._images[camera].publish(CompressedImage(header=header, format="jpeg", data=jpeg))
            return
        bgra = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2BGRA)
        height, width = bgra.shape[:2]
        message = Image(header=header, height=height, width=width, encoding="bgra8", step=4 * width)
        message.data = bgra.tobytes()
        self._images[camera].publish(message)


def _episodes(values: dict[str, Any]) -> list[Scenario]:
    seed = values["seed"]
    seeds = scenarios.parse_seeds(seed if ":" in seed or not seed.isdigit() else f"{seed}:{int(seed) + 1}")
    unknown = [camera for camera in values["cameras"] if camera not in CAMERAS]
    if unknown or not values["cameras"]:
        raise ConfigError(f"parameter cameras is {values['cameras']}, the simulator has {', '.join(CAMERAS)}")
    return [scenarios.build(family, number) for family in scenarios.parse_families(values["scenario"]) for number in seeds]


def _steps(rate: float) -> int:
    """Steps of the simulation between two pictures."""
    steps = round(1 / rate / STEP_S)
    if steps < 1 or abs(steps * STEP_S * rate - 1) > 1e-6:
        raise ConfigError(f"parameter rate is {rate:g}, it must divide {1 / STEP_S:g} Hz: 20, 10, 5, 4, 2 or 1")
    return steps


class Episode:
    """One scenario over ROS, step for step as `sim.trial.drive` does it. Stamps on topics are those of the simulation plus `offset_ns`."""

    def __init__(self, node: SimulatorNode, scenario: Scenario, offset_ns: int):
        values = node.settings
        self.node, self._offset_ns = node, offset_ns
        self._trial = Trial(Simulation(scenario, render=not values["black"], black=values["black"]), time_limit_s=values["time_limit_s"])
        self._simulation = self._trial.simulation
        self._trajectory: Trajectory | None = None
        self._anchor_ns = -1
        self._plans = self._missed = 0
        self._began_s: float | None = None  # wall time of the first plan

    def drive(self) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """Result with counts and times, and pictures; None when the node ends before the episode."""
        simulation, node = self._simulation, self.node
        try:
            simulation.reset()
            node.publish_odometry(self._stamp_ns, simulation)
            self._pace_s = time.monotonic()
            while not (self._trial.judge.ended or simulation.finished):
                if node.ending.is_set():
                    return None
                self._step()
            result = self._result()
            return result, self._trial.pictures(result)
        finally:
            simulation.close()

    @property
    def _stamp_ns(self) -> int:
        return self._offset_ns + self._simulation.stamp_ns

    def _step(self) -> None:
        node, simulation = self.node, self._simulation
        if self._sense():
            self._answer()
        for _ in range(node.steps):
            simulation.advance(self._trajectory, STEP_S)
            self._trial.stepped()
            node.publish_odometry(self._stamp_ns, simulation)
        if node.settings["real_time"]:
            period_s = node.steps * STEP_S
            self._pace_s = max(self._pace_s + period_s, time.monotonic() - period_s)
            node.ending.wait(max(0.0, self._pace_s - time.monotonic()))

    def _sense(self) -> bool:
        """Publish what the cameras deliver; True when the first one, whose frames ask for plans, has a new one."""
        node, simulation = self.node, self._simulation
        node.publish_command(simulation)
        arriving = {camera: simulation.exposures(camera) for camera in node.settings["cameras"]}
        newest_ns = max((stamp for stamp, _ in arriving[node.settings["cameras"][0]]), default=-1)
        asks = newest_ns > self._anchor_ns
        if asks:
            self._anchor_ns = newest_ns
            node.link.expect(self._offset_ns + newest_ns)
        # the camera that asks comes last: the others' frames are there when its plan begins
        for camera, frames in reversed(arriving.items()):
            for stamp_ns, jpeg in frames:
                node.publish_frame(camera, self._offset_ns + stamp_ns, jpeg)
        return asks

    def _answer(self) -> None:
        """Follow the new plan. Without one the car follows the last, until its end, as in one process; at first the expert drives."""
        answer, planned = self.node.link.wait(self.node.settings["answer_timeout_s"])
        if planned is not None:
            if self._began_s is None:
                self._began_s, self._began_ns = time.monotonic(), self._simulation.stamp_ns
            self._plans += 1
            self._trial.planned(dataclasses.replace(planned.plan, t0_ns=planned.plan.t0_ns - self._offset_ns), planned.took_ms)
            self._trajectory = dataclasses.replace(planned.trajectory, stamp_ns=planned.trajectory.stamp_ns - self._offset_ns)
        elif answer is Answer.REJECTED:
            self._trial.refused()
        elif not self._plans:
            self._trajectory = self._simulation.expert.plan().trajectory if self._simulation.time_s < WARM_UP_S else None
        else:
            self._missed += answer is Answer.NONE

    def _result(self) -> dict[str, Any]:
        wall_s = time.monotonic() - self._began_s if self._began_s is not None else 0.0
        driven_s = (self._simulation.stamp_ns - self._began_ns) / NS_PER_S if self._began_s is not None else 0.0
        return {
            **self._trial.result(),
            "missed": self._missed,
            "wall_s": round(wall_s, 3),
            "driven_s": round(driven_s, 3),
            "real_time_factor": round(driven_s / wall_s, 4) if wall_s else 0.0,
            "first_stamp_ns": self._offset_ns,
            "last_stamp_ns": self._stamp_ns,
        }
