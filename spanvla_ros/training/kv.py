"""Keys and values of some layers for every training sample, computed once: what the expert will get in the car."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spanvla_ros.model.spanvla import SpanVLA
from spanvla_ros.model.vlm import causal_mask
from spanvla_ros.training import batches
from spanvla_ros.training.batches import JitterConfig
from spanvla_ros.training.cache import Cache
from spanvla_ros.training.processes import Processes

CHUNK = 128  # samples per forward pass, and what an interrupted pass repeats at most
SAY_S = 10.0  # between two lines of progress


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """kv (n, layers, 2, Hkv, W, D) float16 by memory map; length (n,) valid slots; next_position (n,); sample (n,) row of the data
    cache; layers: which layers of the VLM are stored."""

    kv: np.ndarray
    length: np.ndarray
    next_position: np.ndarray
    sample: np.ndarray
    layers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.length)

    def batch(self, rows: np.ndarray, taps: tuple[int, ...]) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """(keys, values) per tap (B, Hkv, K, D) float32, valid (B, K) bool and next_position (B,) of some rows; sorted rows read faster."""
        columns = [self.layers.index(layer) for layer in taps]
        length = torch.from_numpy(self.length[rows].astype(np.int64))
        width = int(length.max())
        stored = torch.from_numpy(self.kv[rows[:, None], columns])[..., :width, :].float()
        taps = [(stored[:, i, 0], stored[:, i, 1]) for i in range(stored.shape[1])]
        return taps, torch.arange(width) < length[:, None], torch.from_numpy(self.next_position[rows].astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class View:
    """How the samples are shown: jittered pictures, black ones, the shares that get no text, and text cut at a random point."""

    jitter: JitterConfig | None = None
    black: bool = False
    prompt_only: float = 0.0
    partial_text: float = 0.0
    seed: int = 0


@torch.no_grad()
def compute(
    model: SpanVLA, data: Cache, ids: np.ndarray, view: View, layers: tuple[int, ...], bf16: bool
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """KV (B, layers, 2, Hkv, W, D), lengths and next positions (B,) after the model's own greedy text, or as much of it as the view shows."""
    spec = model.spec
    torch.manual_seed(view.seed * 1_000_003 + int(ids[0]))
    patches = batches.black(len(ids), spec) if view.black else batches.pixels(data, ids, spec)
    if view.jitter is not None:
        patches = batches.jitter(patches, view.jitter, spec)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = model.vision(patches).float()
        draw = torch.rand(len(ids)).numpy()
        silent = draw < view.prompt_only
        cut = ~silent & (draw < view.prompt_only + view.partial_text)
        prompt, guess = batches.prompts(data, ids), batches.answers(data, ids)
        answer = [np.array([model.action_start]) if mute else a for a, mute in zip(guess, silent)]
        sequence, stored, agreed = _forward(model, features, prompt, answer, layers)
        # where the model would have said the label itself, this pass already is the answer; the others decode
        open_rows = np.flatnonzero(~agreed & ~silent)
        if len(open_rows):
            inputs = {k: torch.from_numpy(v[:, open_rows] if k == "positions" else v[open_rows]) for k, v in prompt.items()}
            tokens = model.decode_greedy(features[open_rows], **inputs).tokens.numpy()
            for row, said in zip(open_rows, tokens):
                answer[row] = said[said >= 0]
        for row in np.flatnonzero(cut):
            kept = 1 + int(torch.randint(max(1, len(answer[row]) - 2), ()))
            answer[row] = np.append(answer[row][: min(kept, len(answer[row]) - 1)], model.action_start)
        if len(open_rows) or cut.any():
            sequence, stored, _ = _forward(model, features, prompt, answer, layers)
    return stored, sequence["valid"].sum(1).numpy(), sequence["next_position"].numpy()


