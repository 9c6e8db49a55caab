"""What an annotator answers: the four steps of the paper as one JSON object, checked before anything is made of it.

Steps (method section 6.4): all elements of the scene with their state -> those that matter for the ego -> a longitudinal and a
lateral decision from the closed space -> a concise trace. The keys stand in this order, so that a model that writes them in
order takes the steps one after the other.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from spanvla_ros.contracts import DataError
from spanvla_ros.planning.prompt import reasoning_text

MOST_ELEMENTS, MOST_CRITICAL, MOST_TRACE = 24, 5, 240
_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.DOTALL)
_SENTENCE = re.compile(r"[.!?]+(?:\s+|$)")
# what would break the form of the model's answer if it stood in the think block
_MARKUP = re.compile(r"[<>{}\x00-\x1f]|```")


class ReplyError(DataError):
    """A reply that nothing can be made of; the message says what is wrong with it, so that the annotator can mend it."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A checked reply. elements: {id, class, type, location, state}; critical: {element, kind: behavior | impact, text};
    trace is empty where nothing matters."""

    elements: tuple[Mapping[str, str], ...]
    critical: tuple[Mapping[str, str], ...]
    decision: Mapping[str, str]
    trace: str

    @property
    def components(self) -> list[dict[str, str]]:
        """`critical_components` of a record."""
        by_id = {element["id"]: element for element in self.elements}
        return [
            {**{key: by_id[c["element"]][key] for key in ("class", "type", "location")}, c["kind"]: c["text"]} for c in self.critical
        ]

    @property
    def reasoning(self) -> dict[str, str]:
        """`reasoning` of a record: fast where nothing matters, as in the simulator."""
        return {"mode": "slow", "text": reasoning_text(self.trace)} if self.critical else {"mode": "fast", "text": reasoning_text(None)}


@functools.cache
def record_schema() -> dict[str, Any]:
    """The schema of `mreasoning/1`: the closed sets stand there and nowhere else."""
    return json.loads(resources.files("spanvla_ros.data").joinpath("mreasoning_1.schema.json").read_text(encoding="utf-8"))


def closed(name: str) -> list[str]:
    """The closed set of "longitudinal" or "lateral" decisions, or of the "class" of components."""
    properties = record_schema()["properties"]
    where = properties["critical_components"]["items"] if name == "class" else properties["decision"]
    return list(where["properties"][name]["enum"])


@functools.cache
def schema() -> dict[str, Any]:
    """JSON schema of a reply; every key is required and none else allowed, as endpoints with structured output ask for."""

    def text(longest: int) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": longest}

    def thing(**properties: Any) -> dict[str, Any]:
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def several(item: dict[str, Any], most: int) -> dict[str, Any]:
        return {"type": "array", "items": item, "maxItems": most}

    element = thing(id=text(12), **{"class": {"enum": closed("class")}}, type=text(40), location=text(60), state=text(60))
    return thing(
        elements=several(element, MOST_ELEMENTS),
        critical=several(thing(element=text(12), kind={"enum": ["behavior", "impact"]}, text=text(80)), MOST_CRITICAL),
        decision=thing(longitudinal={"enum": closed("longitudinal")}, lateral={"enum": closed("lateral")}),
        trace={"type": "string", "maxLength": MOST_TRACE},
    )


def parse(text: str) -> Annotation:
    """The annotation in a reply, which may stand between code fences. ReplyError for anything else than a sound one."""
    import jsonschema

    if not text.strip():
        raise ReplyError("the reply is empty")
    fenced = _FENCE.match(text)
    try:
        reply = json.loads(fenced[1] if fenced else text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ReplyError(f"the reply is no JSON: {error}; it begins with {text.strip()[:40]!r}") from None
    error = next(jsonschema.Draft202012Validator(schema()).iter_errors(reply), None)
    if error is not None:
        raise ReplyError(f"{'/'.join(map(str, error.path)) or 'reply'}: {_short(error)}")
    trace = " ".join(reply["trace"].split())
    ids = [element["id"] for element in reply["elements"]]
    if len(set(ids)) < len(ids):
        raise ReplyError(f"elements: an id is there twice: {', '.join(ids)}")
    for k, entry in enumerate(reply["critical"]):
        if entry["element"] not in ids:
            raise ReplyError(f"critical/{k}: element '{entry['element']}' is none of the elements {', '.join(ids) or '(none)'}")
    if reply["critical"]:
        check_trace(trace)
    return Annotation(
        elements=tuple(reply["elements"]),
        critical=tuple(reply["critical"]),
        decision=reply["decision"],
        trace=trace if reply["critical"] else "",
    )


def check_trace(trace: str) -> None:
    """ReplyError unless it is one or two sentences that may stand in a think block."""
    if not trace:
        raise ReplyError("trace: it is empty, yet something matters")
    if len(trace) > MOST_TRACE:
        raise ReplyError(f"trace: {len(trace)} characters, at most {MOST_TRACE} are allowed")
    found = _MARKUP.search(trace)
    if found:
        raise ReplyError(f"trace: {found[0]!r} may not stand in it")
    # 12.5 m and e.g. are no ends; what follows the last stop counts where it says something
    sentences = [part for part in _SENTENCE.split(re.sub(r"\b(e\.g|i\.e|approx)\.", r"\1", trace)) if part.strip()]
    if len(sentences) > 2:
        raise ReplyError(f"trace: {len(sentences)} sentences, one or two are allowed")


def _short(error: Any) -> str:
    """The message of a schema error with the offending value cut, and what was allowed."""
    value = json.dumps(error.instance)
    value = value if len(value) <= 80 else f"{value[:77]}..."
    if error.validator == "enum":
        return f"{value} is none of {', '.join(error.validator_value)}"
    if error.validator in ("required", "additionalProperties"):
        return error.message[:160]
    return f"{value} breaks {error.validator} {error.validator_value}"
