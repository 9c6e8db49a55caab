"""Take-overs and bad plans become pairs of negative and recovery; data sets are merged and split."""

import json
from pathlib import Path

import bags
import numpy as np
import pytest
from bags import ODOMETRY, START_NS, S, T
from helpers import demo_spec, painted
from test_data_bag_samples import call, file, fixed, textured  # noqa: F401  (a fixture)

pytest.importorskip("jsonschema", reason="needs the extra [data]")
pytest.importorskip("shapely", reason="needs the extra [sim]")

from spanvla_ros import geometry
from spanvla_ros.cli.main import main
from spanvla_ros.contracts import ConfigError, DataError, InputError, Plan
from spanvla_ros.data import card, check, collect, critique, ingest, merge, mining, topics
from spanvla_ros.data.mining import Window
from spanvla_ros.data.shards import Dataset
from spanvla_ros.share import share

ENGAGED = "/engaged"


def drive(seconds, speed_at, automatic_at):
    """A straight drive with a speed profile, as (topic, stamp, message); pictures and odometry at 10 Hz."""
    messages, x = fixed(), 0.0
    for k in range(round(seconds * 10) + 1):
        stamp, time = START_NS + k * S // 10, k / 10
        messages.append((ODOMETRY, stamp, bags.odometry(stamp, x, speed_at(time))))
        messages.append((ENGAGED, stamp, T["std_msgs/msg/Bool"](data=bool(automatic_at(time)))))
        messages.append((bags.IMAGE, stamp, bags.compressed(stamp, textured(k % 40))))
        x += 0.1 * (speed_at(time) + speed_at(time + 0.1)) / 2
    return messages


def crawling(time, at=12.0):
    """The automation hesitates from five seconds before `at`, the person drives on."""
    return 8.0 if time < at - 5 else max(8.0 - 2.0 * (time - at + 5), 2.0) if time < at else min(2.0 + 1.5 * (time - at), 8.0)


def records(dataset):
    return {r["id"]: r for r in map(dataset.record, range(len(dataset)))}


def at(record):
    return (record["t0_ns"] - START_NS) / S


@pytest.fixture
def hesitant(tmp_path, file):  # noqa: F811
    assert call(bags.write(tmp_path / "hesitant", drive(24.0, crawling, lambda t: 1.0 <= t < 12.0)), tmp_path / "D", file) == 0
    return tmp_path / "D"


def test_a_take_over_becomes_one_pair_and_its_shadow_is_left_out(hesitant, tmp_path, capsys):
    assert main(["data", "mine", str(hesitant), "--out", str(tmp_path / "M")]) == 0
    assert "1 take-overs: 1 PAIR" in (said := capsys.readouterr().out) and "1 pairs" in said
    found = records(Dataset(tmp_path / "M"))
    (negative,), (recovery,) = ([r for r in found.values() if r["label"] == label] for label in ("neg", "rec"))
    assert at(negative) == 9.0 and at(recovery) == 12.5
    assert negative["provenance"]["takeover"]["stamp_ns"] == recovery["provenance"]["takeover"]["stamp_ns"] == START_NS + 12 * S
    assert negative["provenance"]["pair"] == recovery["id"] and recovery["provenance"]["pair"] == negative["id"]
    assert (negative["provenance"]["driver"], recovery["provenance"]["driver"]) == ("automation", "person")
    # the text of the negative says what should have been done
    assert negative["reasoning"]["text"] == recovery["reasoning"]["text"] and "ccelerate" in recovery["reasoning"]["text"]
    imitated = sorted(at(r) for r in found.values() if r["label"] == "pos")
    assert imitated == [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 17.0, 17.5, 18.0, 18.5, 19.0]
    assert check.check(tmp_path / "M").errors == [] and card.split_by(tmp_path / "M") == "drive"
    # pictures are not copied
    links = [next((folder / "shards").glob("*.jpegs")).stat() for folder in (hesitant, tmp_path / "M")]
    assert links[0].st_ino == links[1].st_ino


