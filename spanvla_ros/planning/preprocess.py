"""Observation -> the arrays that the graphs take: the only preprocessing, for the car, the simulator and training alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spanvla_ros.contracts import InputError, ModelSpec, Observation
from spanvla_ros.planning import images, motion, prompt

Fit = Callable[[np.ndarray, tuple[int, int]], np.ndarray]


def model_frames(observation: Observation, spec: ModelSpec, fit: Fit = images.fit) -> np.ndarray:
    """All frames at model size, camera-major, oldest first: (cameras, F, H, W, 3) uint8."""
    missing = [c for c in spec.cameras if len(observation.images.get(c, ())) != len(spec.frame_offsets_s)]
    if missing:
        raise InputError(f"the model needs {len(spec.frame_offsets_s)} frames of {list(spec.cameras)}; incomplete: {missing}")
    return np.stack([np.stack([fit(f.rgb, spec.image_size) for f in observation.images[c]]) for c in spec.cameras])


def preprocess(observation: Observation, spec: ModelSpec, tokenizer, fit: Fit = images.fit) -> dict[str, np.ndarray]:
    """Arrays named like the graph inputs. fit: an `images.Fitter` where pictures come back in later observations.

    patches (B, N, 1176) float32 with B = cameras x frame pairs; ids, slot (1, S), positions (3, 1, S), length (1,)
    int64; ego (1, E) and base (1, T, 3) float32; age (1, 4) float32 where the spec has kv_age, of KV that is made from this observation.
    """
    frames = model_frames(observation, spec, fit)
    patches = images.patchify(frames, spec)
    text = prompt.render(spec, observation.history, observation.command)
    age = {"age": motion.age_features(0.0, np.zeros(3))[None]} if spec.kv_age else {}
    return {
        "patches": patches.reshape(-1, *patches.shape[-2:]),
        **prompt.tensors(spec, tokenizer, text),
        "ego": motion.features(observation.history, observation.command)[None],
        "base": motion.base(observation.history, spec)[None],
        **age,
    }
