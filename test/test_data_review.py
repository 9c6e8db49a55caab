"""What a person says of a sample: saved into the data set, checked, never over another's work; and the page in a real browser."""

import json
import threading
import urllib.error
import urllib.request

import browser
import pytest
from annotation_samples import build

pytest.importorskip("jsonschema", reason="needs the extra [data]")

from spanvla_ros.cli.main import main
from spanvla_ros.contracts import ConfigError
from spanvla_ros.data.annotation import agreement, review
from spanvla_ros.data.annotation.annotators import Rules
from spanvla_ros.data.annotation.desk import Conflict, Desk
from spanvla_ros.data.annotation.output import Output
from spanvla_ros.data.annotation.reply import ReplyError
from spanvla_ros.data.annotation.work import Work
from spanvla_ros.data.shards import Dataset

needs_browser = pytest.mark.skipif(browser.find() is None, reason=f"no browser here ({', '.join(browser.NAMES)})")


@pytest.fixture
def folder(tmp_path):
    build(tmp_path / "D", 2, 3)
    list(Work(tmp_path / "D", Output(tmp_path / "D", tmp_path / "A", Rules.identity)).run(Rules(), 1))
    return tmp_path / "A"


def said(shown, **changes):
    return {**{key: shown[key] for key in ("revision", "components", "decision", "trace")}, **changes}


CYCLIST = {"class": "VRU", "type": "cyclist", "location": "9 m ahead", "impact": "may swerve"}


def test_an_edit_is_saved_with_what_stood_there_before(folder):
    desk, old = Desk(folder), Dataset(folder)
    before, pictures = [old.record(k) for k in range(6)], old.jpegs(1)
    shown = desk.show(1)
    assert shown["trace"] == "pedestrian in 5 m, stop." and shown["by"] == "rules" and shown["elements"][0]["type"] == "pedestrian"
    row = desk.save(1, said(shown, trace="Cyclist ahead,\n slow down.", components=[CYCLIST]), "ann")
    assert row["review"]["by"] == "ann" and row["review"]["changed"] == ["components", "trace"]
    new = Dataset(folder)
    record = new.record(1)
    assert record["reasoning"] == {"mode": "slow", "text": "This scene needs thought: Cyclist ahead, slow down."}
    assert record["critical_components"] == [CYCLIST] and record["decision"] == before[1]["decision"] and new.jpegs(1) == pictures
    note = record["provenance"]["reasons"]
    assert note["backend"] == "rules" and note["before"]["reasoning"] == before[1]["reasoning"]
    assert [new.record(k) for k in (0, 2, 3, 4, 5)] == [before[k] for k in (0, 2, 3, 4, 5)]
    # the desk goes on with the shard whose lines have moved; taking the edit back leaves an accepted sample
    assert desk.show(2)["id"] == before[2]["id"] and desk.picture(2, "front", 3)
    row = desk.save(1, said(desk.show(1), trace=shown["trace"], components=shown["components"]), "bob")
    note = Dataset(folder).record(1)["provenance"]["reasons"]
    assert row["review"]["changed"] == [] and "before" not in note
    assert {k: v for k, v in Dataset(folder).record(1).items() if k != "provenance"} == {k: v for k, v in before[1].items() if k != "provenance"}


def test_a_free_road_has_neither_components_nor_trace(folder):
    desk = Desk(folder)
    desk.save(0, said(desk.show(0), trace="", components=[]), "ann")
    assert Dataset(folder).record(0)["reasoning"] == {"mode": "fast", "text": "The road is clear, I act directly."}
    assert desk.show(0)["trace"] == ""


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"trace": ""}, "something matters"),
        ({"trace": "A. B. C."}, "3 sentences"),
        ({"trace": "<action_start>"}, "may not stand"),
        ({"components": [{**CYCLIST, "type": " "}]}, "component 1: type is empty"),
        ({"components": [{"class": "UFO", "type": "x", "location": "y", "impact": "z"}]}, "UFO"),
        ({"decision": {"longitudinal": "yield"}}, "lateral"),
        ({"decision": {"longitudinal": "yield", "lateral": "fly"}}, "fly"),
        ({"components": 3}, "a review needs"),
        ({"revision": "0"}, "was changed since"),
    ],
)
def test_what_may_not_be_saved(folder, changes, text):
    desk, before = Desk(folder), Dataset(folder).sha256
    with pytest.raises((ReplyError, Conflict), match=text):
        desk.save(2, said(desk.show(2), **changes), "ann")
    assert Dataset(folder).sha256 == before


