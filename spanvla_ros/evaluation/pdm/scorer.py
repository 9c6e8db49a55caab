"""PDMS (v1) and EPDMS (v2) of a whole group of proposals in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spanvla_ros.evaluation.pdm import collision, comfort, progress
from spanvla_ros.evaluation.pdm.areas import Whereabouts, locate
from spanvla_ros.evaluation.pdm.collision import Failure
from spanvla_ros.evaluation.pdm.scene import FRAMES, STEPS, Agents, Scene, require
from spanvla_ros.evaluation.pdm.simulator import interpolate, simulate
from spanvla_ros.evaluation.pdm.tracks import cleared

MULTIPLIERS = {"v1": ("nc", "dac"), "v2": ("nc", "dac", "ddc", "tlc")}
WEIGHTS = {"v1": {"ep": 5, "ttc": 5, "comfort": 2}, "v2": {"ep": 5, "ttc": 5, "lk": 2, "hc": 2, "ec": 2}}
FILTERED = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Sub-scores of K proposals: values: name -> (K,), failures: name -> one Failure or None per proposal.

    states (K, 41, 11) of the simulated drive; raw (K,): progress in metres; reference_raw and reference_product (K,): metres
    of the progress reference and product of its multiplicative sub-scores; parts (K, 6): the six comfort signals.
    `values` has no "ec" unless it was added (`with_extended`).
    """

    version: str
    states: np.ndarray
    values: Mapping[str, np.ndarray]
    failures: Mapping[str, list[Failure | None]]
    raw: np.ndarray
    reference_raw: np.ndarray
    reference_product: np.ndarray
    parts: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """PDMS or EPDMS (K,), unfiltered."""
        return aggregate(self.version, self.values)

    @property
    def product(self) -> np.ndarray:
        """(K,) of the multiplicative sub-scores."""
        return multiply(self.version, self.values)


def multiply(version: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Product (K,) of the multiplicative sub-scores."""
    return np.prod([values[name] for name in MULTIPLIERS[version]], axis=0)


def aggregate(version: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """PDMS or EPDMS (K,) of sub-scores; the weight of a sub-score that isn't there (EC without a previous frame) is dropped."""
    weights = {name: weight for name, weight in WEIGHTS[version].items() if name in values}
    return multiply(version, values) * sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())


