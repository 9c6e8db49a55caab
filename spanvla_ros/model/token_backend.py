"""A plan from action tokens instead of the flow (the ablation "autoregressive tokens" of method section 7.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from spanvla_ros.model import decoding
from spanvla_ros.model.decoding import GREEDY, Decoded, Sampling
from spanvla_ros.model.spanvla import SpanVLA


class TokenBackend:
    """A contracts.Backend on a torch model: reasoning as ever, then `flow` speaks one action token per waypoint.

    The motion and the noise that `flow` gets are not used: what the car did stands in the prompt.
    """

    def __init__(self, model: SpanVLA, sampling: Sampling = GREEDY):
        self._model, self._sampling = model, sampling
        self._allowed = decoding.plan_tokens(model)
        self._reasoned: Decoded | None = None

    @torch.no_grad()
    def prefill(self, prompt: Mapping[str, np.ndarray]) -> None:
        model = self._model
        arrays = {k: torch.from_numpy(prompt[k]) for k in ("ids", "slot", "positions", "length")}
        self._prefilled = model.prefill(model.vision(torch.from_numpy(prompt["patches"])[None]), **arrays)
        self._length = arrays["length"]
        self._reasoned = None

    def decode(self, max_tokens: int) -> Iterator[int]:
        found = self._reason(max_tokens)
        ids = found.tokens[0].tolist()[: -1 if bool(found.forced[0]) else None]
        said = 0
        try:
            for token in ids:
                said += 1
                yield token
        finally:
            # who stops listening gets a cache that ends there
            if said < len(ids):
                self._reason(said)

    def flow(self, motion: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        spoken = decoding.speak(self._model, self._reasoned or self._reason(0), sampling=self._sampling, allowed=self._allowed)
        return self._model.codebook.detokenise(spoken.actions[0].numpy()).astype(np.float32)

    def close(self) -> None:
        self._reasoned = self._prefilled = None

    def _reason(self, max_tokens: int) -> Decoded:
        self._reasoned = decoding.reason(self._model, self._prefilled, self._length, max_tokens=max_tokens, sampling=self._sampling)
        return self._reasoned
