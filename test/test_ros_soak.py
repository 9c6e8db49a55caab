"""Faults in random order over DDS between the simulator and the real planner; and that the judge sees what goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from random import Random
from types import SimpleNamespace as Box

import numpy as np
import pytest

for module in ("rclpy", "libsumo", "moderngl", "shapely", "matplotlib"):
    pytest.importorskip(module, reason=f"{module} is not installed")

import cv2  # noqa: E402

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.evaluation import soak as judge  # noqa: E402
from spanvla_ros.ros import faults, processes, soak  # noqa: E402


@pytest.fixture
def fresh_environment():
    """The listener sets ROS variables of its own process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def drive(minutes, seed, folder):
    code = main(["soak", "--minutes", str(minutes), "--seed", str(seed), "--out", str(folder)])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["broken"] == [] and code == 0
    assert summary["crashes"] == summary["callback_errors"] == 0 and summary["plans"] > 0
    assert cv2.imread(str(folder / "soak.png")).shape[1] > 1000
    return summary


def test_a_short_soak_recovers_from_every_fault(tmp_path, fresh_environment):
    summary = drive(0.4, 342, tmp_path)  # clock, odometry, pause and life cycle come first
    assert summary["faults"] >= 2 and summary["reasons"]


def test_no_shared_memory_between_the_nodes(tmp_path, fresh_environment):
    """It would let a stopped simulator hold up the planner, and LOCALHOST brings it back behind the profile."""
    env = soak._without_shared_memory(processes.environment(processes.domain(), tmp_path))
    code = """if True:
        import sys, time, rclpy
        from std_msgs.msg import Empty
        rclpy.init()
        node = rclpy.create_node(sys.argv[1])
        heard = []
        node.create_subscription(Empty, sys.argv[2], heard.append, 1)
        publisher = node.create_publisher(Empty, sys.argv[1], 1)
        end_s = time.monotonic() + 30
        while not heard and time.monotonic() < end_s:
            publisher.publish(Empty())
            rclpy.spin_once(node, timeout_sec=0.1)
        for _ in range(20):  # for the other one
            publisher.publish(Empty())
            time.sleep(0.1)
        print(bool(heard), "/shm/fastdds" in open("/proc/self/maps").read())
    """
    nodes = [subprocess.Popen([sys.executable, "-c", code, *names], env=env, stdout=subprocess.PIPE, text=True) for names in (("a", "b"), ("b", "a"))]
    assert [node.communicate(timeout=60)[0].split() for node in nodes] == [["True", "False"]] * 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_three_minutes_of_faults(tmp_path, fresh_environment):
    summary = drive(3, 3, tmp_path)
    assert summary["faults"] >= 10
    assert {"NOMINAL", "HOLD", "STOPPING", "WAITING"} <= set(summary["state_share"])


def test_every_kind_of_fault_comes_before_one_comes_again_and_the_seed_decides():
    def drawn(seed, count=14):
        breaker = soak._Breaker(None, None, None, Random(seed), print)
        return [breaker._draw() for _ in range(count)]

    assert drawn(1) == drawn(1) != drawn(2)
    first = [name for names in drawn(5, 40) for name in names]
    assert set(first) == set(soak.FAULTS)
    assert all(sum(name in soak.PROCESS_FAULTS for name in names) <= 1 for names in drawn(7, 200))


def record(**changes):
    beats = [(0.1 * k, 0.0) for k in range(6000)]
    values = {
        "beats": beats,
        "states": [(at_s, "heartbeat", "NOMINAL", "OK") for at_s, _ in beats],
        "rss_mb": [(float(k), 200.0) for k in range(600)],
        "faults": [{"names": ["pause"], "begin_s": 10.0, "end_s": 12.0, "recovered_s": 13.0}],
        "plans": 5,
    }
    return soak.Record(minutes=10.0, seed=0, **{**values, **changes})


def test_the_judge_passes_what_is_in_order():
    summary = judge.summarize(record())
    assert summary["passed"] and summary["rss_growth_percent"] == 0 and summary["heartbeat_gap_s"]["largest"] == pytest.approx(0.1, abs=1e-3)


def late(wait_s=0.0, silent=()):
    beats = [(0.1 * k + (0.4 if k >= 100 else 0), wait_s if k >= 100 else 0.0) for k in range(6000)]
    return {"beats": beats, "silent": list(silent)}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (late(), "largest gap between heartbeats 0.500 s"),
        ({"beats": []}, "largest gap between heartbeats"),
        ({"rss_mb": [(float(k), 200.0 + 0.02 * k) for k in range(600)]}, "memory grew by"),
        ({"crashes": ["the planner node ended with exit code -11"]}, "exit code -11"),
        ({"callback_errors": 2}, "2 callbacks"),
        ({"faults": [{"names": ["reload"], "begin_s": 7.0, "end_s": 8.0, "recovered_s": None}]}, "no recovery from reload at 7 s"),
        ({"beyond_limits": ["3.0 s: speed is 90 m/s"]}, "1 trajectories beyond the limits"),
    ],
)
def test_the_judge_names_what_broke(changes, named):
    summary = judge.summarize(record(**changes))
    assert not summary["passed"]
    assert any(re.search(named, line) for line in summary["broken"]), summary["broken"]


def test_the_judge_forgives_a_busy_machine_and_a_node_that_was_told_to_be_silent():
    assert judge.summarize(record(**late(wait_s=0.3)))["passed"]
    assert judge.summarize(record(**late(silent=[(9.5, 10.5)])))["passed"]


def spoiled(active, jpegs):
    """What a camera with these faults sends for messages with the stamps 0, 1, 2 ... s."""
    node = Box(active=frozenset(active), _rng=Random(0), _late=faults.deque(), _frozen=None, _stamp=None, _count=0, jump_ns=0)
    for name in ("_moved", "_spoil_jpeg"):
        setattr(node, name, getattr(faults.FaultySimulator, name).__get__(node))
    messages = [Box(header=Box(stamp=Box(sec=second, nanosec=0)), data=jpeg) for second, jpeg in enumerate(jpegs)]
    return [made for message in messages for made in faults.FaultySimulator._spoil_image(node, message)]


def test_camera_faults_do_what_they_are_called():
    jpegs = [cv2.imencode(".jpg", np.full((30, 40, 3), 20 * k, np.uint8))[1].tobytes() for k in range(1, 11)]
    assert [m.data for m in spoiled((), jpegs)] == jpegs
    assert spoiled({"camera_dropout"}, jpegs) == []
    assert [m.header.stamp.sec for m in spoiled({"slow_images"}, jpegs)] == [4, 9]
    assert [m.header.stamp.sec for m in spoiled({"late_camera"}, jpegs)] == [0, 1, 2, 3, 4, 5]
    assert {m.data for m in spoiled({"frozen_image"}, jpegs)} == {jpegs[0]}
    assert all(len(m.data) == len(jpeg) // 2 for m, jpeg in zip(spoiled({"truncated_jpeg"}, jpegs), jpegs))
    decoded = [cv2.imdecode(np.frombuffer(m.data, np.uint8), 1) for m in spoiled({"black_image", "resized_image"}, jpegs)]
    assert all(not pixels.any() and pixels.shape == (10, 20, 3) for pixels in decoded)
    assert spoiled({"future_image"}, jpegs)[0].header.stamp.sec == 3600
