import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from spanvla_ros.cli.main import main

pytest.importorskip("libsumo")


def test_a_run_writes_summary_report_and_episodes(tmp_path, capsys):
    assert main(["sim", "--planner", "constant_velocity", "--suite", "lane,lead", "--seeds", "6003:6004", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = {
        "driving_score_lb21",
        "driving_score_lb20",
        "route_completion",
        "success_rate",
        "infractions_per_km",
        "smoothness",
        "efficiency",
        "pdm",
    }
    assert figures <= set(summary) and summary["label"] == "minisim DS (LB2.1)"
    assert list(summary["families"]) == ["lane", "lead"] and figures <= set(summary["families"]["lead"])
    assert [(row["family"], row["seed"]) for row in summary["scenarios"]] == [("lane", 6003), ("lead", 6003)]
    assert all(len(row["state_hash"]) == 64 for row in summary["scenarios"]) and summary["plan_latency_ms"]["p95"] > 0
    assert summary["scenarios"] == [{k: v for k, v in json.loads(line).items()} for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert "<svg" in (tmp_path / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "[2/2] lead" in printed and "minisim DS (LB2.1); not comparable with CARLA tables" in printed


def test_workers_change_nothing(tmp_path):
    rows = []
    for count in ("1", "2"):
        out = tmp_path / count
        words = ["sim", "--planner", "constant_velocity", "--suite", "stopped,red", "--seeds", "6000:6001", "--workers", count, "--out", str(out)]
        assert main(words) == 0
        found = json.loads((out / "summary.json").read_text())["scenarios"]
        rows.append([{k: v for k, v in row.items() if k not in ("wall_s", "plan_latency_ms")} for row in found])
    assert rows[0] == rows[1]


def test_a_dead_worker_costs_no_episode(tmp_path):
    words = ["sim", "--planner", "constant_velocity", "--suite", "stopped,red,lane", "--seeds", "6000:6001", "--workers", "2", "--out", str(tmp_path)]

    def kill():
        # of the pool, not the process that watches over shared memory
        while not (children := multiprocessing.active_children()):
            time.sleep(0.1)
        os.kill(children[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    assert main(words) == 0
    rows = json.loads((tmp_path / "summary.json").read_text())["scenarios"]
    assert [row["family"] for row in rows] == ["stopped", "red", "lane"]


def test_comparison(tmp_path, capsys):
    for name, planner in (("a", "constant_velocity"), ("b", "expert")):
        assert main(["sim", "--planner", planner, "--suite", "stopped", "--seeds", "6000:6001", "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert main(["sim", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    assert "1 scenarios in both" in printed and "identical drives (state hash): 0" in printed and "stopped 6000: " in printed
    assert main(["sim", "--compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 2
    assert "give the OUT folder of a finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--suite", "nosuch"], "nosuch is no family"),
        (["--seeds", "a:b"], "seeds 'a:b' are no range"),
        (["--seeds", "6001:6001"], "are empty"),
        (["--workers", "0"], "--workers is 0"),
        (["--planner", "spanvla", "--render", "none"], "needs pictures"),
        (["--planner", "spanvla", "--suite", "lane", "--render", "gl", "--engine", "/nowhere"], "/nowhere"),
        (["--planner", "expert", "--engine", "/nowhere"], "--engine is for --planner spanvla"),
        (["--planner", "expert", "--max-reasoning-tokens", "3"], "--max-reasoning-tokens is for --planner spanvla"),
        (["--planner", "spanvla", "--suite", "lane", "--render", "gl", "--max-reasoning-tokens", "999"], "max_reasoning_tokens is 999"),
        (["--planner", "spanvla", "--spoken", "run", "--engine", "engines/demo"], "--spoken can't be combined"),
        (["--planner", "ego_mlp", "--ros", "--workers", "2"], "--ros and --carla drive one episode after the other"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(["sim", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_machine_that_can_not_draw_says_so_before_the_first_drive(tmp_path, monkeypatch, capsys):
    moderngl = pytest.importorskip("moderngl")
    from spanvla_ros.sim.pictures.renderer import Renderer

    def fail(**_):
        raise RuntimeError("libEGL.so.1 not found")

    monkeypatch.setattr(moderngl, "create_context", fail)
    monkeypatch.setattr(Renderer, "_shared", None)
    words = ["sim", "--planner", "constant_velocity", "--suite", "stopped", "--seeds", "6000:6001"]
    assert main([*words, "--render", "gl", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "libEGL.so.1 not found" in error and "--render none" in error and not (tmp_path / "out").exists()
    assert main([*words, "--render", "none"]) == 0


def test_a_full_disk_keeps_the_episodes_that_are_complete(tmp_path, monkeypatch, capsys):
    import errno
    import os

    from spanvla_ros.evaluation import results

    real, calls = os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) > 4:  # three pictures and a line of the first episode
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(results.os, "fsync", fsync)
    assert main(["sim", "--planner", "constant_velocity", "--suite", "stopped", "--seeds", "6000:6002", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "No space left on device; the 1 episodes in episodes.jsonl are complete" in error and error.count("\n") == 1
    (line,) = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 6000 and not (tmp_path / "summary.json").exists()
