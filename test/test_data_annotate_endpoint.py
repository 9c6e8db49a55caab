"""Annotation against a server that misbehaves in every way we know of: nothing is lost, nothing is paid twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from annotation_samples import build
from annotator import KEY, NONSENSE, Server

pytest.importorskip("jsonschema", reason="needs the extra [data]")

from spanvla_ros.cli.main import main
from spanvla_ros.data.annotation import client, endpoint
from spanvla_ros.data.annotation.cache import Cache
from spanvla_ros.data.annotation.client import Settings, Stop
from spanvla_ros.data.annotation.endpoint import Endpoint
from spanvla_ros.data.annotation.estimate import estimate
from spanvla_ros.data.annotation.output import Output, read
from spanvla_ros.data.annotation.pace import Pace
from spanvla_ros.data.annotation.work import Work
from spanvla_ros.data.shards import Dataset

TROUBLE = [*NONSENSE, "timeout", "reset", "half", "drip", "no completion", "429 0", "429 1", "429 date", "429", "500", "503 0", "529"]


def run(folder, out, server, workers=4, timeout_s=15.0, **options):
    """Outcomes of one run against a server."""
    settings = Settings(url=server.url, model="seer", key=KEY, timeout_s=timeout_s)
    one = Endpoint(settings, Cache(out / "replies"), Pace(), first_wait_s=0.01, **options)
    return list(Work(folder, Output(folder, out, one.identity)).run(one, workers))


@pytest.fixture
def environment(monkeypatch):
    def use(server):
        for name, value in ((client.URL, server.url), (client.MODEL, "seer"), (client.KEY, KEY)):
            monkeypatch.setenv(name, value)

    return use


def test_all_samples_are_annotated_or_listed_whatever_happens(tmp_path):
    """Every trouble meets one sample once; three samples never get a good answer."""
    names = build(tmp_path / "D", 7, 4)
    hopeless = {25: "enum", 26: "broken", 27: "500"}

    def plan(sample, attempt):
        if sample in hopeless:
            return hopeless[sample]
        return TROUBLE[sample] if sample < len(TROUBLE) and attempt == 1 else "good"

    with Server(plan) as server:
        outcomes = run(tmp_path / "D", tmp_path / "A", server, workers=8)
        assert server.problems == [] and set(server.kinds) == {*TROUBLE, "good"}
    good = {o.id for o in outcomes if o.answer}
    failed = {o.id: o.reason for o in outcomes if not o.answer}
    assert len(outcomes) == len(names) and good | set(failed) == set(names)
    assert set(failed) == {names[k] for k in hopeless}, failed
    assert "go fast" in failed[names[25]] and "no JSON" in failed[names[26]] and "HTTP 500" in failed[names[27]]
    assert all("4 attempts" in reason for reason in failed.values())
    assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names[:25]
    listed = [entry for path in sorted((tmp_path / "A" / "failed").glob("*.jsonl")) for entry in read(path)]
    assert {entry["id"]: entry["reason"] for entry in listed} == failed
    # an overloaded endpoint is no failed attempt; a useless reply is
    attempts = {o.id: o.answer.attempts for o in outcomes if o.answer}
    assert attempts[names[TROUBLE.index("429 1")]] == 1 and attempts[names[TROUBLE.index("enum")]] == 2
    # the key is nowhere, whatever the server echoes
    assert not any(KEY.encode() in path.read_bytes() for path in (tmp_path / "A").rglob("*") if path.is_file())

    # once the endpoint is well, only what failed is asked again
    with Server(lambda *_: "good") as server:
        assert {o.id for o in run(tmp_path / "D", tmp_path / "A", server)} == set(failed)
        assert sorted(server.tries) == sorted(hopeless) and set(server.tries.values()) == {1}
    assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names and not list((tmp_path / "A" / "failed").glob("*"))
    record = Dataset(tmp_path / "A").record(3)
    assert record["decision"] == {"longitudinal": "yield", "lateral": "turn"} and record["critical_components"][0]["behavior"] == "crosses"
    assert record["provenance"]["annotation"] == "seer" and len(record["provenance"]["reasons"]["elements"]) == 2


def test_a_useless_reply_is_sent_back_with_what_is_wrong(tmp_path):
    build(tmp_path / "D", 1, 1)
    with Server(lambda _, attempt: "enum" if attempt == 1 else "good") as server:
        run(tmp_path / "D", tmp_path / "A", server)
        first, second = server.bodies
    assert len(first["messages"]) == 2 and second["messages"][:2] == first["messages"]
    assert "go fast" in second["messages"][2]["content"] and "is none of set-speed tracking" in second["messages"][3]["content"]
    assert first["response_format"]["json_schema"]["strict"] and first["temperature"] == 0


def test_what_an_endpoint_doesnt_take_is_left_out_from_then_on(tmp_path):
    build(tmp_path / "D", 1, 3)
    refused = ("refuse response_format", "refuse max_tokens", "good")
    with Server(lambda sample, attempt: "good" if sample else refused[attempt - 1]) as server:
        outcomes = run(tmp_path / "D", tmp_path / "A", server, workers=1)
        assert all(o.answer and o.answer.attempts == 1 for o in outcomes)
        assert all("response_format" not in body and "max_tokens" not in body and body["temperature"] == 0 for body in server.bodies[2:])


def test_a_request_that_is_refused_costs_one_sample_and_one_try(tmp_path):
    names = build(tmp_path / "D", 1, 2)
    with Server(lambda sample, _: "413" if sample == 0 else "good") as server:
        first, second = sorted(run(tmp_path / "D", tmp_path / "A", server), key=lambda o: o.id)
        assert server.tries == {0: 1, 1: 1}
    assert first.id == names[0] and first.reason.startswith("HTTP 413") and KEY not in first.reason and second.answer


@pytest.mark.parametrize(
    "kind, text",
    [("401", "the key is refused"), ("404", "no such path or model"), ("302", "redirects"), ("429 86400", "asks to wait 1440 min")],
)
def test_where_all_would_fail_the_run_stops_and_goes_on_later(tmp_path, kind, text):
    names = build(tmp_path / "D", 2, 4)
    with Server(lambda sample, _: "good" if sample < 3 else kind) as server:
        with pytest.raises(Stop, match=text) as error:
            run(tmp_path / "D", tmp_path / "A", server, workers=1)
        assert KEY not in str(error.value) and sum(server.tries.values()) == 4
    assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names[:3] and not (tmp_path / "A" / "failed").exists()
    with Server(lambda *_: "good") as server:
        run(tmp_path / "D", tmp_path / "A", server)
        assert set(server.tries) == {3, 4, 5, 6, 7}
    assert len(Dataset(tmp_path / "A")) == 8


def test_an_endpoint_that_is_gone_doesnt_cost_the_whole_night(tmp_path):
    build(tmp_path / "D", 3, 5)
    with Server(lambda *_: "good") as server:
        pass
    with pytest.raises(Stop, match=f"no answer to {endpoint._DOWN} samples in a row"):
        run(tmp_path / "D", tmp_path / "A", server, workers=1, attempts=2)
    assert len(read(tmp_path / "A" / "failed" / "red_00000.jsonl")) == 5


def test_the_rate_holds_for_all_threads_together(tmp_path):
    build(tmp_path / "D", 1, 6)
    with Server(lambda *_: "good") as server:
        settings = Settings(url=server.url, model="seer", key=KEY)
        one = Endpoint(settings, Cache(tmp_path / "replies"), Pace(600.0))
        list(Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", one.identity)).run(one, 6))
        times = sorted(server.times)
    # 0.1 s apart; a busy machine can only make it longer in all
    assert len(times) == 6 and times[-1] - times[0] > 0.4


def test_the_same_question_is_paid_once_also_for_another_copy(tmp_path):
    build(tmp_path / "D", 1, 3)
    with Server(lambda *_: "good") as server:
        settings = Settings(url=server.url, model="seer", key=KEY)
        for out, hint in (("A", False), ("B", False), ("C", True)):
            one = Endpoint(settings, Cache(tmp_path / "replies"), Pace(), hint)
            outcomes = list(Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / out, one.identity)).run(one, 2))
            assert all(o.answer.cached == (out == "B") and o.answer.prompt_tokens == 1200 for o in outcomes)
        assert sum(server.tries.values()) == 6
        assert sum("recorded decision: yield | turn" in body["messages"][1]["content"][0]["text"] for body in server.bodies) == 3
    assert read(tmp_path / "A" / "shards" / "red_00000.jsonl") == read(tmp_path / "B" / "shards" / "red_00000.jsonl")


def test_the_estimate_assumes_first_and_measures_then(tmp_path):
    build(tmp_path / "D", 2, 5)
    work = Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", {}))
    cache = Cache(tmp_path / "A" / "replies")
    guess = estimate(work.dataset, work.todo, cache, 4, 0.0, None, False)
    assert guess.measured == 0 and guess.cost is None and guess.samples == 10
    assert 10 * 4 * 255 < guess.prompt_tokens < 10 * (4 * 255 + 1500) and guess.seconds == 20.0
    with Server(lambda *_: "good") as server:
        run(tmp_path / "D", tmp_path / "A", server)
    known = estimate(work.dataset, work.todo, cache, 4, 10.0, (1.0, 10.0), False)
    assert (known.measured, known.prompt_tokens, known.reply_tokens) == (10, 12_000, 1_500)
    assert known.cost == pytest.approx(0.012 + 0.015) and known.seconds == 60.0


def test_the_command_estimates_runs_and_fails_with_a_list(tmp_path, capsys, environment):
    build(tmp_path / "D", 1, 4)
    line = ["data", "annotate", str(tmp_path / "D"), "--out", str(tmp_path / "A"), "--backend", "endpoint", "--price", "1,10", "--attempts", "2"]
    with Server(lambda sample, _: "prose" if sample == 2 else "good") as server:
        environment(server)
        assert main([*line, "--estimate"]) == 0
        assert "4 samples to annotate: about" in capsys.readouterr().out and not server.tries and not (tmp_path / "A").exists()
        assert main(line) == 2
    said = capsys.readouterr()
    assert "red_00000_0002: 2 attempts: the reply is no JSON" in said.err and "1 of 4 samples failed" in said.err
    assert "4/4 samples, 1 failed, 0.01 spent" in said.out and KEY not in said.out + said.err


def test_killed_at_any_moment_nothing_is_lost_or_paid_twice(tmp_path, environment):
    names = build(tmp_path / "D", 2, 5)
    line = ["data", "annotate", str(tmp_path / "D"), "--out", str(tmp_path / "A"), "--backend", "endpoint", "--workers", "2"]
    with Server(lambda sample, _: "good" if sample < 7 else "timeout") as server:
        environment(server)
        root = str(Path(__file__).parent.parent)
        environ = {**os.environ, "PYTHONPATH": root}
        process = subprocess.Popen([sys.executable, "-m", "spanvla_ros.cli.main", *line], env=environ, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        first = tmp_path / "A" / "shards" / "red_00000.jsonl"
        while (len(server.tries) < 9 or not first.exists()) and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names[:5]  # the whole first drive
    with Server(lambda *_: "good") as server:
        environment(server)
        assert main(line) == 0
        assert set(server.tries) == {7, 8, 9}  # 5 and 6 were answered and paid for before
    assert [entry.id for entry in Dataset(tmp_path / "A").entries] == names
    assert not list((tmp_path / "A").rglob("*.part"))
