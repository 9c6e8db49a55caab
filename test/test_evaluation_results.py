import errno
import json
import os

import pytest

from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation import results
from spanvla_ros.evaluation.results import OutputError, Results, read_lines, read_summary

ROW = {"family": "lane", "seed": 1, "driving_score_lb21": 100.0}


def full_after(monkeypatch, count):
    """The disk is full at the `count`-th write from now on."""
    real, calls = os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(results.os, "fsync", fsync)


def test_episodes_are_appended_with_their_pictures(tmp_path):
    out = Results(tmp_path / "new" / "out")
    out.append(ROW, {"top.svg": b"<svg/>"})
    out.append({**ROW, "seed": 2}, {})
    assert [row["seed"] for row in read_lines(tmp_path / "new/out/episodes.jsonl")] == [1, 2]
    assert out.pictures(ROW) == {"top.svg": b"<svg/>"} and out.pictures({**ROW, "seed": 2}) == {}


@pytest.mark.parametrize("writes", [2, 3])  # full at the second episode's picture, at its line
def test_on_a_full_disk_what_was_written_stays_valid(tmp_path, monkeypatch, writes):
    out = Results(tmp_path)
    full_after(monkeypatch, writes)
    out.append(ROW, {"top.svg": b"one"})
    with pytest.raises(OutputError, match="No space left on device; the 1 episodes in episodes.jsonl are complete"):
        out.append({**ROW, "seed": 2}, {"top.svg": b"two"})
    assert (tmp_path / "episodes.jsonl").read_text() == json.dumps(ROW) + "\n"
    assert not [path for path in tmp_path.rglob("*.part")]


def test_a_summary_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    out = Results(tmp_path)
    full_after(monkeypatch, 0)
    with pytest.raises(OutputError):
        out.finish("summary.json", "{}")
    assert not (tmp_path / "summary.json").exists()


def test_a_new_run_does_not_leave_the_figures_of_the_last(tmp_path):
    for name in ("summary.json", "report.html", "episodes.jsonl"):
        (tmp_path / name).write_text("old")
    Results(tmp_path)
    assert not (tmp_path / "summary.json").exists() and (tmp_path / "episodes.jsonl").read_text() == ""


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out can't be written"):
        Results(tmp_path / "file" / "out")


def test_lines_that_still_grow(tmp_path):
    path = tmp_path / "episodes.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"a": ')
    assert read_lines(path) == [{"a": 1}]


@pytest.mark.parametrize("text", [None, "nothing", "{}", '{"scenarios": []}'])
def test_what_is_no_summary_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ConfigError, match="summary.json"):
        read_summary(tmp_path)
