from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from spanvla_ros.contracts import ConfigError, DataError, ModelSpec  # noqa: E402
from spanvla_ros.geometry import constant_turn  # noqa: E402
from spanvla_ros.model import actions, checkpoint, decoding  # noqa: E402
from spanvla_ros.model.actions import Box, Codebook  # noqa: E402
from spanvla_ros.model.decoding import Sampling  # noqa: E402
from spanvla_ros.model.tiny import build  # noqa: E402
from spanvla_ros.model.token_backend import TokenBackend  # noqa: E402
from spanvla_ros.planning import prompt  # noqa: E402
from spanvla_ros.planning import tokenizer as tokenizers  # noqa: E402
from spanvla_ros.planning.planner import Planner  # noqa: E402
from spanvla_ros.training import answers, batches  # noqa: E402


def grid_codebook(step_m: float = 0.25) -> Codebook:
    """Speeds up to 12 m/s on a line, each with seven yaw rates; standstill first."""
    turns = np.linspace(-0.3, 0.3, 7)
    segments = [constant_turn(2 * x, w, np.array([0.5]))[0] for x in np.arange(step_m, 6.01, step_m) for w in turns]
    return Codebook(segments=np.array([np.zeros(3), *segments], np.float32), interval_s=0.5, box=Box(), radius_m=0.05, data_sha256="grid")


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return grid_codebook()


@pytest.fixture(scope="module")
def model(codebook):
    return build(seed=3, codebook=codebook)


def test_tokens_of_tokens_are_the_same(codebook):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, len(codebook), (5, 2, 10))
    np.testing.assert_array_equal(codebook.tokenise(codebook.detokenise(tokens)), tokens)


def test_error_does_not_grow_along_a_trajectory(codebook):
    """Each token makes up for what the ones before it lost; chosen one by one without that, the loss adds up."""
    rng = np.random.default_rng(1)
    paths = np.stack([constant_turn(v, w, 0.5 * np.arange(1, 21)) for v, w in zip(rng.uniform(1, 11, 60), rng.uniform(-0.25, 0.25, 60))])
    off = np.linalg.norm((codebook.detokenise(codebook.tokenise(paths)) - paths)[..., :2], axis=-1)
    assert off[:, -1].mean() < 1.5 * off[:, 2].mean() and off.max() < 0.3
    alone = codebook.tokenise(constant_turn(1.7, 0.0, np.array([0.5]))[None])
    drift = codebook.detokenise(np.repeat(alone, 20))[-1, 0] - 17.0
    assert abs(drift) > 2 * off[:, -1].max()


def test_rest_stays_at_rest(codebook):
    assert not codebook.tokenise(np.zeros((10, 3))).any() and not codebook.detokenise(np.zeros(10, int)).any()


def test_unknown_index_is_named(codebook):
    with pytest.raises(DataError, match=f"action token 999 is not in a codebook of {len(codebook)}"):
        codebook.detokenise(np.array([0, 999]))


def test_file_round_trip_and_what_is_refused(codebook, tmp_path):
    path = tmp_path / "codebook.safetensors"
    codebook.save(path)
    again = actions.load(path, len(codebook))
    assert again.sha256 == codebook.sha256 and again.box == codebook.box and (again.interval_s, again.data_sha256) == (0.5, "grid")
    codebook.save(tmp_path / "same")
    assert path.read_bytes() == (tmp_path / "same").read_bytes()
    with pytest.raises(ConfigError, match=f"has {len(codebook)} motions, the model speaks 2048"):
        actions.load(path, 2048)
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match="was changed"):
        actions.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="can't be read"):
        actions.load(path)


def test_action_tokens_end_the_vocabulary(model, codebook):
    words = model.tokenizer
    first = tokenizers.first_action(words, len(codebook))
    assert first + len(codebook) == words.get_vocab_size()
    text = prompt.answer("Stop.", [3, 0])
    assert text.endswith("<action_start><action_3><action_0>")
    assert words.encode(text, add_special_tokens=False).ids[-3:] == [model.action_start, first + 3, first]
    with pytest.raises(ConfigError, match=f"{len(codebook)} action tokens in a row, the codebook has 2048"):
        tokenizers.first_action(words, 2048)


