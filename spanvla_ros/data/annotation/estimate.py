"""What an annotation will cost, before it starts: tokens, money and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spanvla_ros.contracts import SpanVLAError
from spanvla_ros.data.annotation import prompt
from spanvla_ros.data.annotation.cache import Cache
from spanvla_ros.data.shards import Dataset
from spanvla_ros.planning.images import decode_jpeg

# of a sample, as long as nothing is measured
_LETTERS_PER_TOKEN, _TILE_PX, _TILE_TOKENS, _PICTURE_TOKENS = 4, 512, 170, 85
_REPLY_TOKENS, _SECONDS = 350, 8.0
_ENOUGH, _MOST = 5, 200  # earlier replies that a mean is taken of
_TRIED = 20  # samples, until one has readable pictures


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """For all samples together; measured: replies that the means are from, 0 where they are assumed; cost None without prices."""

    samples: int
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    cost: float | None
    measured: int

    def __str__(self) -> str:
        money = "" if self.cost is None else f", {self.cost:.2f} of your currency"
        basis = f"means of {self.measured} earlier replies" if self.measured else "assumed; --count 20 first measures it"
        tokens = f"{self.prompt_tokens / 1e6:.2f} M prompt and {self.reply_tokens / 1e6:.2f} M reply tokens"
        return f"{self.samples} samples to annotate: about {tokens}{money}, {duration(self.seconds)} ({basis})"


def estimate(
    dataset: Dataset, todo: Sequence[int], cache: Cache, workers: int, per_minute: float, prices: tuple[float, float] | None, hint: bool
) -> Estimate:
    """For the samples `todo`; prices: of a million prompt and reply tokens."""
    count = len(todo)
    earlier = [reply for reply in cache.some(_MOST) if reply.get("prompt_tokens")]
    if len(earlier) >= _ENOUGH:
        asked, replied, seconds = (sum(r[key] for r in earlier) / len(earlier) for key in ("prompt_tokens", "reply_tokens", "seconds"))
    else:
        earlier, asked = [], next((tokens for tokens in (_prompt_tokens(dataset, index, hint) for index in todo[:_TRIED]) if tokens), 0)
        replied, seconds = _REPLY_TOKENS, _SECONDS
    time_s = max(count * seconds / workers, count * 60.0 / per_minute if per_minute else 0.0)
    return Estimate(
        samples=count,
        prompt_tokens=round(count * asked),
        reply_tokens=round(count * replied),
        seconds=time_s,
        cost=None if prices is None else cost(prices, count * asked, count * replied),
        measured=len(earlier),
    )


def cost(prices: tuple[float, float], prompt_tokens: float, reply_tokens: float) -> float:
    return (prices[0] * prompt_tokens + prices[1] * reply_tokens) / 1e6


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _prompt_tokens(dataset: Dataset, index: int, hint: bool) -> int:
    """Of one sample: letters by four, pictures by tiles, as some vendors count; others count less. 0 for a damaged one."""
    try:
        record, jpegs = dataset.record(index), dataset.jpegs(index)
        sizes = [decode_jpeg(jpegs[camera][k], camera).shape[:2] for camera, k in prompt.choose(record)]
    except (SpanVLAError, OSError):
        return 0
    system, user = prompt.messages(record, jpegs, hint)
    letters = len(system["content"]) + sum(len(part["text"]) for part in user["content"] if part["type"] == "text")
    tiles = sum(math.ceil(width / _TILE_PX) * math.ceil(height / _TILE_PX) for height, width in sizes)
    return round(letters / _LETTERS_PER_TOKEN) + _PICTURE_TOKENS * len(sizes) + _TILE_TOKENS * tiles
