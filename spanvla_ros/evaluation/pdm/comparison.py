"""Compares our scores with the golden results of a folder of fixtures, value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import DataError
from spanvla_ros.evaluation.pdm import aggregation, comfort, scorer
from spanvla_ros.evaluation.pdm.areas import locate
from spanvla_ros.evaluation.pdm.closed import propose
from spanvla_ros.evaluation.pdm.fixtures import Fixture, read_fixture, scene_names
from spanvla_ros.evaluation.pdm.scene import FRAMES
from spanvla_ros.evaluation.pdm.simulator import interpolate, simulate
from spanvla_ros.geometry import to_global, wrap

STATE_TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-4
REFERENCE_TOLERANCE_M = 1e-3
PAIR_S = 0.5
_V1 = ("nc", "dac", "ddc", "ttc", "comfort", "ep")
_V2 = ("nc", "dac", "ddc", "tlc", "ttc", "lk", "hc", "ep", "ec")
_LONG = {
    "no_at_fault_collisions": "nc",
    "drivable_area_compliance": "dac",
    "driving_direction_compliance": "ddc",
    "traffic_light_compliance": "tlc",
    "ego_progress": "ep",
    "time_to_collision_within_bound": "ttc",
    "lane_keeping": "lk",
    "history_comfort": "hc",
    "two_frame_extended_comfort": "ec",
    "score": "score",
}


@dataclass(kw_only=True)
class Tally:
    """Values compared, mismatches and the largest difference of one metric; the first mismatches in words."""

    compared: int = 0
    mismatches: int = 0
    largest: float = 0.0
    examples: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Comparison:
    """What `compare` counted."""

    scenes: int = 0
    proposals: int = 0
    groups: int = 0
    metrics: dict[str, Tally] = field(default_factory=dict)

    def check(self, metric: str, place: str, ours: Any, golden: Any, tolerance: float = 0.0) -> None:
        """Count values of one metric; NaN equals NaN."""
        ours, golden = np.asarray(ours, dtype=float), np.asarray(golden, dtype=float)
        tally = self.metrics.setdefault(metric, Tally())
        tally.compared += golden.size
        if ours.shape != golden.shape:
            tally.mismatches += max(golden.size, 1)
            tally.examples.append(f"{place}: shape {ours.shape}, golden {golden.shape}")
            return
        difference = np.abs(ours - golden)
        both_missing = np.isnan(ours) & np.isnan(golden)
        wrong = ~((difference <= tolerance) | both_missing)
        known = difference[np.isfinite(difference)]
        tally.largest = max(tally.largest, float(known.max()) if known.size else 0.0)
        tally.mismatches += int(wrong.sum())
        for index in np.argwhere(wrong)[: max(3 - len(tally.examples), 0)]:
            at = tuple(index.tolist())
            tally.examples.append(f"{place} {list(at)}: {ours[at]:.9g}, golden {golden[at]:.9g}")

    @property
    def mismatches(self) -> int:
        return sum(tally.mismatches for tally in self.metrics.values())

    @property
    def compared(self) -> int:
        return sum(tally.compared for tally in self.metrics.values())


def compare(folder: Path) -> Iterator[Comparison]:
    """Score every fixture of a folder; yields the growing comparison after each scene, and last with the aggregation."""
    result = Comparison()
    fixtures: dict[str, scorer.Scores] = {}
    human: dict[str, scorer.Scores] = {}
    places: dict[str, Fixture] = {}
    # a frame that others name as their previous one comes first
    names = scene_names(folder)
    loaded = [read_fixture(folder, name) for name in names]
    for fixture in sorted(loaded, key=lambda one: one.previous is not None):
        name = fixture.scene.name
        if fixture.previous and fixture.previous not in fixtures:
            raise DataError(f"scene {name}: its previous frame {fixture.previous} is missing in {folder}")
        previous = fixtures[fixture.previous].states if fixture.previous else None
        fixtures[name], human[name] = _scene(result, fixture, previous)
        places[name] = fixture
        result.scenes += 1
        result.proposals += len(fixture.proposals)
        yield result
    if (folder / "aggregation.json").exists():
        _aggregation(result, json.loads((folder / "aggregation.json").read_text(encoding="utf-8")), fixtures, human, places)
        yield result


def _scene(result: Comparison, fixture: Fixture, previous: np.ndarray | None) -> tuple[scorer.Scores, scorer.Scores]:
    """Compare one scene; returns its v2 scores in log replay, and the human's."""
    scene, name, rows, golden = fixture.scene, fixture.scene.name, fixture.rows, fixture.arrays
    _inputs(result, fixture)
    states = simulate(scene.ego, interpolate(scene, fixture.proposals))
    result.check("simulated states", name, _continued(states, golden["sim_states"]), golden["sim_states"], STATE_TOLERANCE)
    where = locate(scene, states)
    flags = np.stack([where.multiple_lanes, where.non_drivable, where.oncoming], axis=-1)
    result.check("ego areas", name, flags, golden["ego_areas"])
    for version in FRAMES:
        _reference(result, fixture, version)

    first = scorer.score_states(scene, states, "v1")
    _values(result, "v1", name, first, [row["v1"] for row in rows], _V1)
    result.check("v1 pdms", name, first.total, [row["v1"]["pdms"] for row in rows], SCORE_TOLERANCE)
    result.check("v1 comfort parts", name, first.parts, [row["v1"]["comfort_parts"] for row in rows])
    _extras(result, "v1", name, first, [row["v1"] for row in rows])

    extended = None
    if previous is not None:
        extended = comfort.extended_comfort(states, previous[[row["prev_proposal"] for row in rows]], PAIR_S)
        for feature, values in extended.rms.items():
            result.check(f"ec rms {feature}", name, values, [row["ec_rms"][feature] for row in rows], STATE_TOLERANCE)
    person = scorer.human_scores(scene)
    result.check("human states", name, _continued(person.states[0], golden["human_sim_states"]), golden["human_sim_states"], STATE_TOLERANCE)
    replay = _second_version(result, fixture, "v2_log_replay", states, None, extended, {key: float(v[0]) for key, v in person.values.items()})
    if fixture.reactive is not None and rows[0].get("v2_idm"):
        _second_version(result, fixture, "v2_idm", states, fixture.reactive, extended, _reactive_human(fixture))
    return replay, person


