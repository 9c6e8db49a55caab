"""The life of the KV cache, with arithmetic in place of a network."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import demo_spec

from spanvla_ros.contracts import EngineError
from spanvla_ros.engine.backends.session import Session

STOP = 7
SPEC = demo_spec(prompt_tokens=40, max_reasoning_tokens=4)


class Scripted(Session):
    """Says `answer` token by token; notes every write."""

    def __init__(self, answer):
        super().__init__(SPEC, STOP)
        self.answer, self.writes, self.flows = answer, [], []

    def _encode(self, prompt):
        self.writes.clear()
        return self.answer[0]

    def _append(self, token, position, slot):
        self.writes.append((token, position, slot))
        index = slot - SPEC.prompt_tokens + 1
        return self.answer[index] if index < len(self.answer) else 99

    def _trajectory(self, motion, noise, position):
        self.flows.append((position, self._valid[0].nonzero()[0].tolist()))
        return np.zeros((1, 10, 3))


def prompt(length=30):
    positions = np.zeros((3, 1, 40), np.int64)
    positions[:, 0, :length] = np.minimum(np.arange(length), 20)
    positions[:, 0, length:] = 500  # padding must not count
    return {
        "patches": np.zeros((1, 128, 1176), np.float32),
        "ids": np.zeros((1, 40), np.int64),
        "slot": np.zeros((1, 40), np.int64),
        "positions": positions,
        "length": np.array([length]),
    }


def started(answer):
    session = Scripted(answer)
    session.prefill(prompt())
    return session


def last_flow(session):
    session.flow({}, np.zeros((1, 10, 3)))
    return session.flows[-1]


def test_answer_ends_by_itself():
    session = started([11, 12, STOP])
    assert list(session.decode(4)) == [11, 12, STOP]
    assert session.writes == [(11, 21, 40), (12, 22, 41), (STOP, 23, 42)]
    assert last_flow(session) == (24, [*range(30), 40, 41, 42])
    assert len(session.writes) == 3


@pytest.mark.parametrize(("budget", "shown"), [(0, []), (2, [11, 12]), (4, [11, 12, 13, 14]), (9, [11, 12, 13, 14])])
def test_budget_is_kept_and_the_answer_closed(budget, shown):
    session = started([11, 12, 13, 14, 15, 16])
    assert list(session.decode(budget)) == shown
    assert [w[0] for w in session.writes] == [*shown, STOP]
    assert session.writes[-1][2] == 40 + len(shown) < SPEC.cache_tokens


def test_last_slot_takes_a_natural_end():
    assert list(started([11, 12, 13, 14, STOP]).decode(9)) == [11, 12, 13, 14, STOP]


def test_early_close_keeps_what_was_shown():
    session = started([11, 12, 13, STOP])
    tokens = session.decode(4)
    assert (next(tokens), next(tokens)) == (11, 12)
    tokens.close()
    assert [w[0] for w in session.writes] == [11, 12, STOP]
    assert last_flow(session) == (24, [*range(30), 40, 41, 42])


def test_plan_before_and_after_the_text():
    session = started([11, 12, STOP])
    assert last_flow(session) == (22, [*range(30), 40])
    assert list(session.decode(4)) == [11, 12, STOP]
    first = last_flow(session)
    assert first == last_flow(session) == (24, [*range(30), 40, 41, 42])


def test_flow_in_the_middle_ends_the_answer():
    session = started([11, 12, 13, STOP])
    tokens = session.decode(4)
    assert next(tokens) == 11
    assert last_flow(session)[1][-2:] == [40, 41]
    assert list(tokens) == []
    assert [w[0] for w in session.writes] == [11, STOP]


def test_forgotten_iterator_leaves_the_next_prompt_alone():
    session = started([11, 12, 13, STOP])
    old = session.decode(4)
    next(old)
    session.prefill(prompt(length=25))
    old.close()
    assert session.writes == []
    assert list(session.decode(4)) == [11, 12, 13, STOP]
    assert last_flow(session)[1] == [*range(25), 40, 41, 42, 43]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": np.zeros((1, 39), np.int64)}, r"'ids' has shape \(1, 39\).*\(1, 40\)"),
        ({"length": np.array([41])}, "length is 41"),
        ({"patches": np.zeros((2, 128, 1176), np.float32)}, "'patches'"),
    ],
)
def test_wrong_arrays_are_named(changes, message):
    with pytest.raises(EngineError, match=message):
        Scripted([STOP]).prefill({**prompt(), **changes})


def test_order_of_calls():
    session = Scripted([STOP])
    with pytest.raises(EngineError, match="call prefill first"):
        session.decode(3)
    with pytest.raises(EngineError, match="call prefill first"):
        session.flow({}, np.zeros((1, 10, 3)))
    with pytest.raises(EngineError, match="no array 'slot'"):
        session.prefill({k: v for k, v in prompt().items() if k != "slot"})


def test_closed_session_says_so():
    session = started([11, STOP])
    session.close()
    with pytest.raises(EngineError, match="was closed"):
        session.prefill(prompt())
    with pytest.raises(EngineError, match="call prefill first"):
        session.decode(3)
