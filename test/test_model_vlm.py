"""The fast forward against Hugging Face's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from spanvla_ros.model.architecture import Architecture  # noqa: E402
from spanvla_ros.model.tiny import build, tiny_spec  # noqa: E402
from spanvla_ros.planning import prompt  # noqa: E402
from spanvla_ros.planning.tokenizer import VIDEO_PAD  # noqa: E402
from spanvla_ros.share import share  # noqa: E402

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model():
    return build(seed=1)


def prompts(model, lengths, seed=0):
    """Random prompts with the pictures near the front, and the M-RoPE positions of Hugging Face."""
    generator = np.random.default_rng(seed)
    spec, batch = model.spec, len(lengths)
    ids = generator.integers(20, 300, (batch, spec.prompt_tokens))
    pad = model.tokenizer.token_to_id(VIDEO_PAD)
    ids[:, 3 : 3 + spec.vision_tokens] = pad
    slot = np.zeros_like(ids)
    slot[:, 3 : 3 + spec.vision_tokens] = 1 + np.arange(spec.vision_tokens)
    positions = np.zeros((3, batch, spec.prompt_tokens), np.int64)
    rows, columns = spec.grid
    for row, length in enumerate(lengths):
        kinds = torch.from_numpy((ids[row : row + 1, :length] == pad) * 2)
        found, _ = model.vlm.hf.model.get_rope_index(
            torch.from_numpy(ids[row : row + 1, :length]), kinds, video_grid_thw=torch.tensor([[1, 2 * rows, 2 * columns]])
        )
        positions[:, row, :length] = found[:, 0]
    return {"ids": ids, "slot": slot, "positions": positions, "length": np.array(lengths)}


def joined(batch, answers, width):
    """Prompts and answers in the slots that a decoding car uses: prompt, its padding, answer, its padding."""
    sizes, prompt_tokens = np.array([len(a) for a in answers]), batch["ids"].shape[1]
    ids = np.zeros((len(answers), width), np.int64)
    for row, answer in zip(ids, answers):
        row[: len(answer)] = answer
    real = np.arange(prompt_tokens) < batch["length"][:, None]
    start = np.where(real, batch["positions"].max(axis=0), -1).max(axis=1) + 1
    following = np.broadcast_to(start[:, None] + np.arange(width), (3, *ids.shape))
    arrays = {
        "ids": np.concatenate([batch["ids"], ids], axis=1),
        "slot": np.concatenate([batch["slot"], np.zeros_like(ids)], axis=1),
        "positions": np.concatenate([batch["positions"], following], axis=2),
        "valid": np.concatenate([real, np.arange(width) < sizes[:, None]], axis=1),
    }
    return tensors(arrays), start + sizes


def tensors(arrays):
    return {k: torch.from_numpy(v) for k, v in arrays.items()}


def hf_vision(model, patches):
    rows, columns = model.spec.grid
    grid = torch.tensor([[1, 2 * rows, 2 * columns]] * len(patches))
    return model.vlm.tower(patches.flatten(0, 1), grid_thw=grid).pooler_output.reshape(len(patches), rows * columns, -1)


# the second size leaves ragged windows, the third is narrower than a window
@pytest.mark.parametrize("image_size", [(112, 224), (84, 196), (56, 56)])
def test_vision_equals_huggingface(image_size):
    spec = dataclasses.replace(tiny_spec(), image_size=image_size)
    model = build(seed=2, spec=spec)
    patches = torch.randn(3, image_size[0] * image_size[1] // 196, 1176, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model.vlm.vision(patches) - hf_vision(model, patches)).abs().max() < TOLERANCE


def test_text_equals_huggingface(model):
    batch = prompts(model, [90, 112, 61])
    answers = [[30, 31, 32], [40] * 7, [50, 51]]
    full, _ = joined(batch, answers, width=8)
    patches = torch.randn(3, 1, 128, 1176, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = model.vision(patches)
        hidden, kv = model.encode(features, **full)
        for row in range(len(answers)):
            # one row without any padding: what a plain causal model sees
            kept = full["valid"][row]
            ids = full["ids"][row, kept][None]
            theirs = model.vlm.hf(
                input_ids=ids,
                pixel_values_videos=patches[row, 0],
                video_grid_thw=torch.tensor([[1, 8, 16]]),
                position_ids=full["positions"][:, row, kept][:, None],
                use_cache=True,
            )
            expected = theirs.logits[0]
            assert (model.vlm.logits(hidden[row, kept]) - expected).abs().max() < TOLERANCE * expected.abs().max()
            for (key, value), layer in zip(kv, theirs.past_key_values.layers):
                assert (key[row][:, kept] - layer.keys[0]).abs().max() < TOLERANCE
                assert (value[row][:, kept] - layer.values[0]).abs().max() < TOLERANCE


def test_greedy_equals_huggingface_generate(model):
    batch = prompts(model, [70, 100], seed=3)
    patches = torch.randn(2, 1, 128, 1176, generator=torch.Generator().manual_seed(2))
    ours = model.decode_greedy(model.vision(patches), **tensors(batch))
    for row, length in enumerate(batch["length"]):
        ids = torch.from_numpy(batch["ids"][row : row + 1, :length])
        theirs = model.vlm.hf.generate(
            input_ids=ids,
            mm_token_type_ids=(ids == model.tokenizer.token_to_id(VIDEO_PAD)).int() * 2,
            pixel_values_videos=patches[row, 0],
            video_grid_thw=torch.tensor([[1, 8, 16]]),
            max_new_tokens=model.spec.max_reasoning_tokens,
            do_sample=False,
        )[0, length:]
        found = ours.tokens[row]
        assert found[: len(theirs)].tolist() == theirs.tolist()
        assert len(set(theirs.tolist())) > 1


def test_static_cache_gives_the_logits_of_generate(monkeypatch):
    """Three cameras with two frame pairs each, as in the paper: every step of our decoding against theirs."""
    cameras, frames = ("front", "front_left", "front_right"), (-1.5, -1.0, -0.5, 0.0)
    spec = dataclasses.replace(tiny_spec(), cameras=cameras, frame_offsets_s=frames, prompt_tokens=240)
    model = build(seed=5, spec=spec)
    rows, columns = spec.grid
    per_camera, pad = spec.vision_tokens // 3, model.tokenizer.token_to_id(VIDEO_PAD)
    ids = np.random.default_rng(6).integers(20, 300, 220)
    for camera in range(3):
        ids[4 + camera * (per_camera + 3) :][:per_camera] = pad
    text = np.zeros(spec.prompt_tokens, np.int64)
    text[: len(ids)] = ids
    class Words:
        encode = staticmethod(lambda text, add_special_tokens: type("Encoding", (), {"ids": ids.tolist()}))
        token_to_id = model.tokenizer.token_to_id
    inputs = tensors(prompt.tensors(spec, Words, ""))
    patches = torch.randn(1, spec.groups, 128, 1176, generator=torch.Generator().manual_seed(7))
    seen = []
    prefill, step = model.prefill, model.step
    monkeypatch.setattr(model, "prefill", lambda *a: seen.append((found := prefill(*a)).logits) or found)
    monkeypatch.setattr(model, "step", lambda *a: seen.append((found := step(*a))[0]) or found)
    ours = model.decode_greedy(model.vision(patches), **inputs)
    theirs = model.vlm.hf.generate(
        input_ids=torch.from_numpy(ids)[None],
        mm_token_type_ids=(torch.from_numpy(ids)[None] == pad).int() * 2,
        pixel_values_videos=patches[0].flatten(0, 1),
        video_grid_thw=torch.tensor([[2, 2 * rows, 2 * columns]] * 3),
        max_new_tokens=spec.max_reasoning_tokens,
        do_sample=False,
        cache_implementation="static",
        output_logits=True,
        return_dict_in_generate=True,
    )
    said = theirs.sequences[0, len(ids) :]
    assert len(said) > 3 and ours.tokens[0, : len(said)].tolist() == said.tolist()
    for mine, other in zip(seen, theirs.logits):
        assert (mine - other).abs().max() < 1e-4


def test_decoded_cache_equals_teacher_forcing(model):
    """The KV that decoding leaves is that of one pass over prompt and answer; slots and positions agree."""
    batch = prompts(model, [80, 95], seed=4)
    features = model.vision(torch.randn(2, 1, 128, 1176, generator=torch.Generator().manual_seed(3)))
    decoded = model.decode_greedy(features, **tensors(batch), max_tokens=5)
    answers = [[int(t) for t in row if t >= 0] for row in decoded.tokens]
    assert all(a[-1] == model.action_start for a in answers)
    forced, next_position = joined(batch, answers, width=model.spec.cache_tokens - model.spec.prompt_tokens)
    with torch.no_grad():
        _, kv = model.encode(features, **forced)
    assert (decoded.valid == forced["valid"]).all()
    assert decoded.next_position.tolist() == next_position.tolist()
    for (key, value), (expected_key, expected_value) in zip(decoded.kv, kv):
        keep = decoded.valid[:, None, :, None]
        assert ((key - expected_key) * keep).abs().max() < TOLERANCE
        assert ((value - expected_value) * keep).abs().max() < TOLERANCE


def test_presets():
    demo = Architecture.load(share("config/model/demo.yaml"))
    assert Architecture.from_dict(demo.to_dict()) == demo
    assert demo.text.mrope_section == (4, 6, 6)
    model = build(architecture=demo, spec=dataclasses.replace(tiny_spec(), taps=(1, 3)))
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in (("vlm", model.vlm), ("expert", model.expert))}
    assert 2.8e6 < count["vlm"] < 3.4e6 and 1.0e6 < count["expert"] < 1.4e6


@pytest.mark.parametrize("changes", [{}, {"prompt_version": "spanvla/1", "prompt_tokens": 400}])
def test_a_kept_prefix_changes_nothing_but_rounding(changes):
    from spanvla_ros.engine import parity
    from spanvla_ros.model import tiny
    from spanvla_ros.planning.preprocess import preprocess

    model = tiny.build(spec=dataclasses.replace(tiny.build().spec, **changes))
    found = [preprocess(o, model.spec, model.tokenizer) for o in parity.observations(model.spec, 2)]
    names = ("ids", "slot", "positions", "length")
    batch = [torch.cat([torch.from_numpy(prompt[name]) for prompt in found], dim=1 if name == "positions" else 0) for name in names]
    features = model.vision(torch.from_numpy(np.stack([prompt["patches"] for prompt in found])))
    with torch.no_grad():
        whole = model.prefill(features, *batch)
        count = model.keep_prefix()
        going_on = model.prefill(features, *batch)
    assert 3 < count < batch[3].min() and (batch[1][:, :count] == 0).all() and (batch[1][:, count] == 1).all()
    torch.testing.assert_close(going_on.logits, whole.logits, atol=1e-4, rtol=1e-4)
    for (key, value), (old_key, old_value) in zip(going_on.kv, whole.kv):
        assert key.shape == old_key.shape
        # padding attends to what it likes
        for row, length in enumerate(batch[3].tolist()):
            torch.testing.assert_close(key[row, :, :length], old_key[row, :, :length], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(value[row, :, :length], old_value[row, :, :length], atol=1e-4, rtol=1e-4)
