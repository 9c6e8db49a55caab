"""Who can annotate: the protocol of all of them, and the rules of the simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from spanvla_ros.contracts import InputError
from spanvla_ros.data.annotation import reply
from spanvla_ros.data.annotation.reply import Annotation
from spanvla_ros.planning.prompt import FAST_TEXT, SLOW_LEAD


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An annotation and what it cost; cached: it was paid for earlier."""

    annotation: Annotation
    attempts: int = 1
    seconds: float = 0.0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cached: bool = False


class Annotator(Protocol):
    """Called by several threads at once."""

    identity: Mapping[str, Any]
    """What decides about its answers; stands in the data set and in every record."""

    def annotate(self, record: Mapping[str, Any], jpegs: Mapping[str, Sequence[bytes]]) -> Answer:
        """Raises SpanVLAError for a sample that can't be annotated, Stop where going on makes no sense."""


class Rules:
    """The simulator's own labels: what its expert saw, decided and said, through the same check as any reply."""

    identity = {"backend": "rules"}

    def annotate(self, record: Mapping[str, Any], jpegs: Mapping[str, Sequence[bytes]]) -> Answer:
        if record.get("provenance", {}).get("source") != "simulator":
            raise InputError(f"sample {record['id']} is not from the simulator, so there are no rules for it; use --backend endpoint")
        effects = [next((kind, c[kind]) for kind in ("behavior", "impact") if kind in c) for c in record["critical_components"]]
        text = record["reasoning"]["text"]
        document = {
            "elements": [
                {"id": f"e{k}", **{name: c[name] for name in ("class", "type", "location")}, "state": effect[1]}
                for k, (c, effect) in enumerate(zip(record["critical_components"], effects), 1)
            ],
            "critical": [{"element": f"e{k}", "kind": kind, "text": said} for k, (kind, said) in enumerate(effects, 1)],
            "decision": record["decision"],
            "trace": "" if text == FAST_TEXT else text.removeprefix(SLOW_LEAD).strip(),
        }
        return Answer(annotation=reply.parse(json.dumps(document)))
