"""The real planner process with everything switched on that plans beside the one plan per picture."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from ros_peer import ROOT, Peer, environment, process  # noqa: E402

DOMAIN = 40 + (os.getpid() + 20) % 50
PLANNER = ["test/ros_fake_planner.py", "--ros-args", "-p", "use_sim_time:=true", "-p", "deadline_s:=5.0", "-p", "clock_stall_s:=20.0"]
BESIDE = ["-p", "plan_early:=true", "-p", "replan_s:=0.05"]


def schema() -> dict:
    text = (ROOT / "docs" / "plan_info.md").read_text()
    return json.loads(re.search(r"```json\n(.*?)```", text, re.S).group(1))


def test_every_revision_is_published_and_as_documented(tmp_path: Path):
    with process([*PLANNER, *BESIDE], environment(DOMAIN, tmp_path), tmp_path / "planner.log"):
        peer = Peer(DOMAIN, clock=True)
        try:
            peer.wait_state("NOMINAL", 60)

            def plans(revision: int) -> list[dict]:
                return [info for _, info in list(peer.infos) if info["event"] == "plan" and info["revision"] == revision]

            peer.wait(lambda: all(len(plans(r)) >= 3 for r in (0, 1, 2)), 60, "plan of every revision")
        finally:
            peer.close()
    early, whole, again = ({info["t0_ns"]: info for info in plans(r)} for r in (0, 1, 2))
    both = early.keys() & whole.keys()
    assert both and all(early[t0]["reasoning"] == "" and whole[t0]["reasoning"] for t0 in both)
    for info in again.values():
        seen = info["anchor_ns"]
        assert info["t0_ns"] - seen == pytest.approx(info["kv_age_s"] * 1e9) and 0.05 <= info["kv_age_s"] <= 0.5
        assert info["pose_odom"] != whole[seen]["pose_odom"] if seen in whole else True
        assert info["received"]["odometry"] > info["received"]["image/front"] > 0
    jsonschema = pytest.importorskip("jsonschema")
    for _, info in peer.infos:
        jsonschema.validate(info, schema())