def _second_version(
    result: Comparison,
    fixture: Fixture,
    kind: str,
    states: np.ndarray,
    frames: np.ndarray | None,
    extended: comfort.Extended | None,
    human: Mapping[str, float],
) -> scorer.Scores:
    """Compare v2 under one kind of traffic: unfiltered, filtered, human."""
    name, rows = fixture.scene.name, [row[kind] for row in fixture.rows]
    scores = scorer.score_states(fixture.scene, states, "v2", frames)
    _extras(result, kind, name, scores, rows)
    result.check(f"{kind} pdm_score without ec", name, scores.total, [row["pdm_score_no_ec"] for row in rows], SCORE_TOLERANCE)
    if "hc_parts" in rows[0]:
        result.check(f"{kind} hc parts", name, scores.parts, [row["hc_parts"] for row in rows])
    if extended is not None:
        scores = scorer.with_extended(scores, extended)
    for key, value in human.items():
        result.check(f"{kind} human {key}", name, value, rows[0]["human"][key], SCORE_TOLERANCE if key == "ep" else 0.0)
    _values(result, f"{kind} unfiltered", name, scores, [row["unfiltered"] for row in rows], _V2)
    result.check(f"{kind} unfiltered product", name, scores.product, [row["unfiltered"]["multiplicative"] for row in rows])
    result.check(f"{kind} unfiltered epdms", name, scores.total, [row["unfiltered"]["epdms"] for row in rows], SCORE_TOLERANCE)
    person = {key: np.array(human.get(key, rows[0]["human"][key])) for key in scorer.FILTERED}
    filtered = scorer.filtered(scores.values, person)
    for key in _V2:
        if key in filtered:
            tolerance = SCORE_TOLERANCE if key == "ep" else 0.0
            result.check(f"{kind} filtered {key}", name, filtered[key], [row["filtered"][key] for row in rows], tolerance)
    result.check(f"{kind} filtered epdms", name, scorer.aggregate("v2", filtered), [row["filtered"]["epdms"] for row in rows], SCORE_TOLERANCE)
    return scores


