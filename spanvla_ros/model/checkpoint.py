"""A model folder: model.safetensors (weights), model.json (architecture and ModelSpec), tokenizer.json; codebook.safetensors
where the model speaks action tokens."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spanvla_ros.contracts import ConfigError, DataError, ModelSpec
from spanvla_ros.model import actions
from spanvla_ros.model.architecture import Architecture
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.planning import tokenizer as tokenizers

SCHEMA = "spanvla-model/1"
WEIGHTS, DESCRIPTION, TOKENIZER = "model.safetensors", "model.json", "tokenizer.json"
CODEBOOK = "codebook.safetensors"
# tied to the token embedding, so a second copy would only be able to disagree
TIED = "vlm.lm_head.weight"


def weights(model: SpanVLA) -> dict[str, torch.Tensor]:
    """Weights under Hugging Face names, `vlm.` and `expert.` in front."""
    parts = {"vlm": model.vlm.hf, "expert": model.expert}
    named = {f"{part}.{name}": value.detach() for part, module in parts.items() for name, value in module.state_dict().items()}
    return {name: value for name, value in named.items() if name != TIED}


def save(model: SpanVLA, folder: Path | str, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a model folder; weights are stored as `dtype`. A folder that is already there stays whole until the new one is.

    Errors: DataError when the disk is full.
    """
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    description = {"schema": SCHEMA, "architecture": model.architecture.to_dict(), "spec": model.spec.to_dict()}
    try:
        temporary.mkdir(parents=True)
        save_file({name: value.to("cpu", dtype).contiguous() for name, value in weights(model).items()}, str(temporary / WEIGHTS))
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        model.tokenizer.save(str(temporary / TOKENIZER))
        if model.codebook is not None:
            model.codebook.save(temporary / CODEBOOK)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DataError(f"model {folder} can't be written ({error}); make room and run the same command again") from None
    folder.mkdir(exist_ok=True)
    for path in temporary.iterdir():
        os.replace(path, folder / path.name)
    temporary.rmdir()


def describe(folder: Path | str) -> tuple[Architecture, ModelSpec]:
    """What a model folder holds, without its weights. Errors: as `load`."""
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(f"{folder} is no model folder: {DESCRIPTION} is missing")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    if description.get("schema") != SCHEMA:
        raise ConfigError(f"{path} has schema {description.get('schema')!r}; this version reads {SCHEMA!r}")
    return Architecture.from_dict(description["architecture"], str(path)), ModelSpec.from_dict(description["spec"])


def load(folder: Path | str) -> SpanVLA:
    """Read a model folder, in float32 and evaluation mode. Errors: ConfigError names the file and what is wrong with it."""
    folder = Path(folder)
    architecture, spec = describe(folder)
    codebook = actions.load(folder / CODEBOOK, spec.action_tokens) if spec.action_tokens else None
    model = SpanVLA(architecture, spec, tokenizers.load(folder / TOKENIZER), codebook)
    load_weights(model, folder / WEIGHTS)
    return model.eval()


def load_weights(model: SpanVLA, path: Path | str) -> None:
    """Fill `model` from a safetensors file. Errors: ConfigError names the first weights that are missing, unknown or misshapen."""
    try:
        stored = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    expected = weights(model)
    for text, names in (("lacks", expected.keys() - stored.keys()), ("has unknown", stored.keys() - expected.keys())):
        if names:
            raise ConfigError(f"{path} {text} weights, {len(names)} in all, first {min(names)}")
    with torch.no_grad():
        for name, target in expected.items():
            if target.shape != stored[name].shape:
                raise ConfigError(f"{path}: {name} has shape {tuple(stored[name].shape)}, the architecture needs {tuple(target.shape)}")
            target.copy_(stored[name])
