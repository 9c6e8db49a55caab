"""What the VLM answers in stage 1: its loss (method section 4), and what it says on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spanvla_ros.model import decoding
from spanvla_ros.model.actions import Codebook
from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.model.vlm import causal_mask
from spanvla_ros.training import baselines, batches
from spanvla_ros.training.cache import Cache


def logits(model: SpanVLA, features: Tensor, sequence: dict[str, Tensor]) -> Tensor:
    """Logits (M, V) of the answer tokens in a `batches.packed` sequence."""
    vlm = model.vlm
    # padding is on the right of everything, so the causal mask alone hides it
    mask = causal_mask(torch.ones(1, sequence["ids"].shape[1], device=features.device))
    hidden, _ = vlm.decode_layers(vlm.embed(sequence["ids"], sequence["slot"], features), *vlm.rope(sequence["positions"]), mask)
    return vlm.logits(hidden[sequence["predict"]]).float()


def losses(scores: Tensor, sequence: dict[str, Tensor], model: SpanVLA, weight: Tensor, lambda_a: float) -> dict[str, Tensor]:
    """Stage-one loss of `logits` under sample weights (B,): "answer" = L_LM + lambda_a L_Action (method section 4).

    L_LM is the mean cross-entropy of all output tokens, L_Action that of the action tokens, each times the weight of its
    sample; "text" and "action" are the same without weights, of the words and of the action tokens alone.
    """
    each = F.cross_entropy(scores, sequence["labels"], reduction="none")
    weighted = each * weight[sequence["row"]]
    action = sequence["labels"] - model.first_action
    spoken = (action >= 0) & (action < model.spec.action_tokens)
    if not spoken.any():
        return {"answer": weighted.mean(), "text": each.detach().mean()}
    return {
        "answer": weighted.mean() + lambda_a * weighted[spoken].mean(),
        "text": each[~spoken].detach().mean(),
        "action": each[spoken].detach().mean(),
    }


def action_ids(model: SpanVLA, data: Cache) -> np.ndarray | None:
    """Vocabulary ids (n, T) of the action tokens of all cached futures; None for a model that speaks none. Kept beside the cache."""
    if model.codebook is None:
        return None
    return model.first_action + _actions(model.codebook, data)


def _actions(codebook: Codebook, data: Cache) -> np.ndarray:
    path = data.path / f"actions-{codebook.sha256[:16]}.npy"
    if not path.exists():
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, codebook.tokenise(data["future"]))
        temporary.replace(path)
    return np.load(path)


def said(model: SpanVLA, data: Cache, ids: np.ndarray) -> dict[str, Any]:
    """Greedy answers to cached samples: share that equals the label, share with the right mode of thinking; for a model that speaks
    its plan, its ADE and the share without a whole plan."""
    same, mode, plans, wanted = [], [], [], []
    for part in np.array_split(ids, max(1, len(ids) // 64)):
        device = model.vlm.frequency.device
        inputs = batches.placed({k: torch.from_numpy(v) for k, v in batches.prompts(data, part).items()}, device)
        with torch.no_grad():
            reasoned = model.decode_greedy(model.vision(batches.pixels(data, part, model.spec).to(device)), **inputs)
        for row, answer in zip(reasoned.tokens.cpu().numpy(), batches.answers(data, part)):
            own = row[row >= 0]
            same.append(len(own) == len(answer) and bool((own == answer).all()))
            # the first words tell slow from fast
            mode.append(bool((own[:2] == answer[:2]).all()))
        if model.codebook is not None:
            spoken = decoding.speak(model, reasoned)
            whole = spoken.complete.cpu().numpy()
            plans.append(np.where(whole[:, None, None], model.codebook.detokenise(spoken.actions.clamp(min=0).cpu().numpy()), np.nan))
            wanted.append(data["future"][part])
    metrics: dict[str, Any] = {"greedy_exact": float(np.mean(same)), "greedy_mode": float(np.mean(mode))}
    if plans:
        found, future = np.concatenate(plans), np.concatenate(wanted)
        whole = np.isfinite(found).all(axis=(1, 2))
        metrics["token_broken"] = float(1 - whole.mean())
        if whole.any():
            metrics |= {f"token_{k}": v for k, v in baselines.ade(found[whole], future[whole], model.spec.waypoint_interval_s).items()}
    return metrics
