"""The words around the pictures: prompt text, its token tensors, and the form of the answer (method: slow and fast thinking)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spanvla_ros.contracts import Command, ConfigError, EgoHistory, InputError, ModelSpec
from spanvla_ros.planning.tokenizer import ACTION_START, END, START, THINK, THINK_END, VIDEO_PAD, VISION_END, VISION_START, action_token

FAST_TEXT = "The road is clear, I act directly."
SLOW_LEAD = "This scene needs thought:"

INSTRUCTIONS = {
    Command.LEFT: "turn left",
    Command.STRAIGHT: "go straight",
    Command.RIGHT: "turn right",
    Command.UNKNOWN: "follow the road",
}
_SYSTEM = "You are the driver of this car. Look at the videos, reason about what matters for driving, then plan the motion."
_BEGINNINGS = {"compact/1": f"{START} user", "spanvla/1": f"{START}system\n{_SYSTEM}{END}\n{START}user\n"}
# M-RoPE time steps per second of video, as in Qwen2.5-VL's released configuration
TOKENS_PER_SECOND = 2


def reasoning_text(trace: str | None) -> str:
    """What stands between the think tags: the fast sentence where there is nothing to say, else lead and trace."""
    return FAST_TEXT if trace is None else f"{SLOW_LEAD} {trace}"


def answer(reasoning: str, actions: Iterable[int] = ()) -> str:
    """The model's whole output for a reasoning text; the prompt has already opened the think block.

    actions: indices into the codebook, for a model that also speaks its plan (method section 2.2); none by default. Nothing
    closes the answer: its number of action tokens is that of the waypoints.
    """
    return f" {reasoning}{THINK_END}{ACTION_START}{''.join(map(action_token, actions))}"


def _number(value: float, step: float) -> str:
    rounded = round(value / step) * step
    text = f"{rounded:.1f}".rstrip("0").rstrip(".") if step < 1 else f"{rounded:.0f}"
    return "0" if text in ("-0", "") else text


def _compact(history: EgoHistory, instruction: str) -> str:
    """Coarse numbers, each one token of a small vocabulary; the exact motion reaches the expert as numbers anyway."""
    speeds = " ".join(_number(v, 0.5) for v in history.speeds_mps)
    path = " ; ".join(
        f"{_number(x, 0.5)} {_number(y, 0.2)} {_number(np.degrees(yaw), 2)}" for x, y, yaw in history.poses_base[:-1]
    )
    return f" {instruction} ; acceleration {_number(history.acceleration_mps2, 0.5)} ; speed {speeds} ; path {path}"


def _sentences(history: EgoHistory, instruction: str) -> str:
    speeds = ", ".join(f"{v:.3f}" for v in history.speeds_mps)
    path = ", ".join(f"({x:.2f}, {y:.2f}, {yaw:.2f})" for x, y, yaw in history.poses_base)
    return (
        f"The instruction is: {instruction}. The current acceleration is {history.acceleration_mps2:.3f} m/s^2. "
        f"The past velocities, oldest first, are {speeds} m/s. "
        f"The past trajectory as (x, y, heading) in metres and radians, in the current frame, is {path}."
    )


def prefix(spec: ModelSpec) -> str:
    """What every prompt of a model begins with, up to its first picture. A special token ends it, so its tokens don't depend on
    what follows."""
    if spec.prompt_version not in _BEGINNINGS:
        raise ConfigError(f"prompt_version is '{spec.prompt_version}'; known are {', '.join(map(repr, _BEGINNINGS))}")
    return f"{_BEGINNINGS[spec.prompt_version]} {spec.cameras[0]}{VISION_START}"


def render(spec: ModelSpec, history: EgoHistory, command: Command, instruction: str | None = None) -> str:
    """Prompt text with special tokens, ending in an open think block."""
    words = instruction or INSTRUCTIONS[command]
    pads = VIDEO_PAD * (spec.vision_tokens // len(spec.cameras))
    videos = prefix(spec) + f"{pads}{VISION_END}" + "".join(f" {camera}{VISION_START}{pads}{VISION_END}" for camera in spec.cameras[1:])
    if spec.prompt_version == "compact/1":
        return f"{videos}{_compact(history, words)}{END}{START} assistant{THINK}"
    return f"{videos}\n{_sentences(history, words)}{END}\n{START}assistant\n{THINK}"


def tensors(spec: ModelSpec, tokenizer, text: str) -> dict[str, np.ndarray]:
    """Token tensors of a prompt text, padded on the right to `spec.prompt_tokens` (S).

    ids (1, S), slot (1, S): 0 for text, k for vision feature k-1; positions (3, 1, S): M-RoPE time, row, column;
    length (1,): tokens before the padding. All int64.
    """
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) > spec.prompt_tokens:
        raise InputError(f"the prompt has {len(ids)} tokens, the model takes {spec.prompt_tokens}; shorten the instruction")
    pad = tokenizer.token_to_id(VIDEO_PAD)
    rows, columns = spec.grid
    per_camera = spec.vision_tokens // len(spec.cameras)
    interval_s = spec.frame_offsets_s[-1] - spec.frame_offsets_s[-2]
    time_step = interval_s * spec.temporal_patch * TOKENS_PER_SECOND
    group, row, column = np.unravel_index(np.arange(per_camera), (per_camera // (rows * columns), rows, columns))
    block = np.stack([(group * time_step).astype(np.int64), row, column])
    positions = np.zeros((3, spec.prompt_tokens), np.int64)
    slot = np.zeros(spec.prompt_tokens, np.int64)
    following, features, i = 0, 0, 0
    while i < len(ids):
        if ids[i] == pad:
            positions[:, i : i + per_camera] = following + block
            slot[i : i + per_camera] = features + 1 + np.arange(per_camera)
            following += int(block.max()) + 1
            features += per_camera
            i += per_camera
        else:
            positions[:, i] = following
            following += 1
            i += 1
    padded = np.zeros(spec.prompt_tokens, np.int64)
    padded[: len(ids)] = ids
    return {"ids": padded[None], "slot": slot[None], "positions": positions[:, None], "length": np.array([len(ids)], np.int64)}
