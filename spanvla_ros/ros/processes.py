"""Simulator and planner as separate processes that find each other and nobody else."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.evaluation.results import read_lines
from spanvla_ros.ros import topics
from spanvla_ros.share import FASTDDS_PROFILE, share

PLANNER = "/spanvla_planner"
_CAMERAS = ("front",)
# input of the planner -> topic of the simulator
WIRING = topics.load("minisim").inputs(_CAMERAS)
IMAGE, ODOMETRY, PLAN_INFO = WIRING["image/front"], WIRING["odometry"], f"{PLANNER}/output/plan_info"
_LOG_LINES = 3
_POLL_S = 0.2


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
    values.setdefault(FASTDDS_PROFILE, str(share("config/fastdds_shm.xml")))
    return values


def start(name: str, module: Sequence[str], parameters: Mapping[str, str], remaps: Mapping[str, str], env: Mapping[str, str], log: Path) -> Node:
    """`python -m module ...` with ROS parameters (YAML text) and remaps; the output goes to `log`."""
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    words += [word for source, target in remaps.items() for word in ("-r", f"{source}:={target}")]
    with log.open("w") as out:
        command = [sys.executable, "-m", *module, "--ros-args", *words]
        return Node(name, subprocess.Popen(command, env=dict(env), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL), log)


def start_planner(env: Mapping[str, str], logs: Path, *, engine: Path | None = None, baseline: str = "", lockstep: bool = True) -> Node:
    """The planner node on the topics of the simulator, in lock-step with it or not: an engine, or a baseline of `ros.baseline`."""
    parameters = {"lockstep": str(lockstep).lower(), "use_sim_time": "true", "engine_dir": f"'{engine.resolve() if engine else baseline}'"}
    if lockstep:  # what is shown on purpose is for the model to answer, as in one process
        parameters |= {"refuse_black": "false", "refuse_frozen": "false"}
    module = ("spanvla_ros.ros.baseline", baseline) if baseline else ("spanvla_ros.ros.main", "planner")
    remaps = {f"{PLANNER}/input/{name}": topic for name, topic in WIRING.items()}
    return start("planner", module, parameters, remaps, env, logs / "planner.log")


def start_simulator(parameters: Mapping[str, str], env: Mapping[str, str], logs: Path) -> Node:
    """The simulator node; it ends when its episodes are driven."""
    return start("simulator", ("spanvla_ros.ros.main", "simulator"), {"planner": PLANNER, **parameters}, {}, env, logs / "simulator.log")


def domain() -> int:
    """A ROS domain that other drives on this machine hardly have; 0-101 are safe on every platform."""
    return random.SystemRandom().randrange(1, 100)


def drives(start_planner: Callable[[], Node], start_simulator: Callable[[], Node], results: Path) -> Iterator[dict[str, Any]]:
    """Both nodes from start to end: the lines that the simulator adds to `results`, as they come."""
    nodes: list[Node] = []
    try:
        for make in (start_planner, start_simulator):
            nodes.append(make())
        planner, simulator = nodes
        seen, running = 0, True
        while running:
            running = simulator.check()
            lines = read_lines(results)
            yield from lines[seen:]
            seen = len(lines)
            if running and not planner.check():
                raise ProcessFailed(f"the planner node ended by itself; see {planner.log}")
            time.sleep(_POLL_S if running else 0)
    finally:
        for node in nodes:
            node.stop()
    planner.check()
