"""What all back-ends share: the life of one observation's KV cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from spanvla_ros.contracts import EngineError, ModelSpec
from spanvla_ros.engine.features import PairCache


class Session(ABC):
    """A contracts.Backend over three operations. Keeps the book: which slots are filled, and where the next token stands.

    The answer begins at slot `prompt_tokens`, whatever the length of the prompt; <action_start> always closes it.
    `decode` starts over after the prompt each time, so a plan can be made before the reasoning and again with it.
    `features` (Nv, H) and `logits` (1, V) are those of the last prefill, for parity checks.

    name: of the back-end; passed_over: back-ends that `engine.load` tried before this one, and why they are not used; seen:
    frame pairs whose features are kept; through_stop: go on over <action_start>, so that a measurement has as many tokens as it wants.
    """

    name: ClassVar[str]
    features: np.ndarray | None = None
    logits: np.ndarray | None = None

    def __init__(self, spec: ModelSpec, action_start: int):
        self.spec = spec
        self.passed_over: tuple[str, ...] = ()
        self.seen = PairCache(len(spec.cameras), spec.groups // len(spec.cameras))
        self.through_stop = False
        self._action_start = action_start
        self._valid = np.zeros((1, spec.cache_tokens), np.float32)
        self._first_token: int | None = None
        self._start = 0  # M-RoPE position of the first answer token
        self._count = 0  # answer tokens in the cache
        self._closed = False  # <action_start> is the last of them
        self._released = False
        self._run = 0  # decode iterators of the past must not touch the cache

    @abstractmethod
    def _encode(self, prompt: Mapping[str, np.ndarray]) -> int:
        """Vision and prefill; the cache holds the prompt; returns the first token."""

    @abstractmethod
    def _append(self, token: int, position: int, slot: int) -> int:
        """Write one token into the cache; returns the token after it."""

    @abstractmethod
    def _trajectory(self, motion: Mapping[str, np.ndarray], noise: np.ndarray, position: int) -> np.ndarray:
        """Run the expert on the cache: (1, T, 3)."""

    def prefill(self, prompt: Mapping[str, np.ndarray]) -> None:
        """See contracts.Backend. Errors: EngineError names an array that is missing or has another shape than the graphs."""
        if self._released:
            raise EngineError("the backend was closed; load the engine again")
        self._first_token = None
        self._check(prompt)
        length = int(prompt["length"][0])
        self._run += 1
        self._first_token = self._encode(prompt)
        self._valid[:] = 0
        self._valid[:, :length] = 1
        self._start = int(prompt["positions"][:, :, :length].max()) + 1
        self._count, self._closed = 0, False

    def _check(self, prompt: Mapping[str, np.ndarray]) -> None:
        spec = self.spec
        size = spec.prompt_tokens
        patches = (spec.groups, spec.grid[0] * spec.grid[1] * spec.merge**2, 3 * spec.temporal_patch * spec.patch**2)
        for name, shape in (("patches", patches), ("ids", (1, size)), ("slot", (1, size)), ("positions", (3, 1, size)), ("length", (1,))):
            if name not in prompt:
                raise EngineError(f"prompt has no array {name!r}; it has {sorted(prompt)}")
            if np.shape(prompt[name]) != shape:
                raise EngineError(f"prompt array {name!r} has shape {np.shape(prompt[name])}, the engine needs {shape}")
        if not 0 < prompt["length"][0] <= size:
            raise EngineError(f"prompt length is {prompt['length'][0]}, the engine takes 1 to {size}")

    def decode(self, max_tokens: int) -> Iterator[int]:
        """See contracts.Backend. One slot beyond max_reasoning_tokens is kept for <action_start>."""
        if self._first_token is None:
            raise EngineError("decode without a prompt; call prefill first")
        return self._tokens(max_tokens, self._restart())

    def _restart(self) -> int:
        self._valid[:, self.spec.prompt_tokens :] = 0
        self._count, self._closed = 0, False
        self._run += 1
        return self._run

    def _tokens(self, max_tokens: int, run: int) -> Iterator[int]:
        token = self._first_token
        try:
            for index in range(min(max_tokens, self.spec.max_reasoning_tokens + 1)):
                last_slot = index == self.spec.max_reasoning_tokens
                if last_slot and (token != self._action_start or self.through_stop):
                    break
                current = token
                # into the cache before it is shown: the caller may stop at any token
                token = self._write(current)
                yield current
                if run != self._run or self._closed:
                    return
        finally:
            if run == self._run:
                self._finish()

    def _write(self, token: int) -> int:
        slot = self.spec.prompt_tokens + self._count
        following = self._append(token, self._start + self._count, slot)
        self._valid[0, slot] = 1
        self._count += 1
        self._closed = token == self._action_start and not self.through_stop
        return following

    def _finish(self) -> None:
        if not self._closed:
            self._write(self._action_start)
            self._closed = True

    def flow(self, motion: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        """See contracts.Backend. Closes the answer where decoding has not."""
        if self._first_token is None:
            raise EngineError("flow without a prompt; call prefill first")
        self._finish()
        return self._trajectory(motion, noise, self._start + self._count)[0]

    def close(self) -> None:
        """See contracts.Backend."""
        self._released, self._first_token = True, None
        self._run += 1