NO_PAIR = {
    "NO_CORRECTION": drive(24.0, lambda t: 8.0, lambda t: t < 12.0),
    "DRIVE_ENDS": drive(13.0, lambda t: crawling(t), lambda t: t < 12.0),
    "AUTOMATION_TOO_SHORT": drive(24.0, crawling, lambda t: 10.0 <= t < 12.0),
    "PERSON_TOO_SHORT": drive(24.0, crawling, lambda t: t < 12.0 or t > 15.0),
    "NO_SAMPLE_BEFORE": drive(24.0, lambda t: crawling(t, at=2.0), lambda t: t < 2.0),
}


@pytest.mark.parametrize("reason", NO_PAIR)
def test_what_makes_no_sense_is_no_pair(tmp_path, file, reason):  # noqa: F811
    call(bags.write(tmp_path / "drive", NO_PAIR[reason]), tmp_path / "D", file)
    (event,) = [event for found in mining.mine(tmp_path / "D", tmp_path / "M") for event in found]
    assert event.reason == reason
    kept, before = Dataset(tmp_path / "M"), Dataset(tmp_path / "D")
    assert {entry.label for entry in kept.entries} == {"pos"}
    assert (len(kept) == len(before)) == (reason == "NO_CORRECTION")


def test_braking_that_goes_on_is_no_correction(tmp_path, file):  # noqa: F811
    """A person who takes over while the car brakes, and brakes on as it did."""
    messages = drive(24.0, lambda t: float(np.clip(8.0 - 2.0 * (t - 11.0), 0.0, 8.0)), lambda t: t < 12.0)
    call(bags.write(tmp_path / "drive", messages), tmp_path / "D", file)
    (event,) = [event for found in mining.mine(tmp_path / "D", tmp_path / "M") for event in found]
    assert event.reason == "NO_CORRECTION" and event.correction_m < 0.5


def test_after_harsh_braking_nothing_need_be_left_to_correct(tmp_path, file):  # noqa: F811
    messages = drive(24.0, lambda t: float(np.clip(8.0 - 6.0 * (t - 10.0), 0.0, 8.0)), lambda t: t < 12.0)
    call(bags.write(tmp_path / "drive", messages), tmp_path / "D", file)
    (event,) = [event for found in mining.mine(tmp_path / "D", tmp_path / "M") for event in found]
    assert event.reason == "" and event.correction_m < 0.5


def test_the_window_is_configurable(hesitant, tmp_path):
    (event,) = [e for found in mining.mine(hesitant, tmp_path / "M", Window(before_s=4.0, after_s=1.0)) for e in found]
    found = records(Dataset(tmp_path / "M"))
    assert (at(found[event.negative]), at(found[event.recovery])) == (8.0, 13.0)
    with pytest.raises(ConfigError, match="within 5 s before"):
        Window(before_s=9.0)


def test_without_a_word_on_who_drove_there_is_nothing_to_mine(tmp_path, file):  # noqa: F811
    silent = [entry for entry in drive(9.0, lambda t: 8.0, bool) if entry[0] != ENGAGED]
    call(bags.write(tmp_path / "drive", silent), tmp_path / "D", file)
    with pytest.raises(DataError, match="says who drove"):
        list(mining.mine(tmp_path / "D", tmp_path / "M"))


class Stub:
    """Plans to keep the speed, or not at all."""

    spec, engine_hash = demo_spec(), "e" * 64

    def __init__(self, refuse=False):
        self._refuse = refuse

    def plan(self, observation):
        if self._refuse:
            raise InputError("the model planned a waypoint that is not finite: [nan]")
        speed = float(observation.history.speeds_mps[-1])
        return Plan(
            t0_ns=observation.t0_ns, waypoints_base=geometry.constant_turn(speed, 0.0, 0.5 * np.arange(1, 11)), waypoint_interval_s=0.5,
            pose_odom=observation.pose_odom, speed_mps=speed, reasoning="", tokens=0, seed=0, engine_hash=self.engine_hash,
        )  # fmt: skip


def test_bad_plans_become_negatives_of_what_was_driven(hesitant, tmp_path):
    judged = [one for found in critique.mine(hesitant, tmp_path / "M", Stub(), worse_m=2.0) for one in found]
    found = records(Dataset(tmp_path / "M"))
    wrong = {one.id for one in judged if one.fault}
    # to keep the speed is right until the car slows down, and once it is fast again
    assert len(judged) == len(Dataset(hesitant)) and 5 < len(wrong) < len(judged)
    assert {r["id"] for r in found.values() if r["label"] == "rec"} == wrong
    assert {r["id"] for r in found.values() if r["label"] == "neg"} == {f"{name}_plan" for name in wrong}
    for name in wrong:
        plan, driven = found[f"{name}_plan"], found[name]
        assert plan["provenance"]["future"] == "plan" and "from what was driven" in plan["provenance"]["fault"]
        assert np.hypot(*(np.array(plan["future"]) - driven["future"])[:, :2].T).mean() > 2.0
        assert plan["provenance"]["engine"] == "e" * 64 and driven["provenance"]["pair"] == plan["id"]
    assert check.check(tmp_path / "M").errors == []


