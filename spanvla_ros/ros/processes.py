"""Simulator and planner as separate processes that find each other and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.share import share

PLANNER = "/spanvla_planner"
IMAGE, ODOMETRY, PLAN_INFO = "/sensing/camera/front/image/compressed", "/localization/odometry", f"{PLANNER}/output/plan_info"
# input of the planner -> topic of the simulator
WIRING = {
    "image/front": IMAGE,
    "camera_info/front": "/sensing/camera/front/camera_info",
    "odometry": ODOMETRY,
    "command": "/planning/command",
}
_LOG_LINES = 3


class ProcessFailed(SpanVLAError):
    """A node ended when it should not have; the message holds the end of its log."""


@dataclass(frozen=True)
class Node:
    """A running node and where its output goes."""

    name: str
    process: subprocess.Popen
    log: Path

    def check(self) -> bool:
        """Whether it still runs; ProcessFailed when it ended with a code other than 0."""
        code = self.process.poll()
        if code:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
            raise ProcessFailed(f"the {self.name} node ended with exit code {code}; the end of {self.log}: {' | '.join(lines)}")
        return code is None

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, and force where that is not enough; harmless when it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def environment(domain: int, logs: Path) -> dict[str, str]:
    """Environment of the nodes: a ROS domain on this machine alone, a shared-memory segment that images fit into."""
    values = dict(os.environ)
    source = str(Path(__file__).resolve().parent.parent.parent)
    values.update(
        ROS_DOMAIN_ID=str(domain),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        ROS_LOG_DIR=str(logs.resolve()),
        PYTHONPATH=os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")])),
        PYTHONUNBUFFERED="1",
    )
    values.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(share("config/fastdds_shm.xml")))
    return values


def start(name: str, parameters: Mapping[str, str], remaps: Mapping[str, str], env: Mapping[str, str], log: Path) -> Node:
    """`planner` or `simulator` with ROS parameters (YAML text) and remaps; the output goes to `log`."""
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    words += [word for source, target in remaps.items() for word in ("-r", f"{source}:={target}")]
    with log.open("w") as out:
        command = [sys.executable, "-m", "spanvla_ros.ros.main", name, "--ros-args", *words]
        return Node(name, subprocess.Popen(command, env=dict(env), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL), log)


def start_planner(engine: Path, env: Mapping[str, str], logs: Path) -> Node:
    """The planner node in lock-step with the simulator."""
    parameters = {"engine_dir": f"'{engine.resolve()}'", "lockstep": "true", "use_sim_time": "true"}
    return start("planner", parameters, {f"{PLANNER}/input/{name}": topic for name, topic in WIRING.items()}, env, logs / "planner.log")


def start_simulator(families: Sequence[str], seeds: str, results: Path, env: Mapping[str, str], logs: Path) -> Node:
    """The simulator node; appends one JSON line per episode to `results` and ends."""
    # the planner and the recorder: whoever is not matched in time misses the first seconds
    parameters = {"listeners": "2", "families": f"[{','.join(families)}]", "seeds": f"'{seeds}'", "output_file": f"'{results.resolve()}'", "planner": PLANNER}
    return start("simulator", parameters, {}, env, logs / "simulator.log")
