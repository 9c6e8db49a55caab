"""Damage that `spanvla data check` must find, one at a time, in a data set that is fine."""

import json
import shutil

import numpy as np
import pytest
from test_data_collect import folder  # noqa: F401  (a fixture)

pytest.importorskip("jsonschema", reason="needs the extra [data]")

from spanvla_ros.cli.main import main
from spanvla_ros.data import check as checks
from spanvla_ros.data.shards import Dataset

ONE = "red_05000"


@pytest.fixture
def copy(folder, tmp_path):  # noqa: F811
    shutil.copytree(folder, tmp_path / "D")
    return tmp_path / "D"


def edit(copy, change, index=1):
    """Change one record of the first shard."""
    path = copy / "shards" / f"{ONE}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    change(records[index], records)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def errors(copy):
    return checks.check(copy).errors


def drift(record):
    """Both futures slowly to the left."""
    for name in ("future", "future_10hz"):
        poses = np.array(record[name])
        poses[:, 1] += np.linspace(0.5 / len(poses), 0.5, len(poses))
        record[name] = poses.tolist()


DAMAGE = {
    "label": (lambda r, _: r.update(label="maybe"), "'maybe' is not one of"),
    "missing future": (lambda r, _: r.pop("future"), "'future' is a required property"),
    "id twice": (lambda r, all_: r.update(id=all_[0]["id"]), "the id is there 2 times"),
    "two splits": (lambda r, _: r.update(split="train"), "is in several splits: train, validation"),
    "unknown map": (lambda r, _: r.update(map="town-77"), "town-77.json"),
    "late frame": (lambda r, _: r["images"]["front_left"][3].update(stamp_ns=1), "don't end at t0 together"),
    "broken picture": (lambda r, _: r["images"]["front"][0].update(offset=r["images"]["front"][0]["offset"] + 7), "JPEG"),
    "beyond the end": (lambda r, _: r["images"]["front"][0].update(offset=10**9), "needs"),
    "jump": (lambda r, _: r.update(future_10hz=(np.array(r["future_10hz"]) + [2.0, 0, 0]).tolist()), "speed jumps"),
    "two futures": (lambda r, _: r["future"].__setitem__(4, [0.0, 9.0, 0.0]), "are different"),
    "another future": (lambda r, _: drift(r), "from what was driven"),
    "history": (lambda r, _: r["history"]["poses_base"].__setitem__(3, [1.0, 0.0, 0.0]), "history doesn't end at t0"),
    "moment": (lambda r, _: r["truth"].update(t0=r["truth"]["t0"] + 3), "another moment"),
    "short truth": (lambda r, _: r["truth"].update(count=400), "wanted are 400"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(copy, name):
    change, text = DAMAGE[name]
    edit(copy, change)
    found = errors(copy)
    assert found and any(text in line for line in found), found


def test_shares_count_once_there_are_enough(copy, monkeypatch):
    monkeypatch.setattr(checks, "_ENOUGH", 1)
    monkeypatch.setattr(checks.labels, "PLANNED", {"pos": 0.1, "neg": 0.1, "rec": 0.8})
    assert any("are pos, planned are 10%" in line for line in errors(copy))


def test_the_command_says_how_many_and_fails_on_errors(copy, capsys):
    assert main(["data", "check", str(copy), "--workers", "1"]) == 0
    assert f"{len(Dataset(copy))} samples, 0 errors; pos" in capsys.readouterr().out
    edit(copy, lambda r, _: r.update(label="maybe"))
    assert main(["data", "check", str(copy), "--workers", "1"]) == 1


def test_commands_write_sheet_statistics_and_scores(copy, tmp_path, capsys):
    assert main(["data", "view", str(copy), "--out", str(tmp_path / "sheet.png"), "--count", "3"]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 30_000
    assert main(["data", "stats", str(copy), "--out", str(tmp_path / "stats")]) == 0
    assert json.loads((tmp_path / "stats" / "statistics.json").read_text())["samples"] == len(Dataset(copy))
    assert main(["data", "sim", "--seeds=-2:1", "--out", str(tmp_path / "no")]) != 0
    assert "a seed must not be negative" in capsys.readouterr().err
