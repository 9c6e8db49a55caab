"""`spanvla bag` with a real engine."""

import json

import bags
import pytest

from spanvla_ros.cli.main import main


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return bags.write(tmp_path_factory.mktemp("bags") / "drive", bags.drive(2.0))


def call(path, engine, out):
    return main(["bag", str(path), "--camera", f"front={bags.IMAGE}", "--odometry", bags.ODOMETRY, "--engine", str(engine), "--out", str(out)])


def test_plans_are_repeatable_to_the_last_digit(tmp_path, path, tiny_engine):
    lines = []
    for out in (tmp_path / "a", tmp_path / "b"):
        assert call(path, tiny_engine, out) == 0
        lines.append([json.loads(line) for line in (out / "plans.jsonl").read_text().splitlines()])
    first, second = ([{k: v for k, v in line.items() if k != "timings_ms"} for line in run] for run in lines)
    assert len(first) == 6 and first == second
    assert all(len(line["waypoints_base"]) == 10 and line["engine_hash"] == first[0]["engine_hash"] for line in first)


def test_recorded_cuts_are_made_again(tmp_path, path, tiny_engine):
    """What the planner told in the car, cuts and budget, decides the length of every text; other plans stay as they are."""
    assert call(path, tiny_engine, tmp_path / "free") == 0
    free = [json.loads(line) for line in (tmp_path / "free/plans.jsonl").read_text().splitlines()]
    nominal = {"state": "NOMINAL", "reason": "OK"}
    infos = [{"event": "heartbeat", "state": "WAITING", "reason": "HISTORY_SHORT"}]
    for line, (budget, cut) in zip(free, ((12, 0), (12, 2), (5, None))):
        took = {"timings_ms": {"total": 600.0 if cut else 90.0}, "anchor_ns": line["t0_ns"]}
        infos += [{"event": "plan", "t0_ns": line["t0_ns"], "budget_tokens": budget, "cut_tokens": cut, **took, **nominal}]
        infos += [{"event": "heartbeat", **nominal}]
    infos += [{"event": "heartbeat", "state": "HOLD", "reason": "IMAGE_STALE"}]
    said = [("/info", bags.START_NS + k, bags.T["std_msgs/msg/String"](data=json.dumps(info))) for k, info in enumerate(infos)]
    recorded = bags.write(tmp_path / "recorded", sorted([*bags.drive(2.0), *said], key=lambda entry: entry[1]))
    arguments = ["--camera", f"front={bags.IMAGE}", "--odometry", bags.ODOMETRY, "--engine", str(tiny_engine), "--plan-info", "/info"]
    assert main(["bag", str(recorded), *arguments, "--out", str(tmp_path / "again")]) == 0
    again = [json.loads(line) for line in (tmp_path / "again/plans.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in again[:3]] == [0, 2, min(5, free[2]["tokens"])]
    assert again[0]["waypoints_base"] != free[0]["waypoints_base"]
    # what the car told is what is judged: one plan of three took longer than the deadline
    summary = json.loads((tmp_path / "again/summary.json").read_text())
    assert summary["states"]["source"] == "recorded" and summary["states"]["share"] == {"NOMINAL": 0.75, "HOLD": 0.25}
    assert summary["figures"]["deadline_miss_share"] == pytest.approx(1 / 3)
    assert [line["waypoints_base"] for line in again[3:]] == [line["waypoints_base"] for line in free[3:]]


def test_an_altered_or_unmanifested_engine_is_refused(tmp_path, path, tiny_engine, capsys):
    for name in ("manifest.json", "weights.bin"):
        folder = tmp_path / name
        folder.mkdir()
        for file in tiny_engine.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        if name == "manifest.json":
            (folder / name).unlink()
        else:
            data = bytearray((folder / name).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / name).write_bytes(data)
        assert call(path, folder, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith("spanvla: error: ") and name in error and error.count("\n") == 1
    assert call(path, tmp_path / "nowhere", tmp_path / "out") == 2
    assert "nowhere" in capsys.readouterr().err
