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
