"""The planner node and `spanvla bag` say the same, to the last digit, about the same drive."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")
pytest.importorskip("rosbags", reason="rosbags is not installed")

import bags  # noqa: E402
from ros_peer import Peer, environment, process  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.planning import messages  # noqa: E402
from spanvla_ros.ros import conversions, parameters, qos  # noqa: E402

DOMAIN = 40 + (os.getpid() + 40) % 50
COMPARED = ("waypoints_base", "reasoning", "pose_odom", "speed_mps", "seed", "tokens", "engine_hash")


def replay(peer: Peer, drive: list) -> None:
    """Clock, odometry up to the first sample after every image, then the image; then wait for what the node says to it."""
    clock = peer.node.create_publisher(Clock, "/clock", qos.SIM_CLOCK)
    peer.wait(lambda: peer.image_out.get_subscription_count() and peer.odometry_out.get_subscription_count(), 30, "planner")
    peer.wait(lambda: clock.get_subscription_count() and peer.infos, 30, "active planner")
    odometry = [(stamp, message) for topic, stamp, message in drive if topic == bags.ODOMETRY]
    for topic, stamp, message in drive:
        if topic != bags.IMAGE:
            continue
        clock.publish(Clock(clock=conversions.time(stamp)))
        while odometry and (not peer.sent or peer.sent[-1] < stamp):
            peer.sent.append(odometry[0][0])
            sample = messages.odometry(odometry.pop(0)[1])
            peer.odometry_out.publish(conversions.odometry(sample.stamp_ns, "odom", "base_link", *sample[1:]))
        header = conversions.header(stamp, "front_optical")
        peer.image_out.publish(CompressedImage(header=header, format="jpeg", data=bytes(message.data)))
        peer.wait(lambda stamp=stamp: any(info["anchor_ns"] == stamp for _, info in list(peer.infos)), 10, f"answer to {stamp}")


def test_plans_of_node_and_bag_are_identical_arrays(tmp_path, tiny_engine):
    drive = bags.drive(2.3, odometry_hz=33)  # odometry between the images: poses at t0 are interpolated
    bag = bags.write(tmp_path / "drive", drive)
    out = tmp_path / "out"
    words = ["bag", str(bag), "--camera", f"front={bags.IMAGE}", "--odometry", bags.ODOMETRY, "--engine", str(tiny_engine)]
    assert main([*words, "--out", str(out)]) == 0
    expected = {line["t0_ns"]: line for line in map(json.loads, (out / "plans.jsonl").read_text().splitlines())}
    options = ["-p", f"engine_dir:='{tiny_engine}'", "-p", "lockstep:=true", "-p", "use_sim_time:=true"]
    # the random model's plans need not be drivable, they only need to be the same
    options += [word for row in parameters.PLANNER if row.name.startswith("limits.") for word in ("-p", f"{row.name}:={row.high}")]
    command = ["-m", "spanvla_ros.ros.main", "planner", "--ros-args", *options]
    with process(command, environment(DOMAIN, tmp_path), tmp_path / "planner.log"):
        peer = Peer(DOMAIN)
        peer.images = peer.odometry = False
        peer.sent = []
        try:
            replay(peer, drive)
        finally:
            peer.close()
    found = {info["t0_ns"]: info for _, info in peer.infos if info["event"] == "plan"}
    assert len(expected) >= 8 and found.keys() == expected.keys(), (tmp_path / "planner.log").read_text()
    for stamp, line in expected.items():
        assert {k: found[stamp][k] for k in COMPARED} == {k: line[k] for k in COMPARED}