def test_annotation_goes_on_beside_reviews(folder, tmp_path):
    """A drive that is written again keeps what people have said."""
    lines = (folder / "shards" / "red_00001.jsonl").read_text().splitlines(keepends=True)
    (folder / "shards" / "red_00001.jsonl").write_text("".join(lines[:2]))
    desk = Desk(folder)
    desk.save(4, said(desk.show(4), trace="Pedestrian, wait."), "ann")
    list(Work(tmp_path / "D", Output(tmp_path / "D", folder, Rules.identity)).run(Rules(), 1))
    texts = [Dataset(folder).record(k)["reasoning"]["text"] for k in range(6)]
    assert len(texts) == 6 and [text.endswith("Pedestrian, wait.") for text in texts] == [False] * 4 + [True, False]


def test_reviews_are_counted_as_in_the_paper(folder, capsys):
    desk = Desk(folder)
    for k, changes in enumerate(({}, {}, {"trace": "Stop."}, {"components": [CYCLIST], "decision": {"longitudinal": "yield", "lateral": "turn"}})):
        desk.save(k, said(desk.show(k), **changes), "ann")
    found = agreement.reviewed(agreement.records(folder).values())
    assert found == {"samples": 4, "accepted": 0.5, "components": 0.75, "decision": 1.0, "trace": 0.75}
    assert main(["data", "agreement", str(folder)]) == 0
    assert "reviewed: 4 samples, 50.0% accepted" in capsys.readouterr().out


def test_some_samples_are_spread_over_labels(folder):
    assert sorted(row["label"] for row in Desk(folder, 3).rows()) == ["neg", "pos", "rec"] and len(Desk(folder, 99)) == 6