def test_a_planner_that_refuses_leaves_the_sample_as_it_is(hesitant, tmp_path):
    judged = [one for found in critique.mine(hesitant, tmp_path / "M", Stub(refuse=True), worse_m=2.0) for one in found]
    assert all(one.fault.startswith("no plan") for one in judged)
    assert {entry.label for entry in Dataset(tmp_path / "M").entries} == {"pos"}


class Recorded:
    """Plans what was driven."""

    spec, engine_hash = demo_spec(), "f" * 64

    def __init__(self, folder):
        self._samples = {sample.observation.t0_ns: sample for sample in Dataset(folder, grid=self.spec)}

    def plan(self, observation):
        return Plan(
            t0_ns=observation.t0_ns, waypoints_base=self._samples[observation.t0_ns].future, waypoint_interval_s=0.5,
            pose_odom=observation.pose_odom, speed_mps=float(observation.history.speeds_mps[-1]), reasoning="", tokens=0, seed=0,
            engine_hash=self.engine_hash,
        )  # fmt: skip


def test_where_there_is_a_map_the_score_decides(tmp_path, monkeypatch):
    pytest.importorskip("libsumo", reason="needs the extra [sim]")
    monkeypatch.setattr(collect, "_pictures", painted)
    assert collect.drive("red", 5000, tmp_path / "D", collect.Recipe(limit_s=16.0)) > 3
    straight = {one.id: one.fault for found in critique.mine(tmp_path / "D", tmp_path / "S", Stub(), worse_m=1000.0) for one in found}
    wrong = {name: fault for name, fault in straight.items() if fault}
    # into the red light, though a kilometre from what was driven would have been allowed
    assert wrong and not any("from what was driven on average" in fault for fault in wrong.values()), straight
    assert {r["id"] for r in records(Dataset(tmp_path / "S")).values() if r["label"] == "neg"} == {f"{name}_plan" for name in wrong}
    assert check.check(tmp_path / "S").errors == []
    driven = [one.fault for found in critique.mine(tmp_path / "D", tmp_path / "R", Recorded(tmp_path / "D"), worse_m=0.0) for one in found]
    assert driven and not any(driven)


def many(tmp_path, file, count=6):  # noqa: F811
    for k in range(count):
        call(bags.write(tmp_path / f"drive{k}", drive(7.0 + 0.5 * k, lambda t: 6.0 + 0.3 * k, bool)), tmp_path / "many", file)
    return tmp_path / "many"


def test_merging_keeps_everything_once(hesitant, tmp_path, file, capsys):  # noqa: F811
    other = many(tmp_path, file, 2)
    assert main(["data", "merge", str(hesitant), str(other), "--out", str(tmp_path / "all")]) == 0
    together = Dataset(tmp_path / "all")
    assert len(together) == len(Dataset(hesitant)) + len(Dataset(other)) and check.check(tmp_path / "all").errors == []
    assert json.loads((tmp_path / "all/card.json").read_text())["drives"] == 3
    for folders, words in (((hesitant, hesitant), "is there already"), ((hesitant, tmp_path / "all"), "is there already")):
        assert main(["data", "merge", *map(str, folders), "--out", str(tmp_path / "twice")]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "twice").exists()
    assert main(["data", "merge", str(other), "--out", str(tmp_path / "all")]) == 2
    assert "holds a data set already" in capsys.readouterr().err


