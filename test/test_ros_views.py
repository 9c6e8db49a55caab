"""What people look at: the debug image, drawn only for those who look, and the topics of the RViz and Foxglove views."""

from __future__ import annotations

import dataclasses
import json
import os
import threading

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from helpers import S, history  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import LifecycleNode  # noqa: E402
from ros_peer import NODE, ROOT, Peer, environment, process  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from spanvla_ros import contracts  # noqa: E402
from spanvla_ros.planning import messages, supervisor  # noqa: E402
from spanvla_ros.planning.trajectory import densify  # noqa: E402
from spanvla_ros.ros import debug, qos  # noqa: E402
from spanvla_ros.ros.markers import markers  # noqa: E402

# display of RViz -> type of its topic
KINDS = {
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "Path": "nav_msgs/msg/Path",
    "Image": "sensor_msgs/msg/Image",
    "Odometry": "nav_msgs/msg/Odometry",
}


def observed(stamp_ns, size=(252, 448)):
    """A grey picture and a plan straight ahead."""
    frames = tuple(contracts.Image(stamp_ns=stamp_ns, rgb=np.full((*size, 3), 90, np.uint8)) for _ in range(2))
    observation = contracts.Observation(t0_ns=stamp_ns, images={"front": frames}, history=history(t0_ns=stamp_ns), pose_odom=np.zeros(3))
    waypoints = np.column_stack([4.0 * np.arange(1, 11), np.zeros(10), np.zeros(10)])
    plan = contracts.Plan(
        t0_ns=stamp_ns, waypoints_base=waypoints, waypoint_interval_s=0.5, pose_odom=np.zeros(3), speed_mps=8.0,
        reasoning="a truck stands in my lane 40 m ahead, I slow down and pass it on the left.", tokens=9, seed=0, engine_hash="",
    )  # fmt: skip
    return observation, plan


def test_the_plan_lies_on_the_road_of_a_large_picture():
    observation, plan = observed(10 * S, (900, 1600))
    drawn = debug.draw(observation.images["front"][-1].rgb, debug.overlay.DEMO_MOUNTING, plan)
    assert drawn.shape[1] == 640 and 360 < drawn.shape[0] < 480
    blue = np.argwhere((drawn[:360, :, 2].astype(int) - drawn[:360, :, 0]) > 40)
    assert len(blue) > 500 and blue[:, 0].min() > 180, "drawn above the horizon"
    assert abs(blue[:, 1].mean() - 320) < 5
    assert np.ptp(drawn[360:].astype(int)) > 150, "no text"
    long = debug.draw(observation.images["front"][-1].rgb, debug.overlay.DEMO_MOUNTING, dataclasses.replace(plan, reasoning="word " * 200))
    assert long.shape == drawn.shape


def test_nothing_is_drawn_for_nobody_and_the_newest_for_a_slow_drawer(monkeypatch):
    drawn, gate = [], threading.Event()

    def slow(rgb, mounting, plan):
        drawn.append(plan.t0_ns)
        gate.wait(10)
        return rgb

    monkeypatch.setattr(debug, "draw", slow)
    context = rclpy.Context()
    rclpy.init(context=context)
    node, listener = LifecycleNode("drawer", context=context), rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(listener)
    shown = debug.DebugImage(node, "front", "")
    try:
        shown.show(*observed(1 * S + 10 * S))
        received = []
        listener.create_subscription(Image, "/drawer/debug/image", received.append, qos.OUTPUT)
        shown._publisher.on_activate(None)
        for _ in range(200):
            executor.spin_once(timeout_sec=0.05)
            if shown._publisher.get_subscription_count():
                break
        for k in range(2, 6):
            shown.show(*observed(k * S + 10 * S))
            for _ in range(100):
                if drawn:
                    break
                executor.spin_once(timeout_sec=0.05)
        gate.set()
        for _ in range(200):
            executor.spin_once(timeout_sec=0.05)
            if len(drawn) == 2:
                break
        assert drawn == [12 * S, 15 * S]
    finally:
        gate.set()
        shown.destroy()
        executor.shutdown()
        node.destroy_node()
        listener.destroy_node()
        context.try_shutdown()