def _reactive_human(fixture: Fixture) -> dict[str, float]:
    """The human's sub-scores among reactive tracks.

    Fixtures hold reactive tracks per proposal, none for the human. Where a proposal is the human's plan its tracks are the
    human's; elsewhere nc and ttc, which alone depend on tracks, are left to the golden row.
    """
    same = [i for i, plan in enumerate(fixture.proposals) if np.array_equal(plan, fixture.scene.human)]
    frames = fixture.reactive[same[:1]] if same else None
    values = scorer.human_scores(fixture.scene, "v2", frames).values
    return {key: float(value[0]) for key, value in values.items() if same or key not in ("nc", "ttc")}


def _inputs(result: Comparison, fixture: Fixture) -> None:
    """What the reader makes of the raw scene: tracks at 10 Hz, tracks left out, history, poses of the proposals."""
    scene, name, golden = fixture.scene, fixture.scene.name, fixture.arrays
    rows = {token: row for row, token in enumerate(fixture.agent_tokens)}
    for version, agents in scene.traffic.items():
        stored = golden[f"agents_10hz_{version}"][..., 1:]
        ours = np.full(stored.shape, np.nan)
        for token, frames in zip(agents.tokens, agents.frames):
            ours[rows[token]] = frames
        result.check(f"tracks {version}", name, _continued(ours, stored), stored, STATE_TOLERANCE)
    kept = {rows[token] for token in scorer.traffic(scene, "v2").tokens}
    official = ~np.isnan(golden["agents_10hz_v2_cleaned"][..., 0]).all(axis=1)
    result.check("tracks left out", name, [row in kept for row in range(len(official))], official)
    result.check("history", name, _continued(scene.history, golden["history_states"]), golden["history_states"], STATE_TOLERANCE)
    poses = interpolate(scene, fixture.proposals)
    result.check("proposal poses", name, _continued(poses, golden["ref_poses"]), golden["ref_poses"], STATE_TOLERANCE)


def _reference(result: Comparison, fixture: Fixture, version: str) -> None:
    """PDM-Closed: its 15 proposals, their scores and the chosen one."""
    scene, name, golden = fixture.scene, fixture.scene.name, fixture.arrays
    offered = propose(scene, version)
    result.check(f"pdm-closed proposals {version}", name, offered.poses[..., :2], golden["pdm_proposals"][..., :2], REFERENCE_TOLERANCE_M)
    result.check(f"pdm-closed scores {version}", name, offered.scores, golden[f"pdm_scores_{version}"], SCORE_TOLERANCE)
    chosen, official = scorer.reference(scene, version), golden[f"pdm_reference_{version}"]
    result.check(f"pdm-closed reference {version}", name, _continued(chosen, official), official, REFERENCE_TOLERANCE_M)


