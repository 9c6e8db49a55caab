"""Reinforcement fine-tuning on the tiny model: roll-outs, the same update on any number of processes, exact resume, bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("shapely")
sys.path.insert(0, str(Path(__file__).parent))

import rft_samples  # noqa: E402
from test_model_actions import grid_codebook  # noqa: E402

from spanvla_ros import config as configs  # noqa: E402
from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.contracts import ConfigError, DataError, InputError, SpanVLAError  # noqa: E402
from spanvla_ros.data import scoring  # noqa: E402
from spanvla_ros.data.sample import LABELS  # noqa: E402
from spanvla_ros.data.shards import Dataset  # noqa: E402
from spanvla_ros.model import checkpoint, decoding, tiny  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402
from spanvla_ros.planning.tokenizer import ACTION_START, THINK_END  # noqa: E402
from spanvla_ros.training import adapters, bench, grpo, rft, rollouts, scorers  # noqa: E402
from spanvla_ros.training.adapters import LoraConfig  # noqa: E402
from spanvla_ros.training.loop import Diverged  # noqa: E402
from spanvla_ros.training.processes import Processes, launch  # noqa: E402
from spanvla_ros.training.rewards import RewardConfig  # noqa: E402
from spanvla_ros.training.rft import RftConfig, run_rft  # noqa: E402
from spanvla_ros.training.scorers import Case, Judge, Scorers, Source  # noqa: E402

CONFIG = Path(__file__).resolve().parents[1] / "config/train/tiny_rft.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return rft_samples.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model():
    # small steps, so that plans stay on the road now and then
    return tiny.build(seed=3, codebook=grid_codebook(0.5))


@pytest.fixture
def runs(tmp_path, monkeypatch, model) -> Path:
    monkeypatch.setenv("SPANVLA_RUNS", str(tmp_path))
    rft_samples.start(tmp_path / "start", model)
    return tmp_path


def silent(text: str) -> None:
    pass


def prompt_of(model, data: Path, index: int = 0) -> rollouts.Prompt:
    sample = Dataset(data, "train", model.spec, LABELS)[index]
    return rollouts.prompted(model, preprocess(sample.observation, model.spec, model.tokenizer))


def draw(model, prompt, allowed, **changes):
    settings = {"count": 6, "kind": "tokens", "temperature": 1.0, "seed": 5} | changes
    return rollouts.draw(model, prompt, rollouts.prefill(model, prompt), allowed, **settings)


def few(model) -> torch.Tensor:
    """A vocabulary so small that a random model ends its text before the budget does."""
    allowed = ALL(model)
    words = [index for index in allowed[0].nonzero().flatten().tolist() if model.tokenizer.id_to_token(index).isalpha()][:6]
    ends = [model.tokenizer.token_to_id(token) for token in (THINK_END, ACTION_START)]
    allowed[0] = False
    allowed[0, words + ends] = True
    return allowed


ALL = rollouts.vocabulary


def test_what_may_come_and_what_not(model):
    allowed, words = rollouts.vocabulary(model), model.tokenizer
    first, count = model.first_action, len(model.codebook)
    for token in ("<|video_pad|>", "<|im_start|>", "<think>", "<|pad|>"):
        assert not allowed[:, words.token_to_id(token)].any()
    assert allowed[0, words.token_to_id(ACTION_START)] and allowed[0, words.token_to_id(THINK_END)]
    assert not allowed[0, first : first + count].any() and allowed[1].sum() == count


def test_log_probabilities_are_those_of_the_sampler(model, data):
    """One shared pass over the prompt, and the mask and temperature that the answers were drawn with."""
    prompt, allowed = prompt_of(model, data), few(model)
    drawn = draw(model, prompt, allowed, temperature=1.7)
    found = rollouts.log_probs(model, prompt, drawn, allowed, 1.7).detach().numpy()
    assert len(set(map(tuple, drawn.tokens))) > 1 and drawn.ended.any()
    np.testing.assert_allclose(found, drawn.log_probs, atol=2e-5)
    other = rollouts.log_probs(model, prompt, drawn, ALL(model), 1.7).detach().numpy()
    assert (other[drawn.chosen] < found[drawn.chosen] - 1e-3).any()
    # nothing else was drawn
    assert allowed[drawn.spoken[drawn.chosen].astype(int), drawn.tokens[drawn.chosen]].all()


def test_answers_without_a_word(model, data):
    """Through the expert all answers of a group may be the end of the text alone."""
    allowed = few(model)
    allowed[0] = False
    allowed[0, model.tokenizer.token_to_id(ACTION_START)] = True
    prompt = prompt_of(model, data)
    drawn = draw(model, prompt, allowed, kind="expert")
    assert drawn.tokens.shape == (6, 1) and drawn.texts == ("",) * 6
    np.testing.assert_allclose(rollouts.log_probs(model, prompt, drawn, allowed, 1.0).detach().numpy(), drawn.log_probs, atol=1e-6)


def test_shared_prompt_equals_one_sequence_each(model, data):
    prompt, allowed = prompt_of(model, data), few(model)
    drawn = draw(model, prompt, allowed)
    found = rollouts.log_probs(model, prompt, drawn, allowed, 1.0)
    for row in range(len(drawn.tokens)):
        tokens = torch.from_numpy(drawn.tokens[row][drawn.tokens[row] >= 0])[None]
        size, start = prompt.ids.shape[1], int(prompt.positions.max()) + 1
        ids = torch.cat((prompt.ids, tokens), dim=1)
        slot = torch.cat((prompt.slot, torch.zeros_like(tokens)), dim=1)
        positions = torch.cat((prompt.positions, torch.arange(start, start + tokens.shape[1]).expand(3, 1, -1)), dim=2)
        hidden, _ = model.encode(prompt.features, ids, slot, positions, torch.ones_like(ids))
        scores = model.vlm.logits(hidden[0, size - 1 : -1])
        spoken = torch.from_numpy(drawn.spoken[row][: tokens.shape[1]]).long()
        wanted = scores.masked_fill(~allowed[spoken], -torch.inf).log_softmax(-1).gather(1, tokens[0][:, None])[:, 0]
        chosen = torch.from_numpy(drawn.chosen[row][: tokens.shape[1]])
        torch.testing.assert_close(found[row, : tokens.shape[1]][chosen], wanted[chosen], atol=1e-5, rtol=0)


def test_forced_end_is_no_choice_and_no_answer(model, data):
    """With all words allowed a random model never ends: its last token of text was not its own."""
    allowed = ALL(model)
    allowed[0, model.action_start] = False
    drawn = draw(model, prompt_of(model, data), allowed)
    assert not drawn.ended.any()
    at = (drawn.tokens == model.action_start).argmax(axis=1)
    rows = np.arange(len(at))
    assert not drawn.chosen[rows, at].any() and (drawn.log_probs[rows, at] == 0).all() and drawn.chosen[rows, at + 1].all()


def test_same_seed_same_answers_and_temperature_zero_is_greedy(model, data):
    prompt, allowed = prompt_of(model, data), few(model)
    one, two, three = (draw(model, prompt, allowed, seed=seed).tokens for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not (one.shape == three.shape and np.array_equal(one, three))
    greedy = draw(model, prompt, ALL(model), temperature=0.0, count=2)
    said = decoding.reason(model, rollouts.prefill(model, prompt), prompt.length, allowed=ALL(model)[0]).tokens
    assert np.array_equal(greedy.tokens[0][: said.shape[1]], said[0]) and np.array_equal(greedy.tokens[0], greedy.tokens[1])


def test_expert_plans_after_the_text(model, data):
    prompt, allowed = prompt_of(model, data), few(model)
    drawn = draw(model, prompt, allowed, kind="expert")
    assert not drawn.spoken.any() and drawn.plans.shape == (6, 10, 3) and np.isfinite(drawn.plans).all()
    repeated = decoding.repeat(rollouts.prefill(model, prompt), prompt.length, 6)
    reasoned = decoding.reason(model, *repeated, sampling=decoding.Sampling(temperature=1, seed=10), allowed=allowed[0])
    motion = [prompt.motion[name].repeat_interleave(6, 0) for name in ("ego", "base")]
    wanted = model.sample(model.tapped(reasoned.kv), reasoned.valid, reasoned.next_position, *motion)
    np.testing.assert_allclose(drawn.plans, wanted.detach().numpy(), atol=1e-6)
    # the same words lead to the same plan: without noise in the car there is none here
    same = [k for k, text in enumerate(drawn.tokens.tolist()) if text == drawn.tokens[0].tolist()]
    np.testing.assert_allclose(drawn.plans[same], drawn.plans[:1].repeat(len(same), 0), atol=1e-5)


def test_reference_is_the_model_it_started_from(model, data):
    allowed = few(model)
    drawn = draw(model, prompt_of(model, data), allowed)
    before = rollouts.log_probs(model, prompt_of(model, data), drawn, allowed, 1.0)
    learner = tiny.build(seed=3, codebook=model.codebook)
    learner.requires_grad_(False)
    adapters.inject(learner.vlm, LoraConfig(rank=4, dropout=0.0))
    prompt = prompt_of(learner, data)
    assert torch.allclose(rollouts.log_probs(learner, prompt, drawn, allowed, 1.0), before, atol=1e-6)
    with torch.no_grad():
        for name, weight in learner.vlm.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    after = rollouts.log_probs(learner, prompt, drawn, allowed, 1.0)
    assert grpo.divergence(after, before).sum() > 0.1
    with adapters.without(learner.vlm):
        assert torch.allclose(rollouts.log_probs(learner, prompt, drawn, allowed, 1.0), before, atol=1e-6)
    kept = {name: weight.clone() for name, weight in learner.vlm.named_parameters()}
    with adapters.folded(learner.vlm):
        assert torch.allclose(rollouts.log_probs(learner, prompt, drawn, allowed, 1.0), after, atol=1e-4)
    assert all(torch.equal(weight, kept[name]) for name, weight in learner.vlm.named_parameters())
    assert after.requires_grad and torch.equal(rollouts.log_probs(learner, prompt, drawn, allowed, 1.0), after)


def test_adapters_of_the_words_leave_what_the_expert_reads_of_the_prompt(model, data):
    learner = tiny.build(seed=3, codebook=model.codebook)
    before = rollouts.prefill(learner, prompt_of(learner, data))
    adapters.inject(learner.vlm, LoraConfig(rank=4, dropout=0.0, targets=adapters.behind_taps(learner)))
    with torch.no_grad():
        for name, weight in learner.vlm.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    after = rollouts.prefill(learner, prompt_of(learner, data))
    for old, new in zip(learner.tapped(before.kv), learner.tapped(after.kv)):
        assert torch.equal(old[0], new[0]) and torch.equal(old[1], new[1])
    assert not torch.allclose(before.logits, after.logits, atol=1e-3)


def trained(processes: Processes, data: Path, name: str, *overrides: str) -> None:
    """A run with a small vocabulary, so that answers end and plans count."""
    rft.rollouts.vocabulary = few
    try:
        run_rft(processes, configs.load(RftConfig, CONFIG, ["model=start", *overrides]), data, name, silent)
    finally:
        rft.rollouts.vocabulary = ALL


def weights(runs: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(sorted((runs / name).glob("step-*"))[-1] / "state.safetensors")


def lines(runs: Path, name: str, key: str) -> list[dict]:
    return [line for line in map(json.loads, (runs / name / "metrics.jsonl").read_text().splitlines()) if key in line]


def same(a: dict, b: dict) -> bool:
    return {k: v for k, v in a.items() if not k.endswith("_s")} == {k: v for k, v in b.items() if not k.endswith("_s")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_process_and_two_and_a_resumed_one_are_the_same(data, runs, monkeypatch):
    settings = ("loop.batch=16", "loop.steps=3", "reward.version=v2")
    trained(Processes(), data, "one", *settings)
    launch(2, trained, (data, "two", *settings))
    draws = rft.RftTask._draw

    def stops(self, step):
        if step == 2:
            raise KeyboardInterrupt
        draws(self, step)

    monkeypatch.setattr(rft.RftTask, "_draw", stops)
    with pytest.raises(KeyboardInterrupt):
        trained(Processes(), data, "cut", *settings, "loop.save_every_s=0")
    monkeypatch.undo()
    monkeypatch.setenv("SPANVLA_RUNS", str(runs))
    trained(Processes(), data, "cut", *settings, "loop.save_every_s=0")
    one, two, cut = (weights(runs, name) for name in ("one", "two", "cut"))
    moved = [name for name, value in one.items() if name.startswith("weight/") and "lora_B" in name and value.abs().max() > 1e-4]
    assert len(moved) == 8
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-5), name
        assert torch.equal(value, cut[name]), name
    for name in ("two", "cut"):
        found, wanted = lines(runs, name, "samples"), lines(runs, "one", "samples")
        assert len(found) == 3 and all(same(a, b) for a, b in zip(found, wanted))
    # what the run leaves behind: metrics per label, a page, a model without adapters that stage two can start from
    first = lines(runs, "one", "samples")[0]
    assert first["reward_pos"] == pytest.approx(first["driving_pos"] + first["reasoning_pos"], abs=1e-3) and first["ended"] > 0.5
    assert lines(runs, "one", "held_out")[-1]["held_out_neg"] >= 0 and lines(runs, "one", "kl")[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert lines(runs, "one", "kl")[-1]["kl"] > 0
    page = (runs / "one/samples/step-000002.html").read_text()
    assert page.count("<h3>") == 2 and "data:image/jpeg" in page and "polyline" in page
    before, (after, _) = checkpoint.load(runs / "start/model"), bench.load("one")
    assert after.spec == before.spec and (runs / "one/model/codebook.safetensors").exists()
    changed = {n for (n, a), (_, b) in zip(before.named_parameters(), after.named_parameters()) if not torch.equal(a, b)}
    assert changed and all("_proj" in name and "vlm." in name and "visual" not in name for name in changed)


def test_samples_without_truth_are_named_and_stop_the_run(tmp_path, runs):
    folder = rft_samples.write(tmp_path / "bad", damaged=1)
    with pytest.raises(DataError, match=r"1 of 8 samples \(12.5 %\) lack what their reward needs, more than 1 %: train-0-0"):
        trained(Processes(), folder, "bad")


def test_few_of_them_are_left_out(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(rft.groups, "SKIPPED_SHARE", 0.5)
    folder, said = rft_samples.write(tmp_path / "bad", damaged=1), []
    # this one is only found out when plans are to be scored
    path = folder / "shards/train_1.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["truth"]["count"] = 20
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(rft.rollouts, "vocabulary", few)
    changes = ["model=start", "phases=[{samples: 1, pos: 1}]", "loop.steps=6", "validation_samples=0"]
    run_rft(Processes(), configs.load(RftConfig, CONFIG, changes), folder, "left", said.append)
    assert any("1 samples lack what their reward needs and are left out: train-0-0" in line for line in said)
    found = lines(runs, "left", "step")
    skipped = [line for line in found if line.get("skipped")]
    assert len(skipped) == 2 and all(line["skipped"] == ["train-1-0"] and "50 frames" in line["problems"][0] for line in skipped)
    assert "reward_pos" not in skipped[0] and sum("reward_pos" in line for line in found) == 4


def test_a_group_of_equal_rewards_is_counted_and_moves_nothing(data, runs):
    weights_ = ("driving", "negative", "recovery", "reasoning")
    nothing = [f"reward.{name}_weight=0" for name in weights_]
    trained(Processes(), data, "equal", *nothing, "beta=0", "loop.steps=2", "validation_samples=0", "rollout=expert")
    assert [line["equal"] for line in lines(runs, "equal", "equal")] == [1, 1]
    assert all(not value.any() for name, value in weights(runs, "equal").items() if name.startswith("weight/") and "lora_B" in name)


def test_no_number_is_no_plan(data, runs):
    broken = checkpoint.load(runs / "start/model")
    with torch.no_grad():
        broken.vlm.decoder.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    rft_samples.start(runs / "broken", broken)
    with pytest.raises(Diverged, match=r"not finite at step 0, sample train-"):
        run_rft(Processes(), configs.load(RftConfig, CONFIG, ["model=broken", "validation_samples=0"]), data, "nan", silent)


def plans(count: int = 5) -> np.ndarray:
    times = 0.5 * np.arange(1, 9)
    return np.stack([np.column_stack([speed * times, 0 * times, 0 * times]) for speed in np.linspace(1, 12, count)])


def test_a_scoring_process_that_dies_is_replaced(data, tmp_path, monkeypatch):
    source = Source(folder=data, cache=tmp_path, reward=RewardConfig())
    crew, case = Scorers(1, source), Case(split="train", index=1)
    try:
        wanted = crew.score([case], [plans()])[0]
        os.kill(crew._workers[0][0].pid, signal.SIGKILL)
        crew._workers[0][0].join()
        crew.prepare([case])
        again = crew.score([case, case], [plans(), plans()])
        assert crew.restarts == 1 and all(np.array_equal(found[name], wanted[name]) for found in again for name in wanted)
        assert "no sample of split 'nowhere'" in crew.score([Case(split="nowhere", index=0)], [plans()])[0]
        monkeypatch.setattr(scorers, "ATTEMPTS", 1)
        with pytest.raises(SpanVLAError, match="scoring sample 10000 of split 'train' ended its process 1 times"):
            crew.score([Case(split="train", index=10000)], [plans()])
    finally:
        crew.close()


def test_progress_is_measured_by_the_log_unless_it_is_a_negative(data, tmp_path):
    """Positive: the log does 28 m in 4 s. Negative: the log is almost a stop, PDM-Closed follows the car ahead."""
    judge = Judge(Source(folder=data, cache=tmp_path, reward=RewardConfig()))
    slow = plans(2)[:1]
    own = {label: rft_samples.future(label)[4::5][None, :8] for label in ("pos", "neg")}
    positive, negative = (Case(split="train", index=k) for k in (0, 1))
    assert judge.score(positive, own["pos"])["ep"] == pytest.approx(1, abs=0.02)
    assert judge.score(positive, slow)["ep"] < 0.5
    # were the log its measure, doing as it did would be perfect
    assert judge.score(negative, own["neg"])["ep"] < 0.5
    assert [path.name for path in tmp_path.glob("*/*")] == ["v1-1.npy"]
    none = Judge(Source(folder=data, cache=tmp_path, reward=RewardConfig(negative_progress="none")))
    assert "ep" not in none.score(negative, slow) and "ep" in none.score(positive, slow)
    # the benchmark asks PDM-Closed whatever the label
    judge.score(dataclasses.replace(positive, benchmark=True), own["pos"])
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["v1-0.npy", "v1-1.npy"]


def test_human_filter_forgives_what_the_log_did(data, tmp_path):
    """A log that changes lanes slowly leaves its lane for over 2 s; nobody else may."""
    times = 0.5 * np.arange(1, 9)
    beside = np.column_stack([7 * times, np.full(8, 1.2), 0 * times])[None]
    for wanted, on in ((0.0, False), (1.0, True)):
        judge = Judge(Source(folder=data, cache=tmp_path, reward=RewardConfig(version="v2", human_filter=on)))
        scene = judge.prepare(Case(split="train", index=0))
        judge._scenes[Case(split="train", index=0)] = scene.changed(human=beside[0])
        assert judge.score(Case(split="train", index=0), beside)["lk"] == wanted


def test_command_line_and_what_it_refuses(data, runs, capsys, model):
    line = ["train", "rft", "--config", str(CONFIG), "--data", str(data), "--run", "cli", "model=start"]
    assert main([*line, "loop.steps=1", "validation_samples=0"]) == 0
    assert (runs / "cli/model/model.safetensors").exists() and "1 groups of 8 roll-outs: 1 pos of 4" in capsys.readouterr().out
    assert main(["data", "score", str(data), "--split", "validation", "--spoken", "cli", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert main(["data", "score", str(data), "--split", "validation", "--spoken", str(runs / "cli/model"), "--workers", "1"]) == 0
    assert capsys.readouterr().out == printed
    assert "epdms" in printed and "no plan" not in printed
    for change, message in (
        ("loop.batch=12", "loop.batch 12 must be a multiple of group 8"),
        ("lora.rank=0", "lora.rank must be at least 1"),
        ("group=1", "group must be at least 2, is 1"),
        ("phases=[{samples: 1}]", "shares of labels that are not all 0"),
        ("reward.negative_threshold_m=0", "reward.negative_threshold_m must be greater than 0"),
        ("advantage.kind=ppo", "advantage.kind must be one of grpo, nr"),
    ):
        assert main([*line, change]) != 0 and message in capsys.readouterr().err
    rft_samples.start(runs / "mute", tiny.build())
    assert main([*line[:-1], "model=mute"]) != 0 and "was trained without a codebook" in capsys.readouterr().err
    assert main(["data", "score", str(data), "--spoken", "mute", "--workers", "1"]) != 0 and "without a codebook" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="give loop.steps"):
        configs.load(RftConfig, CONFIG, ["loop.steps=null", "loop.seconds=5"])


def test_published_recipes_are_configurations():
    folder = CONFIG.parent
    for name, shares in (("spanvla-3b_rft", (3, 0.5, 0.5)), ("spanvla-3b_rft_figure", (2, 1.5, 0.5))):
        config = configs.load(RftConfig, folder / f"{name}.yaml")
        assert [phase.samples for phase in config.phases] == [2, 4] and config.group == 64 and config.beta == 0.04
        assert (config.phases[1].pos, config.phases[1].neg, config.phases[1].rec) == shares
    paper = configs.load(RftConfig, folder / "spanvla-3b_rft.yaml")
    demo = configs.load(RftConfig, folder / "demo_rft.yaml")
    assert (demo.group, demo.loop.batch, demo.advantage.kind, demo.reward.version) == (16, 64, "nr", "v2")
    assert (paper.loop.steps, paper.loop.learning_rate, paper.lora) == (6000, 3e-5, LoraConfig(rank=8, alpha=8, dropout=0.1))


def test_scenes_stay_ready(data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Judge, "_scene", lambda self, case, make=Judge._scene: made.append(case) or make(self, case))
    judge = Judge(Source(folder=data, cache=tmp_path, reward=RewardConfig()))
    cases = [Case(split="train", index=k) for k in range(scorers.KEPT + 1)]
    for case in [*cases, cases[-1], cases[0]]:
        judge.prepare(case)
    assert made == [*cases, cases[0]]


def test_a_sample_without_a_plan_scores_nothing(data, model):
    class Mute:
        spec = model.spec

        def plan(self, observation):
            raise InputError("not today")

    dataset = Dataset(data, "validation", model.spec, LABELS)
    found = scoring.verdict(dataset, 0, {}, Mute())
    assert found.failures == {"plan": "not today"} and not any(found.values.values()) and "tokens" not in found.values
    assert scoring.verdict(dataset, 0, {}).values["pdms"] > 0