def test_markers_are_whole_and_wrap_their_text():
    _, plan = observed(10 * S)
    output = supervisor.Output(state=supervisor.State.HOLD, reason=supervisor.Reason.IMAGE_STALE, trajectory=densify(plan))
    line, label, reason = markers(output, plan.reasoning, "odom", 0.5).markers
    assert len(line.points) == len(line.colors) == 51 and line.points[-1].x == pytest.approx(40.0)
    assert label.text == "HOLD: IMAGE_STALE" and reason.text.replace("\n", " ") == plan.reasoning and "\n" in reason.text
    assert len({(marker.ns, marker.id) for marker in (line, label, reason)}) == 3
    assert all(marker.header.frame_id == "odom" and marker.lifetime.nanosec == S // 2 for marker in (line, label, reason))


def rviz_topics():
    displays = yaml.safe_load((ROOT / "config/rviz/planner.rviz").read_text())["Visualization Manager"]["Displays"]
    return {
        (display["Topic"]["Value"], KINDS[display["Class"].split("/")[1]], display["Topic"]["Durability Policy"])
        for display in displays
        if "Topic" in display
    }


def foxglove_topics():
    text = (ROOT / "config/foxglove/planner.json").read_text()
    panels = json.loads(text)["configById"]
    found = {panel["imageMode"]["imageTopic"] for panel in panels.values() if "imageMode" in panel}
    found |= {topic for panel in panels.values() for topic in panel.get("topics", {})} | {
        p["topicToRender"] for p in panels.values() if "topicToRender" in p
    }
    paths = [panel["topicPath"] for panel in panels.values() if "topicPath" in panel] + [
        e["value"] for p in panels.values() for e in p.get("paths", ())
    ]
    return found | {path.split(".")[0] for path in paths}


def test_every_panel_of_the_foxglove_layout_is_placed_once():
    layout = json.loads((ROOT / "config/foxglove/planner.json").read_text())

    def leaves(node):
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(layout["layout"])) == sorted(layout["configById"])


def test_views_show_topics_that_the_planner_has_and_plans_are_drawn_once(tmp_path):
    domain = int(os.environ["ROS_DOMAIN_ID"])
    command = ["test/ros_fake_planner.py", "--ros-args", "-p", "use_sim_time:=true", "-p", "deadline_s:=5.0", "-p", "clock_stall_s:=20.0"]
    with process(command, environment(domain, tmp_path), tmp_path / "planner.log"):
        peer = Peer(domain, clock=True)
        try:
            peer.wait_state("NOMINAL", 60)
            images = []
            peer.node.create_subscription(Image, f"{NODE}/debug/image", images.append, qos.OUTPUT)
            peer.wait(lambda: len(images) >= 3, 30, "debug images")
            stamps = [messages.stamp_ns(image.header.stamp) for image in list(images)]
            peer.wait(
                lambda: set(stamps) <= {info["t0_ns"] for _, info in list(peer.infos) if info["event"] == "plan"}, 10, "plans of these pictures"
            )
            published = dict(peer.node.get_publisher_names_and_types_by_node(NODE[1:], "/"))
        finally:
            peer.close()
    assert len(set(stamps)) == len(stamps)
    assert {(image.encoding, image.width) for image in images} == {("rgb8", 224)}
    own = {(topic, kind) for topic, kind, _ in rviz_topics() if topic.startswith(NODE)}
    assert len(own) >= 3 and all(published[topic] == [kind] for topic, kind in own)
    assert all(topic in published for topic in foxglove_topics() if topic.startswith(NODE) or topic == "/diagnostics")
    # what the planner doesn't make is what it hears, under the names of planner.launch.py
    heard = {"/localization/odometry", "/planning/route"}
    assert {topic for topic, _, _ in rviz_topics()} | foxglove_topics() <= set(published) | heard
