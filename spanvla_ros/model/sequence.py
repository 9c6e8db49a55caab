"""Prompt tensors plus answer tokens -> one teacher-forced sequence, laid out exactly as the cache of a decoding car."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spanvla_ros.contracts import DataError

IGNORED = -100  # label of cross-entropy's ignore_index


def teacher_forced(prompts: Mapping[str, np.ndarray], answers: Sequence[Sequence[int]], width: int | None = None) -> dict[str, np.ndarray]:
    """Join a batch of prompts (ids, slot (B, S), positions (3, B, S), length (B,)) with answers (token ids that end in
    <action_start>), padded on the right to `width` (default: the longest).

    Returns ids, slot (B, S+L), positions (3, B, S+L) int64; valid (B, S+L) bool; length (B,): tokens of the prompt;
    labels (B, L): the answer, IGNORED where padded; next_position (B,): M-RoPE position after the last valid token,
    where the action expert's queries stand.
    """
    longest = max(len(a) for a in answers)
    width = longest if width is None else width
    if longest > width:
        raise DataError(f"an answer has {longest} tokens, the model takes {width}; raise max_reasoning_tokens or shorten the text")
    ids, slot, positions, length = prompts["ids"], prompts["slot"], prompts["positions"], prompts["length"]
    batch, prompt_tokens = ids.shape
    sizes = np.array([len(a) for a in answers])
    labels = np.full((batch, width), IGNORED, np.int64)
    for row, answer in zip(labels, answers):
        row[: len(answer)] = answer
    in_prompt = np.arange(prompt_tokens) < length[:, None]
    in_answer = np.arange(width) < sizes[:, None]
    start = np.where(in_prompt, positions.max(axis=0), -1).max(axis=1) + 1
    answer_positions = start[:, None] + np.arange(width)
    return {
        "ids": np.concatenate([ids, np.where(in_answer, labels, 0)], axis=1),
        "slot": np.concatenate([slot, np.zeros((batch, width), np.int64)], axis=1),
        "positions": np.concatenate([positions, np.broadcast_to(answer_positions, (3, batch, width))], axis=2),
        "valid": np.concatenate([in_prompt, in_answer], axis=1),
        "length": length,
        "labels": labels,
        "next_position": start + sizes,
    }