def filtered(values: Mapping[str, np.ndarray], human: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Human filter of v2: sub-scores in which the human gets exactly 0 become 1; 0.5 changes nothing."""
    return {name: np.where((human[name] == 0) & (name in FILTERED), 1.0, value) if name in human else value for name, value in values.items()}


def score(scene: Scene, plans: np.ndarray, version: str, frames: np.ndarray | None = None) -> Scores:
    """Simulate and score plans (K, 8, 3), poses in the ego frame at 0.5 .. 4.0 s.

    frames: reactive tracks (K, A, 41, 5), one set per proposal, in place of the log's.
    """
    return score_states(scene, simulate(scene.ego, interpolate(scene, plans)), version, frames)


def human_scores(scene: Scene, version: str = "v2", frames: np.ndarray | None = None) -> Scores:
    """Scores of the logged future on its own: nothing to compare its progress with, no history, so EP and HC are 1."""
    require(scene.human is not None, scene.name, "human", "missing: the human filter needs the logged future")
    states = simulate(scene.ego, interpolate(scene, scene.human[None]))
    return score_alone(scene, states, version, frames)


def score_states(scene: Scene, states: np.ndarray, version: str, frames: np.ndarray | None = None) -> Scores:
    """Score simulated states (K, 41, 11)."""
    return _judge(scene, states, version, frames, history=scene.history, reference=reference_progress(scene, version, frames))


def score_alone(scene: Scene, states: np.ndarray, version: str, frames: np.ndarray | None = None) -> Scores:
    """Score simulated states (K, 41, 11) whose progress is compared within the group, without a history."""
    return _judge(scene, states, version, frames, history=None, reference=None)


def reference_progress(scene: Scene, version: str, frames: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Progress (1 or K,) in metres of the reference and the product of its multiplicative sub-scores, once per scene.

    Reactive tracks differ per proposal, and the reference is judged among the tracks of the proposal it is compared with.
    """
    key = ("reference states", version)
    if key not in scene.memory:
        scene.memory[key] = simulate(scene.ego, reference(scene, version)[None])
    if frames is not None:
        judged = score_alone(scene, np.broadcast_to(scene.memory[key], (len(frames), STEPS, 11)), version, frames)
        return judged.raw, judged.product
    key_progress = ("reference progress", version)
    if key_progress not in scene.memory:
        judged = score_alone(scene, scene.memory[key], version)
        scene.memory[key_progress] = judged.raw, judged.product
    return scene.memory[key_progress]


def reference(scene: Scene, version: str) -> np.ndarray:
    """Global poses (41, 3) of the progress reference: the given one, or PDM-Closed's choice."""
    if version in scene.references:
        return scene.references[version]
    from spanvla_ros.evaluation.pdm.closed import choose  # it scores its own proposals with this module

    return choose(scene, version)


def traffic(scene: Scene, version: str) -> Agents:
    """Log replay as the version judges it: v2 leaves out the tracks that touch the ego at t0."""
    key = ("traffic", version)
    if key not in scene.memory:
        agents = scene.traffic[version]
        scene.memory[key] = cleared(agents, scene.ego) if version == "v2" else agents
    return scene.memory[key]


def _judge(
    scene: Scene,
    states: np.ndarray,
    version: str,
    frames: np.ndarray | None,
    history: np.ndarray | None,
    reference: tuple[np.ndarray, np.ndarray] | None,
) -> Scores:
    """All sub-scores of states (K, 41, 11); `reference` None compares the progress with the best of the group."""
    require(version in FRAMES, scene.name, "version", f"{version}, known are {tuple(FRAMES)}")
    agents = traffic(scene, version) if frames is None else scene.traffic[version]
    if frames is not None:
        expected = (len(states), len(agents.tokens), FRAMES[version], 5)
        require(frames.shape == expected, scene.name, "reactive tracks", f"of shape {frames.shape}, expected {expected}")
    tracks = collision.tracks_per_proposal(agents, frames, len(states))
    where: Whereabouts = locate(scene, states)
    outcomes = {
        "nc": collision.at_fault_collisions(states, where, agents, tracks),
        "dac": progress.drivable_area(where),
        "ddc": progress.driving_direction(where, version),
        "ttc": collision.time_to_collision(states, where, agents, tracks, version),
    }
    if version == "v2":
        outcomes["tlc"] = collision.red_lights(scene, where)
        outcomes["lk"] = progress.lane_keeping(scene, where)
    comfortable, uncomfortable, parts = comfort.comfort(states, version, history)
    outcomes["hc" if version == "v2" else "comfort"] = comfortable, uncomfortable
    values = {name: outcome[0] for name, outcome in outcomes.items()}
    raw = progress.raw_progress(scene, where)
    product = multiply(version, values)
    if reference is None:
        best = int(np.argmax(raw * product))
        reference = raw[[best]], product[[best]]
    values["ep"] = progress.ego_progress(version, raw, product, *reference)
    return Scores(
        version=version,
        states=states,
        values=values,
        failures={name: outcome[1] for name, outcome in outcomes.items()},
        raw=raw,
        reference_raw=np.broadcast_to(reference[0], raw.shape),
        reference_product=np.broadcast_to(reference[1], raw.shape),
        parts=parts,
    )


def with_extended(scores: Scores, extended: comfort.Extended) -> Scores:
    """The scores with EC."""
    return Scores(
        version=scores.version,
        states=scores.states,
        values={**scores.values, "ec": extended.scores},
        failures={**scores.failures, "ec": extended.failures},
        raw=scores.raw,
        reference_raw=scores.reference_raw,
        reference_product=scores.reference_product,
        parts=scores.parts,
    )
