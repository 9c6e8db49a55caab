import numpy as np
import pytest
from helpers import demo_spec, history

from spanvla_ros.contracts import Command, ConfigError, InputError
from spanvla_ros.planning import motion, prompt, tokenizer


def make(spec):
    text = prompt.render(spec, history(), Command.LEFT)
    return text, tokenizer.train([text, prompt.answer(prompt.FAST_TEXT)] * 3, 500)


def test_compact_prompt_golden():
    text, _ = make(demo_spec())
    words = text.replace("<|video_pad|>", "").strip()
    assert words == (
        "<|im_start|> user front<|vision_start|><|vision_end|> turn left ; acceleration 0.5 ; speed 7 7.5 7.5 8 ; "
        "path -11.5 0.4 -4 ; -7.5 0.2 -2 ; -4 0 0<|im_end|><|im_start|> assistant<think>"
    )


def test_tensors_place_every_vision_feature_once():
    spec = demo_spec(cameras=("front", "left"), frame_offsets_s=(-1.5, -1.0, -0.5, 0.0), prompt_tokens=220)
    text, words = make(spec)
    out = prompt.tensors(spec, words, text)
    slots = out["slot"][out["slot"] > 0]
    np.testing.assert_array_equal(slots, 1 + np.arange(spec.vision_tokens))
    length = int(out["length"][0])
    assert words.decode(out["ids"][0, :length].tolist(), skip_special_tokens=False) == text
    assert not out["slot"][0, length:].any()


def test_positions_follow_the_transformers_model():
    pytest.importorskip("torch")
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    spec = demo_spec(frame_offsets_s=(-1.5, -1.0, -0.5, 0.0), prompt_tokens=140)
    text, words = make(spec)
    out = prompt.tensors(spec, words, text)
    length = int(out["length"][0])
    special = {k: words.token_to_id(t) for k, t in dict(video_token_id="<|video_pad|>", vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>").items()}
    config = Qwen2_5_VLConfig(
        text_config=dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, vocab_size=500, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 3])),
        vision_config=dict(depth=1, hidden_size=32, num_heads=2, intermediate_size=32, out_hidden_size=32, tokens_per_second=2),
        image_token_id=499,
        **special,
    )
    ids = torch.from_numpy(out["ids"][:, :length])
    rows, columns = spec.image_size[0] // 14, spec.image_size[1] // 14
    theirs, _ = Qwen2_5_VLForConditionalGeneration(config).model.get_rope_index(
        ids,
        mm_token_type_ids=torch.where(ids == special["video_token_id"], 2, 0),
        video_grid_thw=torch.tensor([[2, rows, columns]]),
        second_per_grid_ts=torch.tensor([1.0]),
        attention_mask=torch.ones_like(ids),
    )
    np.testing.assert_array_equal(out["positions"][:, :, :length], theirs.numpy())


def test_too_long_and_unknown_versions_are_refused():
    spec = demo_spec(prompt_tokens=40)
    text, words = make(spec)
    with pytest.raises(InputError, match="the model takes 40"):
        prompt.tensors(spec, words, text)
    with pytest.raises(ConfigError, match="haiku/1"):
        prompt.render(demo_spec(prompt_version="haiku/1"), history(), Command.LEFT)


def test_motion_features_mark_one_command_and_stand_still_at_rest():
    ego = motion.features(history(), Command.RIGHT)
    assert ego.shape == (19,) and ego[-4:].tolist() == [0, 0, 1, 0]
    still = history(speed=0.0, yaw_rate=0.4)
    assert np.abs(motion.base(still, demo_spec())).max() == 0
