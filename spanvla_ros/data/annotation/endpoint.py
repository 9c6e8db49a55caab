"""Annotation by any OpenAI-compatible endpoint that takes pictures: retries, rate, cache."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from spanvla_ros.contracts import DataError
from spanvla_ros.data.annotation import client, prompt, reply
from spanvla_ros.data.annotation.annotators import Answer
from spanvla_ros.data.annotation.cache import Cache, digest
from spanvla_ros.data.annotation.client import Busy, Completion, Refused, Settings, Stop, TransportError
from spanvla_ros.data.annotation.pace import Pace
from spanvla_ros.data.annotation.reply import ReplyError
from spanvla_ros.planning.images import decode_jpeg

REPLY_TOKENS = 1500  # most that a reply may have
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_BUSY_TURNS = 30  # most that one sample is sent back by an overloaded endpoint
_PATIENCE_S = 900.0  # an endpoint that asks for a longer pause than this has a quota that is used up
_DOWN = 8  # samples in a row that got no answer at all: the endpoint is gone


class Endpoint:
    """An annotator. attempts: tries per sample that end without a usable reply; being asked to wait doesn't count."""

    def __init__(self, settings: Settings, cache: Cache, pace: Pace, hint: bool = False, attempts: int = 4, first_wait_s: float = _FIRST_WAIT_S):
        self.identity: dict[str, Any] = {"backend": "endpoint", "model": settings.model, "prompt": prompt.VERSION, "hint": hint}
        self._settings, self._cache, self._pace, self._attempts, self._first_wait_s = settings, cache, pace, attempts, first_wait_s
        self._hint = hint
        # what not every endpoint takes; left out for the rest of the run once one is refused
        self._extras: dict[str, Any] = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "annotation", "strict": True, "schema": reply.schema()}},
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        self._unanswered = 0

    def annotate(self, record: Mapping[str, Any], jpegs: Mapping[str, Sequence[bytes]]) -> Answer:
        for camera, k in prompt.choose(record):
            decode_jpeg(jpegs[camera][k], f"sample {record['id']} camera '{camera}'")  # a damaged picture is not worth a request
        question = {"model": self._settings.model, "prompt": prompt.VERSION, "messages": prompt.messages(record, jpegs, self._hint)}
        name = digest(question)
        stored = self._cache.get(name)
        if stored is not None:
            try:
                usage = {key: stored[key] for key in ("attempts", "seconds", "prompt_tokens", "reply_tokens")}
                return Answer(annotation=reply.parse(stored["text"]), cached=True, **usage)
            except (ReplyError, KeyError, TypeError):
                pass  # of other rules than today's, or damaged: asked again
        answer, text = self._ask(question["messages"])
        usage = {key: getattr(answer, key) for key in ("attempts", "seconds", "prompt_tokens", "reply_tokens")}
        try:
            self._cache.put(name, {"sample": record["id"], "model": self._settings.model, "text": text, **usage})
        except DataError as error:
            raise Stop(str(error)) from None
        return answer

    def _ask(self, messages: list[dict[str, Any]]) -> tuple[Answer, str]:
        """Until a reply passes the check, or `attempts` are used up (DataError with the reason of every one)."""
        said: list[dict[str, Any]] = []
        reasons: list[str] = []
        spent = [0.0, 0, 0]
        while len(reasons) < self._attempts:
            try:
                completion = self._complete({"model": self._settings.model, "messages": [*messages, *said]})
            except TransportError as error:
                reasons.append(str(error))
                if len(reasons) < self._attempts:
                    time.sleep(self._backoff_s(len(reasons)))
                continue
            spent = [a + b for a, b in zip(spent, (completion.seconds, completion.prompt_tokens, completion.reply_tokens))]
            try:
                annotation = reply.parse(completion.text)
            except ReplyError as error:
                reasons.append(str(error))
                said = _correction(completion, error)
                continue
            seconds, asked, replied = spent
            usage = {"attempts": len(reasons) + 1, "seconds": round(seconds, 3), "prompt_tokens": int(asked), "reply_tokens": int(replied)}
            return Answer(annotation=annotation, **usage), completion.text
        self._watch()
        counted = "; ".join(f"{reason} ({reasons.count(reason)}x)" if reasons.count(reason) > 1 else reason for reason in dict.fromkeys(reasons))
        raise DataError(f"{len(reasons)} attempts: {counted}")

    def _complete(self, body: Mapping[str, Any]) -> Completion:
        """One answer, after all the waiting that the endpoint asks for."""
        for turn in range(1, _BUSY_TURNS + 1):
            self._pace.wait()
            extras = dict(self._extras)
            try:
                completion = client.complete(self._settings, {**body, **extras})
            except Busy as error:
                pause = self._backoff_s(turn) if error.seconds is None else error.seconds
                if pause > _PATIENCE_S:
                    raise Stop(f"{self._settings.url} asks to wait {pause / 60:.0f} min ({error}); run the same command again then") from None
                self._pace.pause(pause)
                continue
            except Refused as error:
                refused = [key for key in extras if key in str(error)]
                if not refused:
                    raise
                for key in refused:
                    self._extras.pop(key, None)
                continue
            self._unanswered = 0
            return completion
        raise TransportError(f"the endpoint was busy {_BUSY_TURNS} times")

    def _watch(self) -> None:
        """Stop where nothing has answered for many samples."""
        self._unanswered += 1
        if self._unanswered >= _DOWN:
            raise Stop(f"{self._settings.url} gave no answer to {self._unanswered} samples in a row; run the same command again when it does")

    def _backoff_s(self, turn: int) -> float:
        """Doubles, with a random share, so that threads don't come back together."""
        return min(self._first_wait_s * 2 ** (turn - 1), _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)


def _correction(completion: Completion, error: ReplyError) -> list[dict[str, Any]]:
    """What follows the question the next time: the last reply, and what is wrong with it."""
    text = f"That can't be used. {error}. Answer again with one JSON object that mends this."
    return [{"role": "assistant", "content": completion.text[:4000] or "(nothing)"}, {"role": "user", "content": text}]

