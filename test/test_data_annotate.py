"""Replies, prompts, pace and what an annotated copy keeps."""

import errno
import json
import os
import shutil

import pytest
from annotation_samples import build
from annotator import GOOD, NONSENSE, changed

pytest.importorskip("jsonschema", reason="needs the extra [data]")

from spanvla_ros.cli.main import main
from spanvla_ros.contracts import ConfigError, DataError, InputError
from spanvla_ros.data.annotation import agreement, client, prompt, reply
from spanvla_ros.data.annotation.annotators import Rules
from spanvla_ros.data.annotation.cache import Cache
from spanvla_ros.data.annotation.output import Output, read, replace
from spanvla_ros.data.annotation.pace import Pace
from spanvla_ros.data.annotation.work import Work
from spanvla_ros.data.shards import Dataset


def test_a_good_reply_becomes_components_decision_and_reason():
    found = reply.parse(f"```json\n{json.dumps(GOOD)}\n```")
    assert found.components == [{"class": "VRU", "type": "pedestrian", "location": "5 m ahead", "behavior": "crosses"}]
    assert found.reasoning == {"mode": "slow", "text": "This scene needs thought: A pedestrian crosses 5 m ahead, yield until she is over."}
    free = reply.parse(changed(critical=[], trace="All is calm."))
    assert free.components == [] and free.reasoning == {"mode": "fast", "text": "The road is clear, I act directly."}


WRONG = {
    "broken": "no JSON",
    "prose": "no JSON",
    "enum": 'decision/longitudinal: "go fast" is none of set-speed tracking',
    "missing": "'decision' is a required",
    "extra": "'confidence'",
    "stranger": "'e9' is none of the elements e1, e2",
    "chatter": "3 sentences",
    "markup": "'<' may not",
    "list": "type object",
    "empty": "empty",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_bad_reply_is_named(kind):
    with pytest.raises(reply.ReplyError) as error:
        reply.parse(NONSENSE[kind])
    assert WRONG[kind] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, fine",
    [("Van brakes hard at 12.5 m, slow down.", True), ("Red lamp. Stop at the line!", True), ("x" * 241, False), ("", False), ("A. B. C", False)],
)
def test_traces_are_one_or_two_sentences(text, fine):
    if fine:
        reply.check_trace(text)
    else:
        with pytest.raises(reply.ReplyError):
            reply.check_trace(text)


def test_the_closed_sets_are_those_of_the_data_schema():
    document = reply.record_schema()["properties"]["decision"]["properties"]
    assert reply.schema()["properties"]["decision"]["properties"]["lateral"]["enum"] == document["lateral"]["enum"]
    assert all(label in prompt.system() for label in (*reply.closed("longitudinal"), *reply.closed("lateral"), *reply.closed("class")))


def test_hints_say_what_was_driven_and_never_praise_a_negative(tmp_path):
    build(tmp_path, 1)
    dataset = Dataset(tmp_path)
    texts = [prompt.messages(dataset.record(k), dataset.jpegs(k), True)[1]["content"][0]["text"] for k in range(2)]
    assert "good driving" in texts[0] and "yield | turn" in texts[0] and "8.0, 8.0" in texts[0]
    assert "must NOT" in texts[1] and "good driving" not in texts[1]
    plain = prompt.messages(dataset.record(0), dataset.jpegs(0), False)[1]["content"]
    assert "Hint" not in plain[0]["text"] and "sample 0" in plain[0]["text"]
    pictures = ["front, 1.5 s ago", "front, now", "front_left, now", "front_right, now"]
    assert [part["text"] for part in plain[1::2]] == [f"Camera {text}:" for text in pictures]