def test_model_refuses_another_codebook(model):
    other = grid_codebook(0.5)
    with pytest.raises(ConfigError, match="the codebook here is"):
        type(model)(model.architecture, model.spec, model.tokenizer, other)
    with pytest.raises(ConfigError, match="motions of 0.1 s, the waypoints of the model are 0.5 s"):
        build(codebook=dataclasses.replace(other, interval_s=0.1))


def test_checkpoint_keeps_the_codebook(model, tmp_path):
    checkpoint.save(model, tmp_path, torch.float32)
    again = checkpoint.load(tmp_path)
    assert again.spec == model.spec and again.codebook.sha256 == model.codebook.sha256
    grid_codebook(0.5).save(tmp_path / checkpoint.CODEBOOK)
    with pytest.raises(ConfigError, match="motions, the model speaks"):
        checkpoint.load(tmp_path)


def test_a_model_without_actions_has_the_hash_it_always_had():
    plain = build().spec
    assert not {"action_tokens", "codebook_sha256"} & plain.to_dict().keys()
    speaking = dataclasses.replace(plain, action_tokens=8, codebook_sha256="x")
    assert ModelSpec.from_dict(speaking.to_dict()) == speaking and speaking.sha256 != plain.sha256
    with pytest.raises(ConfigError, match="give both or none"):
        dataclasses.replace(plain, action_tokens=8)


def inputs(model, lengths=(70, 90)):
    generator = np.random.default_rng(5)
    spec, batch = model.spec, len(lengths)
    ids = generator.integers(20, 300, (batch, spec.prompt_tokens))
    slot = np.zeros_like(ids)
    slot[:, 3 : 3 + spec.vision_tokens] = 1 + np.arange(spec.vision_tokens)
    positions = np.broadcast_to(np.arange(spec.prompt_tokens), (3, *ids.shape)).copy()
    arrays = {"ids": ids, "slot": slot, "positions": positions, "length": np.array(lengths)}
    features = model.vision(torch.randn(batch, 1, 128, 1176, generator=torch.Generator().manual_seed(0)))
    return features.detach(), arrays


def prefilled(model):
    features, arrays = inputs(model)
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    with torch.no_grad():
        return features, arrays, model.prefill(features, **tensors), tensors["length"]


def favour(model, monkeypatch, ids):
    """Make the model say nothing but these tokens."""
    project = model.vlm.logits
    bonus = torch.zeros(model.tokenizer.get_vocab_size())
    bonus[ids] = 50.0
    monkeypatch.setattr(model.vlm, "logits", lambda hidden: project(hidden) + bonus)


def every_action(model):
    return torch.arange(model.first_action, model.first_action + model.spec.action_tokens)


def test_sampled_answers_are_reproducible_and_their_probabilities_are_those_of_one_pass(model, monkeypatch):
    favour(model, monkeypatch, torch.cat([every_action(model), torch.tensor([model.action_start])]))
    features, arrays, first, length = prefilled(model)
    group = 3
    wide, lengths = decoding.repeat(first, length, group)
    sampling = Sampling(temperature=1.0, seed=11)
    reasoned = decoding.reason(model, wide, lengths, sampling=sampling)
    spoken = decoding.speak(model, reasoned, sampling=sampling)
    same = decoding.speak(model, decoding.reason(model, wide, lengths, sampling=sampling), sampling=sampling)
    assert torch.equal(spoken.tokens, same.tokens)
    other = decoding.reason(model, wide, lengths, sampling=Sampling(temperature=1.0, seed=12))
    assert other.tokens.shape != reasoned.tokens.shape or not torch.equal(other.tokens, reasoned.tokens)
    assert len({tuple(row) for row in spoken.tokens.tolist()}) > group
    # teacher-forced: the same log-probabilities, so a roll-out's gradient is that of its own tokens
    said = [[t for t in (*a, *b) if t >= 0] for a, b in zip(reasoned.tokens.tolist(), spoken.tokens.tolist())]
    rows = zip(reasoned.log_probs, reasoned.tokens, spoken.log_probs, spoken.tokens)
    wanted = torch.cat([torch.cat([a[t >= 0], b[u >= 0]]) for a, t, b, u in rows])
    prompts = {k: np.repeat(v, group, axis=1 if k == "positions" else 0) for k, v in arrays.items()}
    sequence = batches.packed(prompts, [np.array(s) for s in said])
    with torch.no_grad():
        scores = answers.logits(model, features.repeat_interleave(group, 0), sequence).log_softmax(-1)
    found = scores.gather(1, sequence["labels"][:, None])[:, 0]
    free = ~(reasoned.forced[sequence["row"]] & (sequence["labels"] == model.action_start))
    assert free.sum() > 30
    torch.testing.assert_close(found[free], wanted[free], atol=2e-4, rtol=0)


