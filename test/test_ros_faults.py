"""The fault matrix: the real node over DDS, two cameras, a fake Backend; one fault after another, and what comes of each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from nav_msgs.msg import Path as RosPath  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from ros_faults import GAP_S, Faults  # noqa: E402
from ros_peer import JPEG, NODE, PICTURES, ROOT, Peer, environment, process  # noqa: E402
from sensor_msgs.msg import CameraInfo  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from spanvla_ros.ros import conversions, qos  # noqa: E402

DOMAIN = 40 + (os.getpid() + 13) % 50
CAMERAS = ("front", "front_left")
OPTIONS = ["--ros-args", "-p", "use_sim_time:=true", "-p", "deadline_s:=5.0", "-p", "clock_stall_s:=20.0"]
PLANNER = ["test/ros_fake_planner.py", *OPTIONS, "-p", "rig_file:=config/rigs/minisim.yaml"]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """A planner that drives a car, and what can go wrong with them."""
    folder = tmp_path_factory.mktemp("faults")
    file = folder / "fault.json"
    file.write_text("{}")
    env = environment(DOMAIN, folder) | {"SPANVLA_TEST_CAMERAS": ",".join(CAMERAS), "SPANVLA_TEST_FAULT": str(file)}
    with process(PLANNER, env, folder / "planner.log") as child:
        peer = Peer(DOMAIN, clock=True, cameras=CAMERAS)
        peer.child, peer.planner_pid, peer.log = child, child.pid, folder / "planner.log"
        try:
            yield Faults(peer, file)
        finally:
            peer.close()
    assert child.returncode == 0, peer.log.read_text()
    assert "Traceback" not in peer.log.read_text(), peer.log.read_text()


def held(reason, *states):
    """Condition of a heartbeat in one of these states (HOLD, when none is named) for that reason."""
    return lambda info: info["event"] == "heartbeat" and info["state"] in (states or ("HOLD", "STOPPING")) and info["reason"] == reason


def test_camera_drop_out(faults):
    with faults.fault("camera drop-out") as peer:
        begin = len(peer.infos)
        peer.picture = lambda camera, k: None if camera == "front_left" else PICTURES[k % 16]
        seen = [peer.wait_info(held("IMAGE_STALE", state)) for state in ("HOLD", "STOPPING", "STOPPED")]
        assert all("image/front_left is " in info["detail"] and "allowed are 0.3 s" in info["detail"] for info in seen)
        assert peer.levels["inputs"] == (2, "IMAGE_STALE")
        order = [state for state, _ in faults.states(begin)]
        assert order == sorted(order, key=["NOMINAL", "HOLD", "STOPPING", "STOPPED"].index)


def test_one_camera_late_by_60_ms(faults):
    with faults.fault("camera 60 ms late") as peer:
        # at 10 Hz its nearest frame is then 40 ms away
        assert faults.set("max_skew_s", 0.03) == ""
        peer.late_s = {"front_left": 0.06}
        line = "the cameras are 0.040 s apart, allowed are 0.03 s; 'front_left' is at t0 -0.040 s"
        peer.wait_info(lambda info: held("CAMERA_SKEW")(info) and info["detail"] == line)
        assert faults.set("max_skew_s", 0.05) == ""
        plan = peer.wait_info(lambda info: info["event"] == "plan" and info["skew_s"] > 0.03)
        assert plan["skew_s"] == pytest.approx(0.04) and plan["state"] == "NOMINAL"


def test_truncated_jpeg_stream(faults):
    with faults.fault("truncated JPEG") as peer:
        peer.picture = lambda camera, k: JPEG[: len(JPEG) // 2]
        rejected = peer.wait_info(lambda info: info["event"] == "rejected" and info["reason"] == "IMAGE_INVALID")
        assert "truncated" in rejected["detail"] and "camera 'front'" in rejected["detail"]
        peer.wait_info(held("IMAGE_INVALID", "HOLD"))


def test_frozen_image(faults):
    with faults.fault("frozen image") as peer:
        peer.picture = lambda camera, k: PICTURES[0 if camera == "front_left" else k % 16]
        info = peer.wait_info(held("IMAGE_FROZEN"))
        assert "camera 'front_left' has sent the same picture for" in info["detail"] and " m" in info["detail"]


def test_black_image_and_its_switch(faults):
    import cv2

    black = cv2.imencode(".jpg", np.zeros((126, 224, 3), np.uint8))[1].tobytes()
    with faults.fault("black image") as peer:
        peer.picture = lambda camera, k: black
        peer.wait_info(held("IMAGE_BLACK", "HOLD"))
        assert faults.set("refuse_black", False) == ""
        peer.wait_state("NOMINAL")
        assert faults.set("refuse_black", True) == ""


def test_changed_resolution(faults):
    import cv2

    small = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (63, 112, 3), dtype=np.uint8))[1].tobytes()
    with faults.fault("changed resolution") as peer:
        peer.picture = lambda camera, k: small + bytes([k % 16])  # what follows the end of a JPEG is not read
        info = peer.wait_info(held("IMAGE_RESIZED"))
        assert "changed from (224, 126) to (112, 63) px" in info["detail"]


def test_odometry_gap_of_a_second(faults):
    with faults.fault("odometry gap 1 s") as peer:
        begin = len(peer.infos)
        peer.odometry = False
        at = peer._count
        peer.wait_info(held("ODOMETRY_STALE", "HOLD"))
        peer.wait(lambda: peer._count >= at + 20, 30, "a second")
        peer.odometry = True
        info = peer.wait_info(held("ODOMETRY_GAP"))
        assert "allowed are 0.25 s" in info["detail"]
        peer.wait_state("NOMINAL")
        assert {reason for _, reason in faults.states(begin)} <= {"OK", "ODOMETRY_STALE", "ODOMETRY_BEHIND", "ODOMETRY_GAP", "HISTORY_SHORT"}


@pytest.mark.parametrize(("field", "value", "named"), [("x", float("nan"), "position.x is nan"), ("w", 0.0, "not a unit quaternion")])
def test_odometry_that_is_no_pose(faults, field, value, named):
    def spoil(message):
        setattr(message.pose.pose.position if field == "x" else message.pose.pose.orientation, field, value)
        if field == "w":
            message.pose.pose.orientation.z = 0.0
        return message

    with faults.fault(f"odometry {field} = {value}") as peer:
        peer.damage = spoil
        info = peer.wait_info(held("ODOMETRY_INVALID"))
        assert named in info["detail"]
        peer.wait(lambda: named in peer.levels["inputs"][1] and peer.levels["inputs"][0] == 2, 20, "diagnostics")


def test_clock_jumps_back(faults):
    with faults.fault("clock jump back") as peer:
        begin = len(peer.infos)
        peer.jump(5.0)
        info = peer.wait_info(lambda info: info["event"] == "reset")
        assert info["reason"] == "CLOCK_JUMPED" and info["detail"].startswith(("the clock jumped back by 4.9", "the clock jumped back by 5.0"))
        # the car still stands where its plan is: it is held, under the new time, until there is a history again
        peer.wait_info(held("HISTORY_SHORT"))
        peer.wait_state("NOMINAL")
        assert "WAITING" not in {state for state, _ in faults.states(begin)}


def test_inference_slower_than_the_deadline(faults):
    with faults.fault("slow inference") as peer:
        assert faults.set("deadline_s", 0.3) == ""
        faults.backend(slow_s=1.5)
        peer.wait_info(held("DEADLINE_MISSED", "HOLD"))
        assert faults.set("deadline_s", 5.0) == ""
        peer.wait(lambda: peer.levels["inputs"] == (0, "fresh"), 20, "diagnostics of good inputs")


def test_backend_raises(faults):
    with faults.fault("backend raises") as peer:
        faults.backend(**{"raise": "the GPU fell off the bus"})
        info = peer.wait_info(held("BACKEND_ERROR", "HOLD"))
        assert info["detail"] == "RuntimeError: the GPU fell off the bus"
        peer.wait_info(held("BACKEND_ERROR", "STOPPING"))


def test_backend_returns_nan(faults):
    with faults.fault("backend returns NaN") as peer:
        faults.backend(nan=True)
        info = peer.wait_info(held("PLAN_INVALID", "HOLD"))
        assert "not finite" in info["detail"]


def test_command_changes_while_a_plan_is_made(faults):
    with faults.fault("command mid-plan") as peer:
        out = peer.node.create_publisher(String, f"{NODE}/input/command", qos.COMMAND)
        peer.wait(out.get_subscription_count, 20, "planner that hears commands")
        faults.backend(slow_s=0.6)
        peer.wait(faults.in_flight, 20, "plan in the making")
        begin = len(peer.infos)
        out.publish(String(data="left"))
        peer.wait_info(lambda info: info["event"] == "plan" and info["command"] == "left")
        plans = [info for _, info in peer.infos[begin:] if info["event"] == "plan"]
        # the one in the making keeps what it was asked; nothing is thrown away for it
        assert [info["command"] for info in plans] == ["unknown"] * (len(plans) - 1) + ["left"] and len(plans) > 1
        assert not [info for _, info in peer.infos[begin:] if info["event"] == "rejected"]
        out.publish(String(data="fly"))
        peer.wait(lambda: "'fly' is not one of" in peer.levels["inputs"][1], 20, "diagnostics")
        out.publish(String(data="unknown"))


LISTENER = f"""
import rclpy
from trajectory_msgs.msg import MultiDOFJointTrajectory
from spanvla_ros.ros import qos
rclpy.init()
node = rclpy.create_node("listener")
node.create_subscription(MultiDOFJointTrajectory, "{NODE}/output/trajectory", lambda message: print("heard", flush=True), qos.OUTPUT)
rclpy.spin(node)
"""


def test_a_subscriber_hangs_and_vanishes(faults, tmp_path):
    with faults.fault("subscriber vanishes") as peer:
        with (tmp_path / "listener.log").open("w") as log:
            env = environment(DOMAIN, tmp_path)
            child = subprocess.Popen([sys.executable, "-c", LISTENER], env=env, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            peer.wait(lambda: "heard" in (tmp_path / "listener.log").read_text(), 60, "listener")
            child.send_signal(signal.SIGSTOP)
            for end in (None, signal.SIGKILL):
                if end is not None:
                    child.send_signal(end)
                plans = peer.infos[-1][1]["plans"]
                peer.wait(lambda plans=plans: peer.infos[-1][1]["plans"] >= plans + 10, 30, "plans without it")
        finally:
            child.kill()
            child.wait()


def test_a_plan_beyond_the_limits_and_what_may_change_live(faults):
    with faults.fault("plan beyond a limit") as peer:
        assert faults.set("limits.speed_mps", 0.5) == ""
        info = peer.wait_info(held("PLAN_INVALID", "HOLD"))
        assert "is over the limit of 0.5 m/s" in info["detail"]
        assert faults.set("limits.speed_mps", 40.0) == ""
        assert "limits.speed_mps out of range Min: 0.1, Max: 100.0, value: -1.0" in faults.set("limits.speed_mps", -1.0)  # rclpy's words
        assert "was not made for old pictures; set it to 0" in faults.set("replan_s", 0.1)
        refused = faults.set("engine_dir", "/elsewhere")
        assert "engine_dir takes effect at configure: deactivate and clean up first; now can change plan_early" in refused


def test_the_text_says_stop_and_the_plan_drives_on(faults):
    with faults.fault("contradiction") as peer:
        faults.backend(text="Red light, stop at the line.")
        info = peer.wait_info(lambda info: info["event"] == "plan" and info["alarm"])
        assert info["alarm"] == f"the text says stop, the plan drives on at {info['speed_mps']:.1f} m/s"
        peer.wait(lambda: peer.levels["consistency"][0] == 1 and "the text says stop" in peer.levels["consistency"][1], 20, "diagnostics")


def camera_info(camera: str, hfov_deg: float) -> CameraInfo:
    focal = 112 / np.tan(np.radians(hfov_deg / 2))
    message = CameraInfo(header=conversions.header(0, camera), width=224, height=126, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [focal, 0.0, 112.0, 0.0, focal, 63.0, 0.0, 0.0, 1.0]
    return message


def test_another_lens_is_rectified_or_named(faults):
    with faults.fault("another lens") as peer:
        out = peer.node.create_publisher(CameraInfo, f"{NODE}/input/camera_info/front", qos.CAMERA_INFO)
        peer.wait(out.get_subscription_count, 20, "planner that hears camera_info")
        for hfov_deg, level, line in (
            (100.0, 0, "camera front: 100.0 deg rectified to the trained 70.0 deg"),
            (50.0, 1, "camera front: horizontal field of view is 50.0 deg, trained with 70.0 deg"),
            (70.0, 0, "as trained"),
        ):
            def told(level=level, line=line, message=camera_info("front", hfov_deg)):
                out.publish(message)
                return peer.levels["rig"][0] == level and line in peer.levels["rig"][1]

            peer.wait(told, 20, line)
            peer.wait_state("NOMINAL")


def test_incompatible_qos_is_named(faults):
    with faults.fault("incompatible QoS") as peer:
        offered = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        wanted = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        peer.node.create_publisher(String, f"{NODE}/input/command", offered)
        peer.wait(lambda: "~/input/command: a publisher offers another RELIABILITY" in peer.levels["qos"][1], 20, "diagnostics")
        peer.node.create_subscription(RosPath, f"{NODE}/output/path", lambda message: None, wanted)
        peer.wait(lambda: "~/output/path: a subscriber asks for another DURABILITY" in peer.levels["qos"][1], 20, "diagnostics")
        assert peer.levels["qos"][0] == 1


def test_reset_when_asked(faults):
    with faults.fault("reset") as peer:
        begin = len(peer.infos)
        assert peer.call(Trigger, "reset", Trigger.Request()).success
        peer.wait(lambda: [i for _, i in peer.infos[begin:] if (i["event"], i["state"], i["reason"]) == ("reset", "WAITING", "RESET")], 20, "reset")
        # which input is named depends on what came first; that the plan is gone does not
        peer.wait(lambda: any(state == "WAITING" for state, _ in faults.states(begin)), 20, "heartbeat without a plan")


@pytest.mark.slow
def test_no_heartbeat_was_late(faults):
    """Measures time, so not in CI: the longest gap of every fault above, less what the machine kept the processes waiting."""
    for name, gap in faults.raw_gaps_s.items():
        print(f"{name}: {gap:.3f} s, {max(faults.gaps_s[name], 0):.3f} s of it the planner's own")
    assert len(faults.gaps_s) >= 18 and max(faults.gaps_s.values()) <= GAP_S, faults.gaps_s


def test_sigint_in_the_middle_of_an_inference(faults):
    """The last one: it ends the planner that all the others shared."""
    peer = faults.peer
    interrupt(faults, peer.child, signal.SIGINT)


def interrupt(faults, child, number):
    peer = faults.peer
    faults.settle()
    infos, plans = len(peer.infos), len(peer.trajectories)
    faults.backend(slow_s=1.0)
    peer.wait(faults.in_flight, 20, "plan in the making")
    child.send_signal(number)
    time.sleep(0.05)
    child.send_signal(number)
    assert child.wait(60) == 0
    faults.check(signal.Signals(number).name, infos, plans)
    text = peer.log.read_text()
    assert "Traceback" not in text and "exception" not in text.lower(), text


def transition(peer, which):
    return peer.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=which))).success


def test_an_engine_file_is_removed_between_configure_runs_and_the_engine_is_swapped(tmp_path):
    """The real engine room: demo engine, lifecycle transitions, SIGTERM while it plans."""
    from spanvla_ros.share import DEMO_ENGINE, share

    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(share(DEMO_ENGINE), first)
    second.symlink_to(share(DEMO_ENGINE))
    victim = max(first.glob("*.onnx*"), key=lambda path: path.stat().st_size)
    command = ["-m", "spanvla_ros.ros.main", "planner", *OPTIONS, "-p", "autostart:=false", "-p", f"engine_dir:={first}"]
    with process(command, environment(DOMAIN + 1, tmp_path), tmp_path / "planner.log") as child:
        peer = Peer(DOMAIN + 1, clock=True)
        peer.planner_pid, peer.log = child.pid, tmp_path / "planner.log"
        swap = Faults(peer, tmp_path / "fault.json")
        try:
            for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
                assert transition(peer, step), peer.log.read_text()
            drives(peer)
            for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
                assert transition(peer, step)
            victim.unlink()
            assert not transition(peer, Transition.TRANSITION_CONFIGURE)
            assert peer.call(GetState, "get_state", GetState.Request()).current_state.label == "unconfigured"
            peer.wait(lambda: peer.levels["model"][0] == 2 and victim.name in peer.levels["model"][1], 20, "diagnostics")
            assert swap.set("engine_dir", str(second)) == ""
            for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
                assert transition(peer, step), peer.log.read_text()
            infos, plans = len(peer.infos), len(peer.trajectories)
            drives(peer)
            swap.check("engine swap", infos, plans)
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
        finally:
            peer.close()
    text = peer.log.read_text()
    assert text.count("configure failed") == 1 and "Traceback" not in text, text


def drives(peer):
    """The engine answers to the inputs: with a plan, or it names the limit that noise for pictures made it break."""
    peer.wait_info(lambda info: info["event"] == "plan" or info["reason"] == "PLAN_INVALID", 120)