def test_the_same_moments_under_other_names_are_found(hesitant, tmp_path):
    renamed = tmp_path / "renamed"
    source = Dataset(hesitant)
    shard = merge.drives(source)[0]
    merge.copy_drive(shard, renamed, [{**r, "id": f"new_{k}"} for k, r in enumerate(records(source).values())])
    (renamed / "shards" / shard.name).rename(renamed / "shards/other.jsonl")
    for suffix in (".jpegs", ".truth.json"):
        name = shard.name.removesuffix(".jsonl")
        (renamed / "shards" / (name + suffix)).rename(renamed / "shards" / f"other{suffix}")
    with pytest.raises(DataError, match="new_0 of .* is there already"):
        merge.merge([hesitant, renamed], tmp_path / "out")
    for path in (renamed / "shards").iterdir():
        path.rename(hesitant / "shards" / path.name)
    assert any("is the same moment as" in line for line in check.check(hesitant).errors)


def test_drives_are_divided_and_never_frames(tmp_path, file, capsys):  # noqa: F811
    whole = many(tmp_path, file)
    arguments = ["data", "split", str(whole), "--by", "drive", "--validation", "0.3", "--test", "0.2"]
    assert main([*arguments, "--out", str(tmp_path / "S")]) == 0
    divided = Dataset(tmp_path / "S")
    by_drive = {}
    for entry in divided.entries:
        by_drive.setdefault(entry.shard, set()).add(entry.split)
    assert all(len(splits) == 1 for splits in by_drive.values()) and len(divided) == len(Dataset(whole))
    assert {s for splits in by_drive.values() for s in splits} == {"train", "validation", "test"}
    assert check.check(tmp_path / "S").errors == [] and card.split_by(tmp_path / "S") == "drive"
    # the same again, whatever the order of files
    assert main([*arguments, "--out", str(tmp_path / "S2")]) == 0
    assert [e.split for e in Dataset(tmp_path / "S2").entries] == [e.split for e in divided.entries]
    # all drives are of one place: it can't be divided by places
    assert main(["data", "split", str(whole), "--by", "map", "--out", str(tmp_path / "S3")]) == 2
    assert "has 1 different values of map" in capsys.readouterr().err
    # a set that says it is divided by maps and isn't
    card.write(tmp_path / "S", "map")
    assert any("map unmapped is in several splits" in line for line in check.check(tmp_path / "S").errors)


def simulated(tmp_path: Path, family: str, seed: int, limit_s: float):
    from recorded_drive import record

    made = record(tmp_path / f"{family}_{seed}", family, seed, limit_s=limit_s)
    recipe = ingest.IngestRecipe(topics=topics.load(share("config/topics/drive.yaml")).only(["front"]))
    return made, ingest.ingest(made.path, tmp_path / "D", recipe)


def mined(tmp_path: Path, made):
    """Injected take-overs, and those that became pairs, as (drive, stamp)."""
    pairs = [event for found in mining.mine(tmp_path / "D", tmp_path / "M") for event in found if not event.reason]
    found = records(Dataset(tmp_path / "M"))
    for event in pairs:
        negative, recovery = found[event.negative], found[event.recovery]
        assert abs(negative["t0_ns"] - event.stamp_ns + 3 * S) <= 0.3 * S and abs(recovery["t0_ns"] - event.stamp_ns - S // 2) <= 0.3 * S
        assert (negative["label"], recovery["label"]) == ("neg", "rec")
    assert check.check(tmp_path / "M").errors == []
    return {(one.path.name, stamp) for one in made for stamp in one.takeovers}, {(e.drive.rsplit("-", 1)[0], e.stamp_ns) for e in pairs}


def test_a_simulated_drive_with_a_take_over_is_found(tmp_path):
    pytest.importorskip("libsumo", reason="needs the extra [sim]")
    made, report = simulated(tmp_path, "lane", 1, 20.0)
    assert report.takeovers == 1 and len(made.takeovers) == 1
    injected, found = mined(tmp_path, [made])
    assert injected == found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_simulated_drives(tmp_path):
    """Four of five with a lapse; where it mattered a person takes over at its end. Precision and recall are 1."""
    pytest.importorskip("libsumo", reason="needs the extra [sim]")
    from spanvla_ros.sim.scenarios import scenario as scenarios

    families = scenarios.parse_families("all")
    seeds = [2 * k if k % 5 == 4 else 2 * k + 1 for k in range(50)]
    made = [simulated(tmp_path, families[k % len(families)], seed, 28.0 if seed % 2 else 12.0)[0] for k, seed in enumerate(seeds)]
    injected, found = mined(tmp_path, made)
    assert len(injected) >= 20 and injected == found