def test_top_p_and_top_k_leave_the_likeliest():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(400, -1)

    def drawn(**changes):
        return set(decoding.Chooser(Sampling(temperature=1.0, **changes), logits.device)(logits)[0].tolist())

    assert drawn() == {0, 1, 2, 3} and drawn(top_p=0.6) == {0, 1} and drawn(top_p=0.1) == {0} and drawn(top_k=3) == {0, 1, 2}
    token, log_prob = decoding.Chooser(Sampling(temperature=1.0, top_k=1), logits.device)(logits)
    assert torch.allclose(log_prob, torch.log(torch.tensor(0.5)))
    with pytest.raises(ConfigError, match="top_p 0"):
        Sampling(top_p=0)


@pytest.mark.parametrize("top_k", [0, 5])
def test_tokens_come_as_often_as_they_should_and_forbidden_ones_never(top_k):
    chance = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    allowed = chance > 0
    logits = torch.where(allowed, chance.log(), 3.0).expand(8000, -1)
    token, log_prob = decoding.Chooser(Sampling(temperature=1.0, top_k=top_k, seed=4), logits.device, allowed)(logits)
    assert ((torch.bincount(token, minlength=6) / 8000 - chance).abs() < 0.02).all() and allowed[token].all()
    torch.testing.assert_close(log_prob.exp(), chance[token])


def test_a_plan_that_breaks_off_is_reported(model, monkeypatch):
    _, _, first, length = prefilled(model)
    reasoned = decoding.reason(model, first, length)
    stop, said = model.action_start, iter(range(100))
    choose = decoding.Chooser.__call__

    def breaks(self, logits):
        token, log_prob = choose(self, logits)
        place = next(said)
        return torch.tensor([model.first_action + place, stop if place == 4 else model.first_action]), log_prob

    monkeypatch.setattr(decoding.Chooser, "__call__", breaks)
    spoken = decoding.speak(model, reasoned)
    assert spoken.complete.tolist() == [True, False]
    assert spoken.actions[0].tolist() == list(range(10)) and spoken.actions[1].tolist() == [0] * 4 + [-1] * 6
    assert spoken.tokens[1, 5:].tolist() == [-1] * 5 and not spoken.log_probs[1, 5:].any()


def test_planner_speaks_a_plan(model, monkeypatch):
    from synthetic_samples import Dataset

    observation = Dataset("/x/4")[1].observation
    with monkeypatch.context() as context:
        favour(model, context, torch.cat([every_action(model), torch.tensor([model.action_start])]))
        plan = Planner(model.spec, model.tokenizer, TokenBackend(model), "tokens").plan(observation)
    assert plan.waypoints_base.shape == (10, 3) and np.isfinite(plan.waypoints_base).all()
    tokens = model.codebook.tokenise(plan.waypoints_base)
    np.testing.assert_allclose(model.codebook.detokenise(tokens), plan.waypoints_base, atol=1e-3)
    assert plan.timings_ms["trajectory"] > 0
    favour(model, monkeypatch, [300])
    # whatever else it would like to say, a plan is spoken
    plan = Planner(model.spec, model.tokenizer, TokenBackend(model), "tokens").plan(observation)
    assert plan.waypoints_base.shape == (10, 3)


def test_text_that_nobody_listens_to_leaves_the_cache(model):
    _, arrays, _, _ = prefilled(model)
    backend = TokenBackend(model)
    one = {k: v[:, :1] if k == "positions" else v[:1] for k, v in arrays.items()}
    backend.prefill(one | {"patches": np.zeros((1, 128, 1176), np.float32)})
    listener = backend.decode(12)
    heard = [next(listener), next(listener)]
    listener.close()
    assert backend._reasoned.tokens[0].tolist() == [*heard, model.action_start]


def test_a_model_without_action_tokens_says_so():
    plain = build(seed=3)
    features, arrays = inputs(plain)
    reasoned = plain.decode_greedy(features, **{k: torch.from_numpy(v) for k, v in arrays.items()}, max_tokens=2)
    with pytest.raises(ConfigError, match="'tiny' speaks no action tokens"):
        decoding.speak(plain, reasoned)
