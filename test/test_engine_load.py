"""Which back-end runs: by choice, by what the machine has, and by falling back only where that was asked for."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("onnxruntime")

from spanvla_ros.contracts import ConfigError, EngineError  # noqa: E402
from spanvla_ros.engine import load  # noqa: E402


class Broken:
    def __init__(self, *_):
        raise EngineError("this plan is for SM 87, the GPU is SM 90")


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine whose first choice is a back-end that can't load."""
    opener = load._opener
    monkeypatch.setattr(load, "BACKENDS", ("gpu", "onnxruntime", "torch"))
    monkeypatch.setattr(load, "_opener", lambda name: Broken if name == "gpu" else opener(name))


@pytest.mark.parametrize("backend", ["auto", "gpu"])
def test_a_broken_backend_is_an_error_unless_fallback_is_allowed(with_gpu, tiny_engine, backend):
    with pytest.raises(EngineError, match="SM 87"):
        load.load_planner(tiny_engine, backend)
    planner = load.load_planner(tiny_engine, backend, allow_fallback=True)
    assert planner.backend_name == "onnxruntime" and planner.passed_over == ("gpu: this plan is for SM 87, the GPU is SM 90",)
    planner.close()


def test_the_last_error_remains(with_gpu, tiny_engine, monkeypatch):
    monkeypatch.setattr(load, "_opener", lambda name: Broken)
    with pytest.raises(EngineError, match="SM 87"):
        load.load_backend(tiny_engine, allow_fallback=True)


def test_auto_takes_what_the_machine_has_and_says_so(with_gpu, tiny_engine, monkeypatch, caplog):
    monkeypatch.setitem(load.PROBES, "gpu", lambda folder: "no NVIDIA driver")
    with caplog.at_level(logging.INFO):
        *_, session = load.load_backend(tiny_engine)
    assert session.name == "onnxruntime" and session.passed_over == ()
    assert "backend onnxruntime; gpu: no NVIDIA driver" in caplog.text


def test_budget_is_checked_against_the_engine(tiny_engine):
    assert load.load_planner(tiny_engine, max_reasoning_tokens=3).max_reasoning_tokens == 3
    with pytest.raises(ConfigError, match="max_reasoning_tokens is 500, the model tiny has room for 0 to 12"):
        load.load_planner(tiny_engine, max_reasoning_tokens=500)
