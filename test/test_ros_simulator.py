"""Real planner and simulator processes over DDS: lock-step, results, and a simulator that dies in the middle of a drive."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

for module in ("rclpy", "libsumo", "moderngl", "shapely"):
    pytest.importorskip(module, reason=f"{module} is not installed")

from ros_peer import NODE, Peer, environment, process  # noqa: E402

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.ros import topics  # noqa: E402

DOMAIN = 40 + (os.getpid() + 25) % 50
TOPICS = {
    "image/front": "/sensing/camera/front/image/compressed",
    "camera_info/front": "/sensing/camera/front/camera_info",
    "odometry": "/localization/odometry",
    "command": "/planning/command",
}
REMAPS = [word for name, topic in TOPICS.items() for word in ("-r", f"{NODE}/input/{name}:={topic}")]
PLANNER = ["test/ros_fake_planner.py", "--ros-args", "-p", "lockstep:=true", "-p", "use_sim_time:=true", "-p", "refuse_black:=false", *REMAPS]
SIMULATOR = ["-m", "spanvla_ros.ros.main", "simulator", "--ros-args", "-p", "scenario:=lane", "-p", "black:=true"]


def test_lockstep_drive_then_death_and_return_of_the_simulator(tmp_path):
    env, results = environment(DOMAIN, tmp_path), tmp_path / "out" / "episodes.jsonl"
    episodes = [*SIMULATOR, "-p", "seed:='6000:6002'", "-p", "time_limit_s:=4.0", "-p", f"output_dir:={results.parent}"]
    with process(PLANNER, env, tmp_path / "planner.log") as planner:
        with process(episodes, env, tmp_path / "simulator.log") as simulator:
            peer = Peer(DOMAIN)
            peer.images = peer.odometry = False  # only listens
            peer.planner_pid = planner.pid
            try:
                assert simulator.wait(120) == 0, (tmp_path / "simulator.log").read_text()
                check_results([json.loads(line) for line in results.read_text().splitlines()])
                check_death(peer, env, tmp_path)
            finally:
                peer.close()
        assert planner.poll() is None
    assert "Traceback" not in (tmp_path / "planner.log").read_text()


def check_results(episodes):
    assert [(e["family"], e["seed"]) for e in episodes] == [("lane", 6000), ("lane", 6001)]
    for episode in episodes:
        # 1.5 s of history first, then a plan for every image until 4 s
        assert 24 <= episode["plans"] <= 27 and episode["missed"] == episode["refused"] == 0, episode
        assert 0 < episode["route_completion"] < 1
    assert episodes[1]["first_stamp_ns"] > episodes[0]["last_stamp_ns"]


def check_death(peer, env, folder):
    """A killed simulator leaves a clock that stands still; its return begins a new drive."""
    drive = [*SIMULATOR, "-p", "seed:=6000"]
    with process(drive, env, folder / "killed.log") as simulator:
        peer.wait_state("NOMINAL", 60)
        peer.wait(lambda: peer.infos[-1][1]["plans"] >= 65, 60, "plan in the middle of a drive")
        begin = len(peer.infos)
        simulator.send_signal(signal.SIGKILL)
        seen = [peer.wait_state(state) for state in ("HOLD", "STOPPING", "STOPPED")]
        assert {info["reason"] for info in seen} == {"CLOCK_STALLED"}
        assert peer.heartbeat_gap(begin) <= 0.25
    with process(drive, env, folder / "returned.log"):
        assert peer.wait_state("NOMINAL", 60)["reason"] == "OK"


def test_simulator_without_planner_ends_with_one_line_and_a_code(tmp_path):
    for arguments, code, line in (
        (["-p", "planner_timeout_s:=1.0"], 1, "no active planner /spanvla_planner after 1 s"),
        (["-p", "seed:=abc"], 2, "seeds 'abc' are no range"),
        (["-p", "scenario:=fly"], 2, "fly is no family"),
        (["-p", "cameras:=[rear]"], 2, "parameter cameras is ['rear'], the simulator has front, front_left, front_right"),
        (["-p", "rate:=7.0"], 2, "parameter rate is 7, it must divide 20 Hz"),
        (["-p", "preset:=nosuch"], 2, "parameter preset is 'nosuch', allowed is minisim | carla_bridge"),
    ):
        with process([*SIMULATOR, *arguments], environment(DOMAIN + 1, tmp_path), tmp_path / "simulator.log") as child:
            assert child.wait(60) == code
        text = (tmp_path / "simulator.log").read_text()
        assert line in text and text.count("\n") == 1, text


@pytest.mark.parametrize("preset", ["minisim", "carla_bridge"])
def test_topics_of_a_preset_and_no_truth_among_them(tmp_path, preset):
    domain = DOMAIN + 2 + (preset == "minisim")
    own = {"/clock", "/parameter_events", "/rosout", *topics.load(preset).inputs(("front", "front_left")).values()}
    command = [*SIMULATOR, "-p", "planner_timeout_s:=20.0", "-p", f"preset:={preset}", "-p", "cameras:=[front, front_left]"]
    with process(command, environment(domain, tmp_path), tmp_path / "simulator.log"):
        peer = Peer(domain)
        try:
            # names known by the domain, without those of the peer itself
            peer.wait(lambda: "spanvla_simulator" in peer.node.get_node_names(), 20, "simulator")

            def published() -> set[str]:
                return {name for name, _ in peer.node.get_publisher_names_and_types_by_node("spanvla_simulator", "/")}

            peer.wait(lambda: own <= published(), 20, "topics of the simulator")
            time.sleep(0.5)
            assert published() == own
        finally:
            peer.close()


def test_the_same_drive_in_process_and_over_ros(tmp_path, capsys):
    """Same states to the last bit, whether the plans are handed over or come by messages from a planner node."""
    words = ["sim", "--planner", "constant_velocity", "--suite", "lane,sensor_fault", "--seeds", "6000:6001"]
    hashes = []
    for name, more in (("inside", []), ("ros", ["--ros"])):
        assert main([*words, *more, "--out", str(tmp_path / name)]) == 0, capsys.readouterr()
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        hashes.append([(row["state_hash"], row["driving_score_lb21"], row["pdm"], row["plans"]) for row in summary["scenarios"]])
        assert "data:image/webp" in (tmp_path / name / "report.html").read_text()
    assert hashes[0] == hashes[1] and len(hashes[0]) == 2


def test_what_ros_can_not_do_is_said(capsys):
    assert main(["sim", "--planner", "expert", "--ros"]) == 2
    assert "the truth, which never leaves the simulator by a topic" in capsys.readouterr().err