def test_pace_spaces_requests_and_obeys_pauses():
    now = [0.0]
    sent = []
    pace = Pace(60.0, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    for k in range(6):
        if k == 3:
            pace.pause(10.0)
        pace.wait()
        sent.append(now[0])
    assert sent == [0.0, 1.0, 2.0, 12.0, 13.0, 14.0]


@pytest.mark.parametrize(
    "value, seconds", [("7", 7.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 10.0), ("Sun, 06 Nov 1994 08:49:00 GMT", 0.0), ("soon", None), (None, None)]
)
def test_retry_after_is_a_number_or_a_date(value, seconds):
    assert client.retry_after(value, 784111767.0) == seconds


def test_settings_come_from_the_environment_and_hide_the_key(monkeypatch):
    for name in (client.URL, client.MODEL, client.KEY):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL and OPENAI_MODEL"):
        client.Settings.from_environment(5.0)
    monkeypatch.setenv(client.URL, "http://localhost:1/v1/")
    monkeypatch.setenv(client.MODEL, "seer")
    monkeypatch.setenv(client.KEY, "sk-hidden")
    settings = client.Settings.from_environment(5.0)
    assert settings.url == "http://localhost:1/v1" and "sk-hidden" not in repr(settings)
    for wrong in ("localhost:1", "file:///etc/passwd", "https://me:secret@host/v1"):
        with pytest.raises(ConfigError):
            client.Settings(url=wrong, model="seer")


def test_rules_give_the_simulators_own_labels_and_change_nothing_else(tmp_path, capsys):
    names = build(tmp_path / "D")
    before = {path: path.read_bytes() for path in (tmp_path / "D").rglob("*") if path.is_file()}
    assert main(["data", "annotate", str(tmp_path / "D"), "--out", str(tmp_path / "A"), "--backend", "rules"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    old, new = Dataset(tmp_path / "D"), Dataset(tmp_path / "A")
    assert [entry.id for entry in new.entries] == names
    for k in range(len(names)):
        was, now = old.record(k), new.record(k)
        assert now["provenance"].pop("reasons")["backend"] == now["provenance"].pop("annotation") == "rules"
        assert was == now and old.jpegs(k) == new.jpegs(k)
    assert new.truth(0) == old.truth(0) and new.chart("town-0") == old.chart("town-0")
    assert main(["data", "annotate", str(tmp_path / "D"), "--out", str(tmp_path / "A"), "--backend", "rules"]) == 0
    assert "0 to annotate now" in capsys.readouterr().out


def test_rules_know_nothing_of_real_drives(tmp_path):
    build(tmp_path, 1, 1)
    with pytest.raises(InputError, match="not from the simulator"):
        Rules().annotate({**Dataset(tmp_path).record(0), "provenance": {"source": "bag"}}, {})


def test_parts_are_disjoint_and_complete(tmp_path):
    names = build(tmp_path / "D", 5, 2)
    ids = []
    for k in range(1, 4):
        work = Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", Rules.identity), (k, 3))
        ids += [work.dataset.entries[index].id for index in work.todo]
        assert all(outcome.answer for outcome in work.run(Rules(), 2))
    assert sorted(ids) == names == [entry.id for entry in Dataset(tmp_path / "A").entries]


def test_damaged_samples_are_listed_and_tried_again(tmp_path, capsys):
    build(tmp_path / "D", 2, 3)
    path = tmp_path / "D" / "shards" / "red_00001.jsonl"
    records = read(path)
    whole = json.loads(json.dumps(records))
    del records[0]["critical_components"]
    records[2]["images"]["front"][0]["offset"] = 10**9
    replace(path, records)
    line = ["data", "annotate", str(tmp_path / "D"), "--out", str(tmp_path / "A"), "--backend", "rules"]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "2 of 6 samples failed" in error and "critical_components" in error and "a sample needs" in error
    failed = read(tmp_path / "A" / "failed" / "red_00001.jsonl")
    assert [entry["id"] for entry in failed] == ["red_00001_0000", "red_00001_0002"] and all(entry["reason"] for entry in failed)
    assert len(Dataset(tmp_path / "A")) == 4
    replace(path, whole)
    assert main(line) == 0
    assert len(Dataset(tmp_path / "A")) == 6 and not (tmp_path / "A" / "failed" / "red_00001.jsonl").exists()


def test_count_is_a_trial_that_the_next_run_completes(tmp_path):
    names = build(tmp_path / "D")
    for count, there in ((5, 5), (2, 7), (99, 12)):
        work = Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", Rules.identity), count=count)
        assert len([o for o in work.run(Rules(), 3) if o.answer]) == min(count, 5)
        assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names[:there]


def test_what_a_copy_may_not_overwrite(tmp_path):
    build(tmp_path / "D", 1)
    with pytest.raises(ConfigError, match="the data set itself"):
        Output(tmp_path / "D", tmp_path / "D", Rules.identity)
    shutil.copytree(tmp_path / "D", tmp_path / "other")
    with pytest.raises(ConfigError, match="but none of annotations"):
        Output(tmp_path / "D", tmp_path / "other", Rules.identity)
    list(Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", Rules.identity)).run(Rules(), 1))
    with pytest.raises(ConfigError, match='by {"backend": "rules"}, not by'):
        Output(tmp_path / "D", tmp_path / "A", {"backend": "endpoint", "model": "seer"})


def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path, monkeypatch):
    build(tmp_path / "D", 2, 2)
    real = os.replace

    def full(part, to):
        if "red_00001.jsonl" in str(to):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, to)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DataError, match="the disk is full; finished drives are kept"):
        list(Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", Rules.identity)).run(Rules(), 1))
    assert len(Dataset(tmp_path / "A")) == 2 and not list((tmp_path / "A").rglob("*.part"))


def test_a_damaged_cache_entry_is_none(tmp_path):
    cache = Cache(tmp_path)
    cache.put("ab12", {"text": "x"})
    assert cache.get("ab12") == {"text": "x"} and cache.get("cd") is None
    (tmp_path / "ab" / "ab12.json").write_text("{")
    assert cache.get("ab12") is None and list(cache.some(5)) == []


def person(longitudinal, lateral="turn", kinds=("pedestrian",), text="Stop."):
    components = [{"class": "VRU", "type": kind, "location": "", "behavior": ""} for kind in kinds]
    return {"decision": {"longitudinal": longitudinal, "lateral": lateral}, "critical_components": components, "reasoning": {"text": text}}


def test_agreement_between_annotators_by_hand():
    lead = "lead following"
    first = {"a": person("yield"), "b": person("yield"), "c": person(lead), "d": person(lead, text="Drive on."), "e": person("yield")}
    second = {"a": person("yield"), "b": person(lead, kinds=("cyclist",)), "c": person(lead), "d": person(lead, kinds=())}
    found = agreement.between(first, second)
    # 3 of 4 equal; chance (2*1 + 2*3) / 16 = 0.5, so kappa 0.5
    assert found["samples"] == 4 and found["longitudinal"] == {"equal": 0.75, "kappa": 0.5, "differences": {"yield -> lead following": 1}}
    assert found["lateral"]["kappa"] is None and found["decision"] == 0.75
    assert found["components"] == 0.5 and found["trace"] == 0.75
    with pytest.raises(DataError, match="no sample in common"):
        agreement.between(first, {"z": person("yield")})


def test_texts_are_checked_against_what_was_driven(tmp_path, capsys):
    build(tmp_path / "D", 1, 4)
    path = tmp_path / "D" / "shards" / "red_00000.jsonl"
    records = read(path)
    for record, text in zip(records, ("Turn left.", "Turn right.", "Turn left.", "Hm.")):
        record["reasoning"]["text"] = text
    replace(path, records)
    assert main(["data", "agreement", str(tmp_path / "D"), str(tmp_path / "D"), "--out", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["text and motion"] == {
        "neg": {"agrees": 0, "contradicts": 1, "unknown": 0},
        "pos": {"agrees": 1, "contradicts": 0, "unknown": 1},
        "rec": {"agrees": 1, "contradicts": 0, "unknown": 0},
    }
    assert found["others"][str(tmp_path / "D")]["decision"] == 1.0 and "decision equal 100.0%" in capsys.readouterr().out
