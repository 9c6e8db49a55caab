"""The real planner process with everything switched on that plans beside the one plan per picture."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed")

from ros_peer import ROOT, Peer, environment, process  # noqa: E402

DOMAIN = 40 + (os.getpid() + 20) % 50
# the fake planner with a model that is made for old pictures
AGED = """
import sys
import helpers, ros_fake_planner as fake
fake.demo_spec = lambda **changes: helpers.demo_spec(kv_age=True, **changes)
sys.exit(fake.spin(lambda: fake.PlannerNode(fake.load)))
"""
OPTIONS = ["--ros-args", "-p", "use_sim_time:=true", "-p", "deadline_s:=5.0", "-p", "clock_stall_s:=20.0"]
BESIDE = ["-p", "plan_early:=true", "-p", "replan_s:=0.05"]


def test_a_model_that_is_not_made_for_old_pictures_is_not_shown_any(tmp_path: Path):
    with process(["test/ros_fake_planner.py", *OPTIONS, *BESIDE], environment(DOMAIN + 1, tmp_path), tmp_path / "node.log"):
        end = time.monotonic() + 120
        while "configure failed" not in (text := (tmp_path / "node.log").read_text()) and time.monotonic() < end:
            time.sleep(0.05)
    assert "parameter replan_s is 0.05, but the model demo was not made for old pictures; set it to 0" in text


def schema() -> dict:
    text = (ROOT / "docs" / "plan_info.md").read_text()
    return json.loads(re.search(r"```json\n(.*?)```", text, re.S).group(1))


def test_every_revision_is_published_and_as_documented(tmp_path: Path):
    with process(["-c", AGED, *OPTIONS, *BESIDE], environment(DOMAIN, tmp_path), tmp_path / "planner.log"):
        peer = Peer(DOMAIN, clock=True)
        try:
            peer.wait_state("NOMINAL", 150)

            def plans(revision: int) -> list[dict]:
                return [info for _, info in list(peer.infos) if info["event"] == "plan" and info["revision"] == revision]

            peer.wait(lambda: all(len(plans(r)) >= 3 for r in (0, 1, 2)), 150, "plan of every revision")
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
