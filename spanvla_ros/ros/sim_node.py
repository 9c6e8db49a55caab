"""Node `spanvla_simulator`: the embedded simulator as a car on ROS topics, in lock-step by stamp with the planner.

No truth leaves by a topic: results go to a file.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String

from spanvla_ros.contracts import NS_PER_S, ConfigError, SpanVLAError, Trajectory
from spanvla_ros.evaluation.driving import Judge
from spanvla_ros.ros import conversions, parameters, qos
from spanvla_ros.ros.link import Answer, PlannerLink
from spanvla_ros.sim import scenario as scenarios
from spanvla_ros.sim.camera import CAMERAS
from spanvla_ros.sim.ego import STEP_S
from spanvla_ros.sim.scenario import Scenario
from spanvla_ros.sim.simulation import Simulation

PERIOD_S = 0.1
# simulated time never goes back; this gap between episodes also ends the history of a planner that can't be reset
EPISODE_NS = 1000 * NS_PER_S
# the expert drives until the planner has its history; longer than this it has no excuse
WARM_UP_S = 2.0
RESET_TIMEOUT_S = 5.0
FRAME, BASE_FRAME = "odom", "base_link"


class SimulatorNode(Node):
    """Drives its list of episodes in a thread of its own, then sets `exit_code`: 0, or 1 when there was nobody to drive."""

    def __init__(self, **kwargs: Any):
        super().__init__("spanvla_simulator", automatically_declare_parameters_from_overrides=True, **kwargs)
        self.exit_code: int | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="driving", daemon=True)
        try:
            self._values = values = parameters.read(self, parameters.SIMULATOR)
            seeds = scenarios.parse_seeds(values["seeds"])
            self._episodes = [scenarios.build(family, seed) for family in values["families"] for seed in seeds]
            if values["camera"] not in CAMERAS:
                raise ConfigError(f"parameter camera is {values['camera']!r}, the simulator has {', '.join(CAMERAS)}")
        except SpanVLAError as error:
            self.get_logger().error(str(error))
            self.exit_code = 2
            return
        camera = values["camera"]
        self._clock = self.create_publisher(Clock, "/clock", qos.SIM_CLOCK)
        self._image = self.create_publisher(CompressedImage, f"/sensing/camera/{camera}/image/compressed", qos.SIM_IMAGE)
        self._info = self.create_publisher(CameraInfo, f"/sensing/camera/{camera}/camera_info", qos.SIM_IMAGE)
        self._odometry = self.create_publisher(Odometry, "/localization/odometry", qos.SIM_ODOMETRY)
        self._command = self.create_publisher(String, "/planning/command", qos.COMMAND)
        self._link = PlannerLink(self, values["planner"])
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
        except Exception as error:  # noqa: BLE001 - a thread that dies silently would leave the process waiting for ever
            self.get_logger().error(f"the simulation failed: {type(error).__name__}: {error}")
            code = 1
        self.exit_code = code

    def _drive_all(self) -> int:
        if not self._wait_for_planner():
            return 1
        output = Path(self._values["output_file"]).expanduser() if self._values["output_file"] else None
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("")
        for index, scenario in enumerate(self._episodes):
            if self._ending.is_set():
                return 0
            if not self._link.reset(RESET_TIMEOUT_S):
                self.get_logger().warning(f"{self._values['planner']}/reset doesn't answer; the gap in time must do")
            episode = Episode(self, scenario, (index + 1) * EPISODE_NS)
            result = episode.drive()
            if result is None:
                return 0
            line = json.dumps(result)
            if output is not None:
                with output.open("a") as file:
                    file.write(line + "\n")
            self.get_logger().info(
                f"episode {index + 1}/{len(self._episodes)} {scenario.name}: {result['ended']}, route {result['route_completion']:.2f}, "
                f"score {result['driving_score_lb21']:.0f}, {len(result['infractions'])} infractions, {result['plans']} plans, "
                f"{result['missed']} missed, {result['real_time_factor']:.2f} x real time"
            )
        return 0

    def _wait_for_planner(self) -> bool:
        end_s = time.monotonic() + self._values["planner_timeout_s"]
        while not (self._link.alive and min(p.get_subscription_count() for p in (self._image, self._odometry)) >= self._values["listeners"]):
            if self._ending.wait(0.05):
                return False
            if time.monotonic() > end_s:
                heard = f"publishes plan_info: {self._link.alive}, images heard by {self._image.get_subscription_count()}"
                heard += f", odometry by {self._odometry.get_subscription_count()}"
                self.get_logger().error(f"no active planner {self._values['planner']} after {self._values['planner_timeout_s']:g} s ({heard})")
                return False
        return True

    @property
    def settings(self) -> dict[str, Any]:
        return self._values

    @property
    def ending(self) -> threading.Event:
        return self._ending

    @property
    def link(self) -> PlannerLink:
        return self._link

    def publish_odometry(self, stamp_ns: int, simulation: Simulation) -> None:
        """Clock first, so that no stamp lies in the future of its receiver."""
        self._clock.publish(Clock(clock=conversions.time(stamp_ns)))
        ego = simulation.ego
        self._odometry.publish(conversions.odometry(stamp_ns, FRAME, BASE_FRAME, ego.pose, ego.speed_mps, ego.yaw_rate_rps))

    def publish_camera(self, stamp_ns: int, simulation: Simulation) -> None:
        """Command and calibration before the picture that starts the plan."""
        name = self._values["camera"]
        camera = CAMERAS[name]
        header = conversions.header(stamp_ns, f"{name}_optical")
        self._command.publish(String(data=simulation.command.value))
        info = CameraInfo(header=header, width=camera.width, height=camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
        k = camera.intrinsics
        info.k = k.ravel().tolist()
        info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        info.p = [*k[0].tolist(), 0.0, *k[1].tolist(), 0.0, *k[2].tolist(), 0.0]
        self._info.publish(info)
        self._image.publish(CompressedImage(header=header, format="jpeg", data=simulation.jpeg(name)))


class Episode:
    """One scenario over ROS. Stamps on topics are those of the simulation plus `offset_ns`."""

    def __init__(self, node: SimulatorNode, scenario: Scenario, offset_ns: int):
        self._node, self._scenario, self._offset_ns = node, scenario, offset_ns
        self._simulation = Simulation(scenario, render=True, black=node.settings["black"])
        self._judge = Judge(scenario.family, scenario.seed, min(scenario.time_limit_s, node.settings["time_limit_s"]))
        self._plans = self._missed = self._rejected = 0
        self._began_s: float | None = None  # wall time of the first plan

    def drive(self) -> dict[str, Any] | None:
        """The judge's result with counts and times; None when the node ends before the episode."""
        simulation, node = self._simulation, self._node
        try:
            simulation.reset()
            node.publish_odometry(self._stamp_ns, simulation)
            self._pace_s = time.monotonic()
            while not (self._judge.ended or simulation.finished):
                if node.ending.is_set():
                    return None
                self._step()
            return self._result()
        finally:
            simulation.close()

    @property
    def _stamp_ns(self) -> int:
        return self._offset_ns + self._simulation.stamp_ns

    def _step(self) -> None:
        node, simulation = self._node, self._simulation
        node.link.expect(self._stamp_ns)
        node.publish_camera(self._stamp_ns, simulation)
        answer, trajectory = node.link.wait(node.settings["answer_timeout_s"])
        self._count(answer)
        for _ in range(round(PERIOD_S / STEP_S)):
            simulation.advance(self._leading(trajectory), STEP_S)
            self._judge.watch(simulation.truth())
            node.publish_odometry(self._stamp_ns, simulation)
        if node.settings["real_time"]:
            self._pace_s = max(self._pace_s + PERIOD_S, time.monotonic() - PERIOD_S)
            node.ending.wait(max(0.0, self._pace_s - time.monotonic()))

    def _count(self, answer: Answer) -> None:
        if answer is Answer.PLAN:
            self._plans += 1
            if self._began_s is None:
                self._began_s, self._began_ns = time.monotonic(), self._simulation.stamp_ns
        elif self._plans:  # before the first plan the planner only lacks history
            self._missed += answer is Answer.NONE
            self._rejected += answer is Answer.REJECTED

    def _leading(self, trajectory: Trajectory | None) -> Trajectory | None:
        """What the car follows: the planner's newest trajectory; until there is one the expert's, for the length of the warm-up."""
        if trajectory is not None:
            return dataclasses.replace(trajectory, stamp_ns=trajectory.stamp_ns - self._offset_ns)
        return self._simulation.expert.plan().trajectory if self._simulation.time_s < WARM_UP_S else None

    def _result(self) -> dict[str, Any]:
        wall_s = time.monotonic() - self._began_s if self._began_s is not None else 0.0
        driven_s = (self._simulation.stamp_ns - self._began_ns) / NS_PER_S if self._began_s is not None else 0.0
        return {
            **self._judge.result(),
            "plans": self._plans,
            "missed": self._missed,
            "rejected": self._rejected,
            "wall_s": round(wall_s, 3),
            "driven_s": round(driven_s, 3),
            "real_time_factor": round(driven_s / wall_s, 4) if wall_s else 0.0,
            "first_stamp_ns": self._offset_ns,
            "last_stamp_ns": self._stamp_ns,
            "state_hash": self._simulation.state_hash,
        }
