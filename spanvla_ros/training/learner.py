"""What stage one trains: the VLM, and heads on its vision features that only training has."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from spanvla_ros.contracts import ConfigError
from spanvla_ros.model import checkpoint
from spanvla_ros.model.auxiliary import DenseHead, SceneHead
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.training import targets


class Learner(nn.Module):
    """The VLM with the heads that only training has."""

    def __init__(self, model: SpanVLA):
        super().__init__()
        hidden = model.architecture.text.hidden
        self.vlm = model.vlm
        self.dense = DenseHead(hidden, len(targets.DENSE))
        self.scene = SceneHead(hidden, model.spec.vision_tokens, targets.REGRESSION_SIZE + targets.LAMPS)

    def initialise(self, run: Path) -> None:
        """Start from the newest weights of another run; its heads too."""
        found = sorted(run.glob("step-????????"))
        if not found:
            raise ConfigError(f"init: run {run} has no checkpoint")
        stored = load_file(found[-1] / "state.safetensors")
        # what did not learn in that run, or learned through adapters, is only in the model it wrote
        if (run / "model").is_dir():
            model = load_file(run / "model" / checkpoint.WEIGHTS)
            stored = {f"weight/vlm.hf.{name.removeprefix('vlm.')}": value for name, value in model.items()} | stored
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                value = stored.get(f"average/{name}", stored.get(f"weight/{name}"))
                if value is None or value.shape != parameter.shape:
                    raise ConfigError(f"init: run {run} has no weights {name} of shape {tuple(parameter.shape)}")
                parameter.copy_(value)