@pytest.fixture
def address(folder):
    server = review.server(Desk(folder), "ann", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fetch(url, body=None, **headers):
    """Status and body."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if data else {}
    request = urllib.request.Request(url, data, {**kind, **headers})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_server_answers_its_own_page_only(address, folder):
    before = Dataset(folder).sha256
    status, data = fetch(f"{address}/sample/0")
    shown = json.loads(data)
    assert status == 200 and shown["cameras"]["front"] == [-1.5, -1.0, -0.5, 0.0]
    assert fetch(f"{address}/picture/0/front_left/3") == (200, Dataset(folder).jpegs(0)["front_left"][3])
    good = said(shown)
    for code, path, body, headers in (
        (403, "/sample/0", None, {"Host": "evil.example:80"}),
        (403, "/sample/0", good, {"Origin": "http://evil.example"}),
        (422, "/sample/0", good, {"Content-Type": "text/plain"}),
        (422, "/sample/0", b"{", {}),
        (422, "/sample/0", [1], {}),
        (422, "/sample/0", {**good, "decision": {"longitudinal": "fly", "lateral": "turn"}}, {}),
        (409, "/sample/0", {**good, "revision": "old"}, {}),
        (404, "/sample/99", good, {}),
        (404, "/sample/99", None, {}),
        (404, "/../../etc/passwd", None, {}),
        (404, "/motion/0", None, {}),
        (422, "/picture/0/roof/0", None, {}),
    ):
        status, data = fetch(address + path, body, **headers)
        assert status == code and json.loads(data)["error"], (path, headers, status, data)
    assert Dataset(folder).sha256 == before
    assert fetch(f"{address}/sample/0", good, Origin=address)[0] == 200
    assert json.loads(fetch(f"{address}/motion/0", {"trace": "Turn right."})[1])["verdict"] == "contradicts"


def test_a_port_that_is_taken_is_named(folder, address):
    with pytest.raises(ConfigError, match="can't be used"):
        review.server(Desk(folder), "ann", int(address.rsplit(":", 1)[1]))


@needs_browser
def test_a_person_accepts_edits_and_saves_in_a_real_browser(address, folder, tmp_path):
    """Mouse and keys as a person uses them: accept the first, edit the second, be refused and mend it, leave the third."""
    names = [entry.id for entry in Dataset(folder).entries]
    with browser.Browser() as page:
        shown = "document.getElementById('id').textContent"
        page.open(address)
        page.until(f"{shown} === '{names[0]}' && document.getElementById('big').naturalWidth === 448")
        assert page.value("document.querySelectorAll('#thumbs img').length") == 3
        assert page.value("document.querySelector('input[name=lateral]:checked').value") == "turn"
        assert page.value("document.querySelectorAll('#above circle').length") == 10
        page.click("#go")
        page.until(f"{shown} === '{names[1]}'")
        page.until("document.getElementById('said').textContent.includes('accepted')")
        # a negative: the page says so
        assert page.value("!document.getElementById('negative').hidden")
        page.type("#trace", "One. Two. Three.")
        page.click("#go")
        page.until("document.getElementById('said').textContent.includes('3 sentences')")
        page.type("#trace", "Pedestrian <b>& friend</b> turn right")
        page.type("#trace", "Pedestrian & friend at 5 m, turn right slowly.")
        page.until("document.getElementById('motion').className === 'contradicts'")
        page.click("#longitudinal label:nth-child(3)")
        page.type(".component input[name=location]", "6 m ahead")
        page.click(".add")
        page.type(".component:last-child input[name=type]", "cyclist")
        page.type(".component:last-child input[name=location]", "left")
        page.type(".component:last-child input[name=effect]", "rides beside us")
        (tmp_path / "page.png").write_bytes(page.screenshot())
        page.click("#go")
        page.until(f"{shown} === '{names[2]}'")
        assert "2 of 6 reviewed, 1 accepted, 1 edited" in page.value("document.getElementById('count').textContent")
        # leaving with an edit that is not saved asks first; the keyboard accepts
        page.type("#trace", "Nothing.")
        page.click("#skip")
        page.until(f"{shown} === '{names[3]}'")
        assert len(page.dialogs) == 1
        page.click("h1")
        page.press("a")
        page.until(f"{shown} === '{names[4]}'")
        page.until("document.querySelectorAll('#rows .ok').length === 2 && document.querySelectorAll('#rows .changed').length === 1")
        assert page.errors == []
    data = Dataset(folder)
    first, second, third, fourth = (data.record(k) for k in range(4))
    for record in (first, fourth):
        assert record["provenance"]["reasons"]["review"]["changed"] == []
    assert second["reasoning"]["text"].endswith("Pedestrian & friend at 5 m, turn right slowly.")
    assert second["decision"] == {"longitudinal": "speed adaptation", "lateral": "turn"}
    assert [c["location"] for c in second["critical_components"]] == ["6 m ahead", "left"]
    assert second["critical_components"][1] == {"class": "Vehicle", "type": "cyclist", "location": "left", "behavior": "rides beside us"}
    assert second["provenance"]["reasons"]["review"] | {"at": ""} == {"by": "ann", "at": "", "changed": ["components", "decision", "trace"]}
    assert "review" not in third["provenance"]["reasons"] and third["reasoning"]["text"].endswith("pedestrian in 5 m, stop.")
    assert (tmp_path / "page.png").stat().st_size > 50_000


@needs_browser
def test_hostile_text_stays_text(folder):
    path = folder / "shards" / "red_00000.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    evil = "<img src=x onerror=\"document.title='owned'\">"
    records[0]["critical_components"][0]["type"] = records[0]["reasoning"]["text"] = records[0]["instruction"] = evil
    records[0]["provenance"]["reasons"]["elements"][0]["type"] = evil
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    server = review.server(Desk(folder), "<b>ann</b>", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser.Browser() as page:
        page.open(f"http://127.0.0.1:{server.server_address[1]}")
        page.until("document.getElementById('trace').value.includes('onerror')")
        assert page.value("document.title") == "Review of reasons" and page.value("document.querySelectorAll('img[src=x], #who b').length") == 0
    server.shutdown()
    server.server_close()
