"""Tokenizer of a model that starts from nothing: trained on the prompts and reasoning texts of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spanvla_ros.contracts import ConfigError, ModelSpec
from spanvla_ros.planning import prompt
from spanvla_ros.planning import tokenizer as planning_tokenizer

# as `planning.prompt` writes them: past metres and speeds in halves, lateral metres in fifths, degrees in steps of 2
NUMBERS = sorted({f"{v:g}" for v in [*np.arange(-45, 40.1, 0.5), *np.arange(-4, 4.1, 0.2).round(1), *range(-60, 61, 2)]})
MAX_VOCABULARY = 1000
# a byte alphabet and the special tokens are always in
MIN_VOCABULARY = 256 + len(planning_tokenizer.SPECIAL_TOKENS)


def texts(samples: Iterable[Any], spec: ModelSpec) -> Iterator[str]:
    """Prompt and answer of every sample, and each instruction and number, so that a rare one is no string of letters."""
    for words in prompt.INSTRUCTIONS.values():
        yield from [f" {words} ;"] * 100
    # numbers that this data set doesn't hold, but a faster car would: one token each
    for number in NUMBERS:
        yield from [f" {number}"] * 20
    for sample in samples:
        observation = sample.observation
        yield from _pieces(prompt.render(spec, observation.history, observation.command))
        yield from _pieces(prompt.answer(sample.reasoning))


def _pieces(text: str) -> list[str]:
    """Text between the special tokens: they must not be merged with their neighbours."""
    for token in planning_tokenizer.SPECIAL_TOKENS:
        text = text.replace(token, "\0")
    return [piece for piece in text.split("\0") if piece]


def train(samples: Iterable[Any], spec: ModelSpec, vocabulary: int, path: Path) -> int:
    """Train, append the action tokens of `spec`, write a Hugging Face tokenizer.json, return the vocabulary size.

    vocabulary counts the words only. Raises ConfigError for an impossible size.
    """
    if not MIN_VOCABULARY < vocabulary <= MAX_VOCABULARY:
        raise ConfigError(f"vocabulary must be in ({MIN_VOCABULARY}, {MAX_VOCABULARY}], is {vocabulary}")
    tokenizer = planning_tokenizer.train(texts(samples, spec), vocabulary)
    planning_tokenizer.extend(tokenizer, spec.action_tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


def lengths(samples: Iterable[Any], spec: ModelSpec, tokenizer) -> tuple[int, int]:
    """Longest prompt and longest answer in tokens."""
    longest = [0, 0]
    for sample in samples:
        observation = sample.observation
        for i, text in enumerate((prompt.render(spec, observation.history, observation.command), prompt.answer(sample.reasoning))):
            longest[i] = max(longest[i], len(tokenizer.encode(text, add_special_tokens=False).ids))
    return longest[0], longest[1]