def _forward(
    model: SpanVLA, features: Tensor, prompt: dict[str, np.ndarray], answer: list[np.ndarray], layers: tuple[int, ...]
) -> tuple[dict[str, Tensor], Tensor, np.ndarray]:
    """Teacher-forced pass: the sequence, its KV, and per row whether greedy decoding would say just this answer."""
    vlm, sequence = model.vlm, batches.packed(prompt, answer)
    mask = causal_mask(torch.ones(1, sequence["ids"].shape[1]))
    hidden, kv = vlm.decode_layers(vlm.embed(sequence["ids"], sequence["slot"], features), *vlm.rope(sequence["positions"]), mask)
    stored = torch.stack([torch.stack(kv[layer], dim=1) for layer in layers], dim=1)
    same = (vlm.logits(hidden[sequence["predict"]]).argmax(-1) == sequence["labels"]).numpy()
    ends = np.cumsum([len(a) for a in answer])
    agreed = np.array([part.all() for part in np.split(same, ends[:-1])])
    return sequence, stored.float(), agreed


def build(
    model: SpanVLA,
    data: Cache,
    samples: np.ndarray,
    views: list[View],
    folder: Path,
    *,
    layers: tuple[int, ...],
    identity: str,
    processes: Processes,
    bf16: bool,
    say: Callable[[str], None],
) -> KvCache:
    """KV of `layers` for all `samples` under each view below `folder`, shared among `processes`, continued where a pass was interrupted.

    identity: hash of the weights; another one, other samples, views or layers make another folder.
    """
    key = json.dumps([identity, data.sha256, hashlib.sha256(samples.tobytes()).hexdigest(), repr(views), layers, bf16])
    path = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    count = len(samples) * len(views)
    shapes = _shapes(model, data, layers, count)
    with processes.main_first():
        path.mkdir(parents=True, exist_ok=True)
        for name, (dtype, shape) in shapes.items():
            if not (path / f"{name}.npy").exists():
                np.lib.format.open_memmap(path / f"{name}.npy", mode="w+", dtype=dtype, shape=shape).flush()
    arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r+") for name in shapes}
    work = [(v, start) for v in range(len(views)) for start in range(0, len(samples), CHUNK)]
    mine = [w for w in work[processes.rank :: processes.world] if not arrays["done"][w[0] * len(samples) + w[1]]]
    began = said = time.monotonic()
    for k, (v, start) in enumerate(mine):
        ids = samples[start : start + CHUNK]
        rows = slice(v * len(samples) + start, v * len(samples) + start + len(ids))
        stored, length, position = compute(model, data, ids, views[v], layers, bf16)
        arrays["kv"][rows, ..., : stored.shape[-2], :] = stored.to(torch.float16).numpy()
        arrays["length"][rows], arrays["next_position"][rows], arrays["sample"][rows] = length, position, ids
        arrays["done"][rows] = True
        now = time.monotonic()
        if now - said >= SAY_S:
            said, rate = now, (k + 1) * CHUNK * processes.world / (now - began)
            say(f"  keys and values {100 * (k + 1) / len(mine):.0f} %  {rate:.0f}/s  ETA {(len(mine) - k - 1) * CHUNK * processes.world / rate:.0f} s")
    for array in arrays.values():
        array.flush()
    processes.barrier()
    small = {name: np.load(path / f"{name}.npy") for name in ("length", "next_position", "sample")}
    return KvCache(kv=np.load(path / "kv.npy", mmap_mode="r"), layers=layers, **small)


def _shapes(model: SpanVLA, data: Cache, layers: tuple[int, ...], count: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    width = int(data["length"].max()) + model.spec.max_reasoning_tokens + 1
    kv = (count, len(layers), 2, model.vlm.kv_heads, width, model.vlm.head_dim)
    rows = {"length": np.int16, "next_position": np.int16, "sample": np.int64, "done": np.bool_}
    return {"kv": (np.float16, kv)} | {name: (dtype, (count,)) for name, dtype in rows.items()}
