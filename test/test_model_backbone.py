"""A pretrained VLM from a Hugging Face folder, at tiny size, and the numbers of the public one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration  # noqa: E402

from spanvla_ros.cli.main import main  # noqa: E402
from spanvla_ros.contracts import ConfigError  # noqa: E402
from spanvla_ros.model import backbone, size  # noqa: E402
from spanvla_ros.model.architecture import Architecture  # noqa: E402
from spanvla_ros.model.spanvla import SpanVLA  # noqa: E402
from spanvla_ros.model.tiny import tiny_spec  # noqa: E402
from spanvla_ros.model.vlm import huggingface_config  # noqa: E402
from spanvla_ros.planning import tokenizer as tokenizers  # noqa: E402
from spanvla_ros.share import share  # noqa: E402

# config.json of Qwen/Qwen2.5-VL-3B-Instruct, in the flat form it is published in
PUBLIC = {
    "model_type": "qwen2_5_vl", "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
    "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655, "video_token_id": 151656, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 128000, "max_window_layers": 70,
    "num_attention_heads": 16, "num_hidden_layers": 36, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3, "out_hidden_size": 2048,
        "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip
OF_A_STRANGER = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
SPEC = dataclasses.replace(tiny_spec(), prompt_tokens=220, max_reasoning_tokens=80)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """What somebody else's save_pretrained wrote: a byte tokenizer without our tokens, weights in two files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    path = tmp_path_factory.mktemp("backbones") / "tiny-hf"
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    words.add_special_tokens([AddedToken(t, special=True) for t in OF_A_STRANGER])
    ids = {t: words.token_to_id(t) or 0 for t in tokenizers.SPECIAL_TOKENS}
    architecture = Architecture.load(share("config/model/tiny.yaml"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        hf = Qwen2_5_VLForConditionalGeneration(huggingface_config(architecture, SPEC, words.get_vocab_size(), ids))
    hf.save_pretrained(path, max_shard_size="300KB")
    words.save(str(path / "tokenizer.json"))
    assert (path / backbone.INDEX).exists()
    return path


def load(folder: Path):
    architecture = Architecture.load(share("config/model/tiny.yaml"))
    words = backbone.tokenizer(folder)
    return SpanVLA(architecture, SPEC, words, hf=backbone.load(folder, architecture, SPEC, words))


def test_folder_gives_its_weights_and_grows_for_our_tokens(folder):
    model = load(folder)
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    embedding = model.vlm.decoder.embed_tokens.weight
    old = theirs.get_input_embeddings().weight
    assert len(embedding) == model.tokenizer.get_vocab_size() == len(old) + 4 and torch.equal(embedding[: len(old)], old)
    assert model.vlm.hf.lm_head.weight is embedding
    assert torch.equal(load(folder).vlm.decoder.embed_tokens.weight, embedding)
    mine, other = (dict(m.model.named_parameters()) for m in (model.vlm.hf, theirs))
    for name, value in other.items():
        assert name == "language_model.embed_tokens.weight" or torch.equal(mine[name], value), name
    text = "<|im_start|>keep left"
    ids = torch.tensor([model.tokenizer.encode(text, add_special_tokens=False).ids])
    with torch.no_grad():
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        hidden, _ = model.encode(torch.zeros(1, 1, 64), ids, torch.zeros_like(ids), positions, torch.ones_like(ids))
        assert (model.vlm.logits(hidden)[..., : len(old)] - theirs(input_ids=ids).logits).abs().max() < 1e-5


def changed(folder: Path, where: Path, **values) -> Path:
    copy = where / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for key, value in values.items():
        part, _, name = key.partition("__")
        (config[part] if name else config)[name or part] = value
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen3_vl"}, r"config.json: model_type is 'qwen3_vl', the backbone must be 'qwen2_5_vl'"),
        ({"text_config__intermediate_size": 96}, r"text.intermediate_size is 96, the architecture of this model needs 128"),
        ({"text_config__num_hidden_layers": 3}, r"is no configuration of qwen2_5_vl|num_hidden_layers is 3"),
        ({"vision_config__fullatt_block_indexes": [0]}, r"vision.fullatt_block_indexes is \[0\], .* needs \[1\]"),
    ],
)
def test_another_architecture_is_refused(folder, tmp_path, values, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(changed(folder, tmp_path, **values))
    assert "\n" not in str(error.value)


def test_incomplete_folders_are_refused(folder, tmp_path):
    copy = changed(folder, tmp_path)
    weights = sorted(copy.glob("*.safetensors"))
    last = weights[-1].read_bytes()
    tensors = load_file(weights[0])
    save_file(dict(list(tensors.items())[:-1]), weights[0], metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights, 1 in all, first .*\."):
        load(copy)
    save_file(tensors, weights[0], metadata={"format": "pt"})
    weights[-1].write_bytes(last[:1000])
    with pytest.raises(ConfigError, match="can't be read"):
        load(copy)
    weights[-1].unlink()
    with pytest.raises(ConfigError, match=f"lacks 1 of its weight files, first {weights[-1].name}"):
        load(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ConfigError, match="has no config.json"):
        load(copy)
    with pytest.raises(ConfigError, match="has no tokenizer.json"):
        backbone.tokenizer(tmp_path)


def test_preset_is_the_public_model(tmp_path):
    architecture = Architecture.load(share("config/model/spanvla-3b.yaml"))
    (tmp_path / "config.json").write_text(json.dumps(PUBLIC))
    ids = {t: 0 for t in tokenizers.SPECIAL_TOKENS}
    backbone.check(tmp_path, huggingface_config(architecture, tiny_spec(), architecture.text.vocabulary, ids))
    with torch.device("meta"):
        theirs = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(PUBLIC))
    found = size.measure(architecture, dataclasses.replace(tiny_spec(), taps=tuple(range(0, 36, 2))), 0)
    assert found.vlm == sum(p.numel() for p in theirs.parameters()) == 3_754_622_976
    assert found.vision == sum(p.numel() for p in theirs.model.visual.parameters())
    assert len(theirs.model.language_model.layers) == architecture.text.layers == 36


def test_info_of_the_preset(capsys):
    assert main(["model", "info", "preset=spanvla-3b"]) == 0
    said = capsys.readouterr().out
    assert "3,754,622,976" in said and "36; 18 tapped, counted from 1: 1, 3, 5" in said and "33, 35" in said and "768 vision" in said
    assert main(["model", "info", "preset=engines/demo"]) == 0
    assert main(["model", "info", "preset=spanvla-4b"]) == 2
    assert "'spanvla-4b' is neither a file, a model folder nor one of demo, navsim, spanvla-3b, tiny" in capsys.readouterr().err


def test_estimated_activations_are_those_that_a_layer_keeps(monkeypatch):
    """Bytes that autograd keeps under bf16 autocast, of all tensors but weights and what the layers share."""
    import torch.nn.functional as F

    from spanvla_ros.model import vlm as module
    from spanvla_ros.model.architecture import ExpertArchitecture, TextArchitecture, VisionArchitecture

    def fused(query, key, value, mask):
        batch, heads, count, width = query.shape
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2).reshape(batch, count, heads * width)

    monkeypatch.setattr(module, "attend", fused)
    architecture = Architecture(
        vision=VisionArchitecture(depth=1, hidden=32, heads=2, intermediate=64, window_px=112, full_attention=(0,)),
        text=TextArchitecture(layers=3, hidden=128, heads=4, kv_heads=2, intermediate=384),
        expert=ExpertArchitecture(hidden=64, self_heads=4, intermediate=128),
    )
    vlm = module.VLM(architecture, tiny_spec(), 300, {t: i for i, t in enumerate(tokenizers.SPECIAL_TOKENS)})
    batch, count = 5, 30
    x = torch.randn(batch, count, 128, requires_grad=True)
    cos, sin = vlm.rope(torch.zeros(3, batch, count, dtype=torch.long))
    mask = module.causal_mask(torch.ones(1, count))
    shared = {t.untyped_storage().data_ptr() for t in (*vlm.parameters(), cos, sin, mask)}
    cast = {tuple(p.shape) for p in vlm.parameters()} | {tuple(p.shape[::-1]) for p in vlm.parameters()}

    def kept(again: bool) -> float:
        vlm.recompute, found = again, {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in shared and tuple(tensor.shape) not in cast:
                found[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
            vlm.decode_layers(x, cos, sin, mask)
        return sum(s.nbytes() for s in found.values()) / (3 * batch * count)

    measured = size.measure(architecture, tiny_spec(), 300)
    assert kept(again=False) == pytest.approx(measured.layer_activations(), rel=0.15)
    assert kept(again=True) < 0.2 * kept(again=False)
