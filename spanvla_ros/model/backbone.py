"""A pretrained VLM from a local folder in Hugging Face format: config.json, *.safetensors and tokenizer.json.

The folder is what `save_pretrained` writes and what Qwen2.5-VL is published as. Nothing is fetched from a network.

Qwen3-VL is not read: its vision tower (learned positions, no windows, features added into the first decoder layers) and its
decoder (normalised queries and keys, interleaved M-RoPE) would need a second forward in `model.vlm` beside the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.vlm import huggingface_config
from spanvla_ros.planning import tokenizer as tokenizers

CONFIG, TOKENIZER, INDEX = "config.json", "tokenizer.json", "model.safetensors.index.json"
MODEL_TYPE = "qwen2_5_vl"
# everything of a Hugging Face configuration that shapes a weight or changes a number
TEXT = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "rms_norm_eps", "hidden_act", "use_sliding_window",
)  # fmt: skip
ROPE = ("rope_theta", "mrope_section")
VISION = (
    "depth", "hidden_size", "num_heads", "intermediate_size", "out_hidden_size", "patch_size", "spatial_merge_size",
    "temporal_patch_size", "tokens_per_second", "window_size", "fullatt_block_indexes", "in_channels", "hidden_act",
)  # fmt: skip


def tokenizer(folder: Path | str, action_tokens: int = 0):
    """The folder's tokenizer with our special tokens (and <action_0> ...) appended where it lacks them."""
    path = Path(folder) / TOKENIZER
    if not path.is_file():
        raise ConfigError(f"backbone {folder} has no {TOKENIZER}; download it beside the weights")
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(path))
    tokenizers.extend(found, action_tokens)
    return found


def load(folder: Path | str, architecture: Architecture, spec: ModelSpec, words) -> Qwen2_5_VLForConditionalGeneration:
    """The folder's vision tower and decoder, in float32, for `SpanVLA(..., hf=...)`; `words` as made by `tokenizer`.

    Embedding rows that the folder has no weights for start at random around the mean of the others, the same in every
    process. Errors: ConfigError names the file, or the first number in which the folder is another architecture.
    """
    folder = Path(folder)
    ids = {name: words.token_to_id(name) for name in tokenizers.SPECIAL_TOKENS}
    check(folder, huggingface_config(architecture, spec, architecture.text.vocabulary, ids))
    missing = [path.name for path in _weights(folder) if not path.is_file()]
    if missing:
        raise ConfigError(f"backbone {folder} lacks {len(missing)} of its weight files, first {missing[0]}; complete the download")
    try:
        hf, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ConfigError(f"backbone {folder} can't be read: {str(error).strip().splitlines()[0]}") from None
    # transformers only warns, and goes on with random weights
    for text, names in (("lacks", report["missing_keys"]), ("has unknown", report["unexpected_keys"])):
        if names:
            raise ConfigError(f"backbone {folder} {text} weights, {len(names)} in all, first {min(names)}")
    rows = max(words.get_vocab_size(), architecture.text.vocabulary)
    if rows > hf.get_input_embeddings().num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            hf.resize_token_embeddings(rows)
    return hf


def check(folder: Path, expected: Qwen2_5_VLConfig) -> None:
    """Raise ConfigError unless the folder's config.json describes the very network of `expected`."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(f"backbone {folder} has no {CONFIG}; it must be a local folder in Hugging Face format")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if stored.get("model_type") != MODEL_TYPE:
        raise ConfigError(f"{path}: model_type is {stored.get('model_type')!r}, the backbone must be {MODEL_TYPE!r}")
    try:
        found = Qwen2_5_VLConfig.from_dict(stored)
    except Exception as error:  # every kind that its validation knows; the text is all that matters
        raise ConfigError(f"{path} is no configuration of {MODEL_TYPE}: {' '.join(str(error).split())}") from None
    for (name, wanted), (_, value) in zip(_numbers(expected), _numbers(found)):
        if wanted != value:
            raise ConfigError(f"{path}: {name} is {value!r}, the architecture of this model needs {wanted!r}")


def sha256(folder: Path | str) -> str:
    """Hash of configuration, tokenizer and all weights: the identity of the backbone in the record of a run."""
    folder, digest = Path(folder), hashlib.sha256()
    for path in (folder / CONFIG, folder / TOKENIZER, *_weights(folder)):
        with path.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _weights(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return [folder / "model.safetensors"]


def _numbers(config: Qwen2_5_VLConfig) -> Iterator[tuple[str, Any]]:
    rope = config.text_config.rope_parameters
    for part, names, source in (
        ("text", TEXT, vars(config.text_config)), ("text", ROPE, rope), ("vision", VISION, vars(config.vision_config)),
        ("model", ("tie_word_embeddings",), vars(config)),
    ):  # fmt: skip
        for name in names:
            value = source.get(name)
            yield f"{part}.{name}", list(value) if isinstance(value, (list, tuple)) else value
