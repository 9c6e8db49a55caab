"""A car and a listener for tests of the real planner process: publishes images and odometry, records what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory

from spanvla_ros.ros import conversions, qos

ROOT = Path(__file__).resolve().parent.parent
_STEP_S, _EPOCH_NS = 0.05, 1_000_000_000_000
NODE = "/spanvla_planner"
# no two pictures of a live sensor are alike
PICTURES = [cv2.imencode(".jpg", np.random.default_rng(k).integers(0, 255, (126, 224, 3), dtype=np.uint8))[1].tobytes() for k in range(16)]
JPEG = PICTURES[0]


def living(camera: str, k: int) -> bytes:
    """Picture number k of a camera in good order."""
    return PICTURES[k % len(PICTURES)]


def unharmed(message):
    return message


def environment(domain: int, folder: Path) -> dict[str, str]:
    """What separate processes need to find each other and nobody else."""
    env = dict(os.environ)
    # inherited from the interpreter that runs the tests it would keep the wheels from finding their libraries
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    env.update(
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(folder / "log"),
        AMENT_PREFIX_PATH=os.pathsep.join(filter(None, [sys.prefix, os.environ.get("AMENT_PREFIX_PATH", "")])),
        FASTDDS_DEFAULT_PROFILES_FILE=str(ROOT / "config" / "fastdds_shm.xml"),
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "test")]),
        OMP_NUM_THREADS="1",
    )
    return env


@contextlib.contextmanager
def process(command: list[str], env: dict[str, str], log: Path):
    """A child process whose output goes to `log`; ended, if need be by force, with the block."""
    with log.open("w") as out:
        child = subprocess.Popen([sys.executable, *command], env=env, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def waiting_s(pid: int) -> float:
    """How long the threads of a process have been ready to run without a processor, since it began."""
    total_ns = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total_ns += int(file.read_text().split()[1])
    return total_ns / 1e9


class Peer:
    """Drives a car that follows the newest trajectory; `images` and `odometry` switch its sensors off and on.

    picture: (camera, number) -> encoded picture, None for a frame that doesn't come; damage: odometry message -> the one that is
    sent; late_s: camera -> what its stamps are later by.
    With `clock` it also owns the time: stamps advance by 0.05 s with every step, however long a busy machine takes for it.
    """

    def __init__(self, domain: int, speed_mps: float = 2.0, clock: bool = False, cameras: tuple[str, ...] = ("front",)):
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds_shm.xml")
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.mend()
        self.infos: list[tuple[float, dict]] = []
        self.trajectories: list[tuple[float, MultiDOFJointTrajectory]] = []
        self.levels: dict[str, tuple[int, str]] = {}
        self._speed = speed_mps
        self._pose = np.zeros(3)
        self.cameras = {c: self.node.create_publisher(CompressedImage, f"{NODE}/input/image/{c}", qos.IMAGE) for c in cameras}
        self.image_out = self.cameras[cameras[0]]
        self.odometry_out = self.node.create_publisher(Odometry, f"{NODE}/input/odometry", qos.ODOMETRY)
        self.node.create_subscription(MultiDOFJointTrajectory, f"{NODE}/output/trajectory", self._on_trajectory, qos.OUTPUT)
        self.node.create_subscription(String, f"{NODE}/output/plan_info", self._on_info, 1000)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._clock_out = self.node.create_publisher(Clock, "/clock", qos.SIM_CLOCK) if clock else None
        self._count = 0
        self._ticks: list[tuple[float, float]] = []
        self.planner_pid: int | None = None
        self.node.create_timer(_STEP_S, self._step)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        """All sensors in order."""
        self.images = self.odometry = True
        self.picture, self.damage, self.late_s = living, unharmed, {}

    def jump(self, back_s: float) -> None:
        """Set the clock back."""
        self._count -= round(back_s / _STEP_S)

    def call(self, kind: type, name: str, request, timeout_s: float = 60.0):
        """The answer of a service of the planner."""
        client = self.node.create_client(kind, f"{NODE}/{name}")
        assert client.wait_for_service(timeout_s), f"no service {name}"
        future = client.call_async(request)
        self.wait(future.done, timeout_s, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        self._context.try_shutdown()

    def heartbeats(self, begin: int) -> list[tuple[float, dict]]:
        """The heartbeats among the plan_infos from index `begin` on, and when they came."""
        return [(at, info) for at, info in self.infos[begin:] if info["event"] == "heartbeat"]

    def heartbeat_gap(self, begin: int) -> float:
        """Longest time between heartbeats from plan_info `begin` on, less the time that a busy machine kept us or the planner waiting
        for a processor."""
        return max((gap - held_up for gap, held_up in self.heartbeat_gaps(begin)), default=0.0)

    def heartbeat_gaps(self, begin: int) -> list[tuple[float, float]]:
        """Times between heartbeats from plan_info `begin` on, each with how long a busy machine kept us or the planner waiting in it."""
        times = [at for at, _ in self.heartbeats(begin)]
        ticks, waited = np.array(self._ticks).T
        gaps = []
        for before, after in zip(times, times[1:]):
            near = slice(max(np.searchsorted(ticks, before) - 1, 0), np.searchsorted(ticks, after) + 1)
            gaps.append((after - before, max(np.diff(ticks[near]).max(initial=0.0) - _STEP_S, 0.0) + np.ptp(waited[near])))
        return gaps

    def _step(self) -> None:
        self._ticks.append((time.monotonic(), waiting_s(self.planner_pid) if self.planner_pid else 0.0))
        now_ns = _EPOCH_NS + self._count * round(_STEP_S * 1e9)
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=conversions.time(now_ns)))
        if self.trajectories:
            plan = conversions.from_trajectory(self.trajectories[-1][1])
            at = (now_ns - plan.stamp_ns) / 1e9
            self._speed = float(np.interp(at, plan.times_s, plan.speeds_mps))
        self._pose = self._pose + [self._speed * _STEP_S, 0, 0]
        if self.odometry:
            self.odometry_out.publish(self.damage(conversions.odometry(now_ns, "odom", "base_link", self._pose, self._speed, 0.0)))
        self._count += 1
        if not self.images or self._count % 2:
            return
        for camera, out in self.cameras.items():
            data = self.picture(camera, self._count // 2)
            if data is not None:
                stamp_ns = now_ns + round(self.late_s.get(camera, 0.0) * 1e9)
                out.publish(CompressedImage(header=conversions.header(stamp_ns, camera), format="jpeg", data=data))

    def _on_trajectory(self, message: MultiDOFJointTrajectory) -> None:
        self.trajectories.append((time.monotonic(), message))

    def _on_info(self, message: String) -> None:
        self.infos.append((time.monotonic(), json.loads(message.data)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.levels[status.name.split(": ")[1]] = (int.from_bytes(status.level, "little"), status.message)

    def wait(self, condition, timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"no {what} within {timeout_s} s; newest: {self.infos[-1:]}, diagnostics: {self.levels}"
            time.sleep(0.02)

    def wait_info(self, condition, timeout_s: float = 30.0) -> dict:
        """The first plan_info that fulfils the condition and came after this call."""
        start, found = len(self.infos), []

        def there() -> bool:
            found[:] = [info for _, info in self.infos[start:] if condition(info)]
            return bool(found)

        self.wait(there, timeout_s, "plan_info that was waited for")
        return found[0]

    def wait_state(self, state: str, timeout_s: float = 30.0) -> dict:
        """The first heartbeat or plan of that state that came after this call."""
        return self.wait_info(lambda info: info["state"] == state and info["event"] != "rejected", timeout_s)
