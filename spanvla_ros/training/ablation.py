"""The paper's ablations of the bridge: every row trained for the same steps on the same stage-one model, seed by seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from spanvla_ros import config as configs
from spanvla_ros.contracts import ConfigError, DataError, ModelSpec
from spanvla_ros.data.sample import FUTURE_INTERVAL_S
from spanvla_ros.model import decoding
from spanvla_ros.model.flow import TauConfig
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.share import runs
from spanvla_ros.training import baselines, batches, bench, plan_scores, table, timing
from spanvla_ros.training.bench import BLACK, SEEN, SILENT, Bench
from spanvla_ros.training.bridge import BridgeConfig
from spanvla_ros.training.expert import ExpertConfig, ExpertTask, fit
from spanvla_ros.training.processes import Processes
from spanvla_ros.training.runs import Run, write_text

RESULT, PLANS, SCORES, EXPERT = "result.json", "plans.npz", "pdm.json", "expert.safetensors"
TURN, BLIND, ORACLE, SPOKEN = "constant turn", "blind MLP", "oracle-state MLP", "action tokens"
TOKENS = (10, 50)  # lengths of a spoken plan whose time is taken


@dataclass(frozen=True, kw_only=True)
class RowConfig:
    """One row: a bridge, and where wanted another distribution of tau. `steps`: Euler steps it is also evaluated at."""

    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    tau: TauConfig | None = None
    steps: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Everything that `spanvla train ablation` may be told. The first row is the model itself: it is also shown black pictures and no text."""

    expert: ExpertConfig  # stage two of all rows; its bridge, vlm and seed are those of the row
    rows: Mapping[str, RowConfig]
    pdm_samples: int = 256
    timing_repeats: int = 30

    def __post_init__(self):
        if self.expert.loop.steps is None:
            raise ConfigError("expert.loop.steps must be given: all rows train for equally many steps, not seconds")
        if not self.rows:
            raise ConfigError("rows is empty")
        for name in self.rows:
            if not name or "/" in name or name.startswith("."):
                raise ConfigError(f"row name {name!r} can't be used as a folder name")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Plans (m, T, 3) for `Bench.samples`, every `interval_s`."""

    waypoints: np.ndarray
    interval_s: float


def run_ablation(config: AblationConfig, data: Path, sources: list[str], name: str, say: Callable[[str], None]) -> Path:
    """Train and judge all rows for each stage-one run of `sources`; returns the folder with table.json and table.md.

    What is finished is kept: the same command again goes on where it was stopped.
    """
    torch.set_num_threads(config.expert.threads)
    folder = runs() / name
    for seed, source in enumerate(sources):
        _seed(config, data, source, folder / f"seed-{seed}", seed, f"seed {seed + 1}/{len(sources)}", say)
    seeds = [folder / f"seed-{seed}" for seed in range(len(sources))]
    model, _ = bench.load(sources[0])
    if plan_scores.has_truth(data, config.expert.reader):
        _score(config, data, seeds, say)
    else:
        say(f"{data} holds no truth of its drives: no PDM score")
    say("trajectory times")
    times = _times(config, model, seeds[0])
    tokens = timing.tokens_ms(model, TOKENS, config.timing_repeats) if model.spec.action_tokens else {}
    times |= {f"{SPOKEN}@None": ms for count, ms in tokens.items() if count == model.spec.waypoints}
    found = table.collect(seeds, _names(config, model), times, config.expert.loop.steps) | {"tokens_ms": tokens}
    write_text(folder / "table.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "table.md", table.markdown(found))
    say(f"table: {folder / 'table.md'}")
    return folder


def _seed(config: AblationConfig, data: Path, source: str, folder: Path, seed: int, where: str, say: Callable[[str], None]) -> None:
    """All rows of one stage-one model."""
    expert = replace(config.expert, vlm=source, loop=replace(config.expert.loop, seed=seed))
    model, _ = bench.load(source)
    layers = model.architecture.text.layers
    drafts = {row: change.bridge.draft(model.spec, layers) for row, change in config.rows.items()}
    rows = {row: replace(expert, bridge=change.bridge, tau=change.tau or expert.tau) for row, change in config.rows.items()}
    names = _names(config, model)
    waiting = [row for row in names if not _finished(folder / row, rows.get(row, expert), source)]
    if not waiting:
        return
    everyone = expert.validation_samples
    stand = bench.setup(
        Processes(), expert.stage(data), source, tuple(sorted({tap for draft in drafts.values() for tap in draft.taps})), expert.shown(),
        folder / "kv", validation_samples=everyone, black_samples=everyone, silent_samples=everyone, say=say,
    )  # fmt: skip
    for row in waiting:
        say(f"{where}, row {names.index(row) + 1}/{len(names)}: {row}")
        if row in config.rows:
            _train(stand, rows[row], folder, row, config.rows[row].steps, row == names[0], say)
        else:
            _refer(stand, expert, folder, row)


def _finished(folder: Path, config: ExpertConfig, source: str) -> bool:
    """Whether a row is done; ConfigError where that was with another configuration."""
    path = folder / RESULT
    if not path.exists():
        return False
    if json.loads(path.read_text(encoding="utf-8"))["config"] != _identity(config):
        raise ConfigError(f"{path} was made with another configuration or stage-one run than {source}; choose another --run name or delete {folder}")
    return True


def _identity(config: ExpertConfig) -> dict[str, Any]:
    return json.loads(json.dumps(configs.to_dict(config)))


def _train(stand: Bench, config: ExpertConfig, folder: Path, row: str, steps: tuple[int, ...], first: bool, say: Callable[[str], None]) -> None:
    """One row: fit the expert, then plan for all validation samples in every number of Euler steps."""
    horizons = stand.fit_bridge(Processes(), config.bridge, seed=config.loop.seed)
    job, spec = ExpertTask(stand, config, horizons), stand.model.spec
    run = Run(row, configs.to_dict(config) | {"vlm_sha256": stand.identity}, stand.data["train"].sha256, folder)
    final = fit(config.loop, run, job, say)
    with torch.no_grad():
        for name, parameter in stand.model.expert.named_parameters():
            parameter.copy_(final[name])
    stand.model.expert.eval()
    default = 1 if spec.head == "l1" else spec.flow_steps
    others = sorted(set(steps) - {default}) if spec.head == "flow" else []
    asked = [(count, SEEN) for count in (default, *others)]
    if first:
        asked += [(default, shown) for shown in (BLACK, SILENT)]
    found = {(count, shown): job.waypoints(shown, steps=count) for count, shown in asked}
    save_file({name: value.contiguous() for name, value in final.items()}, run.path / EXPERT)
    predictions = {key: Prediction(waypoints=plans, interval_s=spec.waypoint_interval_s) for key, plans in found.items()}
    _keep(stand, config, run.path, predictions, spec)
    for checkpoint in run.checkpoints():
        shutil.rmtree(checkpoint)


def _refer(stand: Bench, config: ExpertConfig, folder: Path, row: str) -> None:
    """One row that trains no expert, at the horizon of stage one."""
    stand.model.reuse(stand.before, stand.expert)
    if row == SPOKEN:
        prediction = _spoken(stand)
    else:
        training, validation, samples = *(stand.data[split] for split in bench.SPLITS), stand.samples
        ego, base = validation["ego"][samples], validation["base"][samples]
        train_on, inputs, asked = {name: training[name] for name in ("base", "future")}, training["ego"], ego
        if row == ORACLE:
            inputs, asked = baselines.scene(inputs, training), baselines.scene(validation["ego"], validation)[samples]
        budget = {"seconds": config.blind_seconds, "seed": config.loop.seed}
        plans = base if row == TURN else baselines.regress(train_on, inputs, asked, base, **budget)
        prediction = Prediction(waypoints=plans, interval_s=stand.before.waypoint_interval_s)
    _keep(stand, config, folder / row, {(None, SEEN): prediction}, None)


def _spoken(stand: Bench) -> Prediction:
    """The plans that the VLM speaks as action tokens after its text; where one breaks off, the car keeps its turn."""
    model, data, plans = stand.model, stand.data["validation"], []
    for ids in np.array_split(stand.samples, max(1, len(stand.samples) // 64)):
        inputs = {name: torch.from_numpy(array) for name, array in batches.prompts(data, ids).items()}
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=stand.stage.bf16):
            spoken = decoding.speak(model, model.decode_greedy(model.vision(batches.pixels(data, ids, model.spec)), **inputs))
        told = model.codebook.detokenise(spoken.actions.clamp(min=0).numpy())
        plans.append(np.where(spoken.complete.numpy()[:, None, None], told, data["base"][ids]))
    return Prediction(waypoints=np.concatenate(plans), interval_s=stand.before.waypoint_interval_s)


def _keep(
    stand: Bench, config: ExpertConfig, folder: Path, found: Mapping[tuple[int | None, str], Prediction], spec: ModelSpec | None
) -> None:
    """Judge predictions on 2 Hz whatever their own interval, and write them; the row is finished when its result is there."""
    truth = every_half_second(stand.data["validation"]["future"][stand.samples], stand.before.waypoint_interval_s)
    plans = {key: every_half_second(prediction.waypoints, prediction.interval_s) for key, prediction in found.items()}
    entries = [
        {"steps": steps, "shown": shown, **baselines.ade(said, truth, FUTURE_INTERVAL_S)}
        for (steps, shown), said in plans.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / PLANS, samples=stand.samples, plans=np.stack(list(plans.values())).astype(np.float32))
    result = {"config": _identity(config), "spec": spec and spec.to_dict(), "entries": entries}
    write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")


def every_half_second(poses: np.ndarray, interval_s: float) -> np.ndarray:
    """Poses (n, T, 3) every `interval_s` -> (n, T', 3) every 0.5 s."""
    step = round(FUTURE_INTERVAL_S / interval_s)
    if step < 1 or abs(step * interval_s - FUTURE_INTERVAL_S) > 1e-6:
        raise DataError(f"waypoints every {interval_s:g} s can't be judged every {FUTURE_INTERVAL_S:g} s")
    return poses[:, step - 1 :: step]


def _score(config: AblationConfig, data: Path, seeds: list[Path], say: Callable[[str], None]) -> None:
    """PDM score of every row that has none yet, all in one pass over the samples."""
    open_rows = [path.parent for seed in seeds for path in sorted(seed.glob(f"*/{RESULT}")) if not (path.parent / SCORES).exists()]
    if not open_rows:
        return
    stored = [np.load(folder / PLANS) for folder in open_rows]
    samples = stored[0]["samples"]
    chosen = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), config.pdm_samples)).astype(int))
    plans = [entry["plans"][:, chosen] for entry in stored]
    say(f"PDM score of {sum(map(len, plans))} planners on {len(chosen)} samples")
    scores = plan_scores.score(data, samples[chosen], np.concatenate(plans), config.expert.workers, say)
    at = 0
    for folder, part in zip(open_rows, plans):
        write_text(folder / SCORES, json.dumps([round(float(v), 4) for v in scores[at : at + len(part)].mean(axis=1)]) + "\n")
        at += len(part)


def _times(config: AblationConfig, model: SpanVLA, folder: Path) -> dict[str, float]:
    """Milliseconds per plan, key "row@steps", of all experts in one run."""
    variants = {}
    for row in config.rows:
        result = json.loads((folder / row / RESULT).read_text(encoding="utf-8"))
        spec = ModelSpec.from_dict(result["spec"])
        variants |= {f"{row}@{entry['steps']}": (spec, entry["steps"]) for entry in result["entries"]}
    return timing.trajectory_ms(model, variants, config.timing_repeats)


def _names(config: AblationConfig, model: SpanVLA) -> list[str]:
    """All rows of the table, in its order."""
    return [*config.rows, TURN, BLIND, ORACLE, *([SPOKEN] if model.spec.action_tokens else [])]