def _values(result: Comparison, label: str, name: str, scores: scorer.Scores, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    for key in keys:
        if key in scores.values:
            tolerance = SCORE_TOLERANCE if key == "ep" else 0.0
            result.check(f"{label} {key}", name, scores.values[key], [row[key] for row in rows], tolerance)


def _extras(result: Comparison, label: str, name: str, scores: scorer.Scores, rows: Sequence[Mapping[str, Any]]) -> None:
    """Progress in metres, and the steps of failures."""
    result.check(f"{label} progress", name, scores.raw, [row["progress_raw"] for row in rows], SCORE_TOLERANCE)
    result.check(f"{label} reference progress", name, scores.reference_raw, [row["progress_raw_pdm"] for row in rows], REFERENCE_TOLERANCE_M)
    result.check(f"{label} reference product", name, scores.reference_product, [row["pdm_multiplicative"] for row in rows])
    for key, golden in (("nc", "collision_step"), ("ttc", "ttc_step")):
        steps = [np.nan if failure is None else failure.step for failure in scores.failures[key]]
        result.check(f"{label} {golden}", name, steps, [np.nan if row[golden] is None else row[golden] for row in rows])


def _continued(ours: np.ndarray, golden: np.ndarray) -> np.ndarray:
    """Ours with the heading (third column) turned by full turns towards golden's, so that +pi and -pi are the same."""
    if ours.shape != golden.shape:
        return ours
    result = ours.copy()
    result[..., 2] = golden[..., 2] + wrap(ours[..., 2] - golden[..., 2])
    return result


def _aggregation(
    result: Comparison,
    document: Mapping[str, Any],
    scores: Mapping[str, scorer.Scores],
    human: Mapping[str, scorer.Scores],
    places: Mapping[str, Fixture],
) -> None:
    """Compare the two-stage score: rows, weights, groups and totals."""
    expected = document["expected_rows"]

    def rows(pair: Mapping[str, Any], first: bool) -> list[dict[str, float]]:
        states = [scores[pair[side]["scene"]].states[[pair[side]["proposal"]]] for side in ("now", "prev")]
        comfortable = comfort.extended_comfort(states[0], states[1], PAIR_S).scores
        found = []
        for side in ("now", "prev"):
            scene, index = pair[side]["scene"], pair[side]["proposal"]
            values = {key: value[[index]] for key, value in scores[scene].values.items() if key != "ec"}
            if first:
                values = scorer.filtered(values, human[scene].values)
            values["ec"] = comfortable
            row = {key: float(value[0]) for key, value in values.items()} | {"score": float(scorer.aggregate("v2", values)[0])}
            golden = expected[pair[side]["token"]]
            for long, short in _LONG.items():
                tolerance = SCORE_TOLERANCE if short in ("ep", "score") else 0.0
                result.check(f"two-stage row {short}", pair[side]["token"], row[short], golden[long], tolerance)
            found.append(row)
        return found

    groups = []
    for entry in document["groups"]:
        label = f"group {entry['group']}"
        first = rows(entry["first_stage"], True)
        second = [rows(pair, False) for pair in entry["second_stage"]]
        endpoints = []
        for side in ("now", "prev"):
            place = places[entry["first_stage"][side]["scene"]]
            endpoint = to_global(place.scene.ego[:3], place.proposals[entry["first_stage"][side]["proposal"], -1])[:2]
            result.check("two-stage endpoint", label, endpoint, entry["first_stage"][side]["endpoint"], STATE_TOLERANCE)
            endpoints.append(endpoint)
        starts = [np.array([pair[side]["start_point"] for pair in entry["second_stage"]]) for side in ("now", "prev")]
        for side, endpoint, start in zip(("now", "prev"), endpoints, starts):
            golden = [expected[pair[side]["token"]]["weight"] for pair in entry["second_stage"]]
            result.check("two-stage weight", f"{label} {side}", aggregation.stage_weights(endpoint, start), golden, STATE_TOLERANCE)
        columns = tuple(zip(*second))
        group = aggregation.Group(name=label, endpoints=tuple(endpoints), starts=tuple(starts), first=tuple(first), second=columns)
        groups.append(group)
        for stage, values in aggregation.two_stage([group]).items():
            result.check(f"two-stage group {stage}", label, values["score"], entry["expected"][stage], SCORE_TOLERANCE)
    for stage, values in aggregation.two_stage(groups).items():
        for long, short in _LONG.items():
            result.check(f"two-stage total {stage}", f"{stage} {short}", values[short], document["expected_total"][stage][long], SCORE_TOLERANCE)
    result.groups = len(groups)
