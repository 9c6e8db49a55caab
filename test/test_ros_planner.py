"""The real planner process over DDS, with a fake Backend: what it does when its inputs fail."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from lifecycle_msgs.srv import GetState  # noqa: E402
from ros_peer import NODE, Peer, environment, process  # noqa: E402

from spanvla_ros.ros import conversions  # noqa: E402

DOMAIN = 40 + os.getpid() % 50  # below 101, and another one for every run of the tests


# a busy machine may be slow, but what happens must stay the same: the time is the peer's, its clock may stop for a while
PLANNER = ["test/ros_fake_planner.py", "--ros-args", "-p", "use_sim_time:=true", "-p", "deadline_s:=5.0", "-p", "clock_stall_s:=20.0"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A running planner and a car that follows it."""
    folder = tmp_path_factory.mktemp("planner")
    with process(PLANNER, environment(DOMAIN, folder), folder / "planner.log") as child:
        peer = Peer(DOMAIN, clock=True)
        peer.child, peer.planner_pid = child, child.pid
        try:
            yield peer
        finally:
            peer.close()
    assert child.returncode == 0, (folder / "planner.log").read_text()


@pytest.fixture
def drive(running):
    """The car with all its sensors in order."""
    running.mend()
    running.wait_state("NOMINAL", 60)
    return running


def test_waiting_publishes_no_trajectory_and_the_first_plan_begins_at_the_measured_state(drive):
    before = [info for _, info in drive.infos if info["plans"] == 0]
    assert before and all(info["state"] == "WAITING" and info["stamp_ns"] is None for info in before)
    pairs = []

    def paired():
        """A busy machine may lose single messages of a topic with depth 1: the first plan that came with its trajectory."""
        plans = {info["t0_ns"]: info for _, info in list(drive.infos) if info["event"] == "plan" and info["speed_mps"] == 2.0}
        stamped = [conversions.from_trajectory(message) for _, message in list(drive.trajectories)[:50]]
        pairs[:] = [(plans[t.stamp_ns], t) for t in stamped if t.stamp_ns in plans]
        return bool(pairs)

    drive.wait(paired, 5, "plan with its trajectory")
    info, plan = pairs[0]
    assert plan.speeds_mps[0] == info["speed_mps"] == 2.0
    np.testing.assert_allclose(plan.poses_odom[0], info["pose_odom"], atol=1e-9)
    np.testing.assert_allclose(plan.times_s, np.arange(51) * 0.1, atol=1e-9)
    # the raw waypoints of the model lie on the published trajectory
    np.testing.assert_allclose(plan.poses_odom[5::5, 0] - plan.poses_odom[0, 0], np.array(info["waypoints_base"])[:, 0], atol=1e-6)
    assert info["reasoning"] == "The road is clear, I act directly." and info["engine_hash"] == "fake"


def test_only_the_documented_topics_are_subscribed_to(drive):
    expected = {f"{NODE}/input/{name}" for name in ("image/front", "camera_info/front", "odometry", "command", "route")}
    found = {name for name, _ in drive.node.get_subscriber_names_and_types_by_node(NODE[1:], "/")}
    assert expected <= found
    assert found - expected <= {"/tf", "/tf_static", "/clock", "/parameter_events"}, "the planner listens to something else"


def test_loss_of_images_holds_brakes_stops_and_recovers(drive):
    drive.images = False
    seen = [drive.wait_state(state) for state in ("HOLD", "STOPPING", "STOPPED")]
    assert {info["reason"] for info in seen} == {"IMAGE_STALE"}
    drive.wait(lambda: drive.levels["plan"] == (2, "STOPPED: IMAGE_STALE"), 3, "diagnostics")
    assert drive.levels["inputs"] == (2, "IMAGE_STALE")
    standing = conversions.from_trajectory(drive.trajectories[-1][1])
    assert not standing.speeds_mps.any() and np.ptp(standing.poses_odom[:, 0]) == 0
    drive.images = True
    drive.wait_state("NOMINAL")


def test_loss_of_everything_and_return(drive):
    drive.images = drive.odometry = False
    seen = [drive.wait_state(state) for state in ("HOLD", "STOPPING", "STOPPED")]
    assert {info["reason"] for info in seen} <= {"ODOMETRY_STALE", "IMAGE_STALE"}
    drive.images = drive.odometry = True
    drive.wait_state("NOMINAL")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("hold_s:=-1.0", "parameter hold_s is -1, allowed is 0.1 to 5 s"),
        ("colour:=red", "parameter colour is unknown; known are autostart,"),
        ("limits.speed_mps:=fast", "parameter limits.speed_mps is 'fast', it must be a number"),
        ("anchor_camera:=rear", "parameter anchor_camera is 'rear', the model has front"),
    ],
)
def test_a_wrong_parameter_fails_configure_with_one_line(tmp_path, argument, line):
    domain = DOMAIN + 1
    with process([*PLANNER, "-p", argument], environment(domain, tmp_path), tmp_path / "node.log") as child:
        end = time.monotonic() + 60
        while "configure failed" not in (tmp_path / "node.log").read_text() and time.monotonic() < end:
            time.sleep(0.05)
        text = (tmp_path / "node.log").read_text()
        assert text.count("\n") == 1 and f"configure failed: {line}" in text, text
        assert child.poll() is None
        if argument.startswith("hold_s"):
            assert state_of(domain) == "unconfigured"
        child.send_signal(signal.SIGINT)
        time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
        assert "Traceback" not in (tmp_path / "node.log").read_text()


def state_of(domain: int) -> str:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("asker", context=context)
    try:
        client = node.create_client(GetState, f"{NODE}/get_state")
        assert client.wait_for_service(60)
        future = client.call_async(GetState.Request())
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        rclpy.spin_until_future_complete(node, future, executor, timeout_sec=60)
        return future.result().current_state.label
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_two_interrupts_while_driving_end_the_node_cleanly(tmp_path):
    domain = DOMAIN + 2
    with process(PLANNER, environment(domain, tmp_path), tmp_path / "node.log") as child:
        peer = Peer(domain, clock=True)
        try:
            peer.wait_state("NOMINAL", 60)
            child.send_signal(signal.SIGINT)
            time.sleep(0.05)
            child.send_signal(signal.SIGINT)
            assert child.wait(10) == 0
        finally:
            peer.close()
    text = (tmp_path / "node.log").read_text()
    assert "Traceback" not in text and "exception" not in text.lower(), text
