"""The back-end of torch and CUDA graphs: the same operations on a CPU without graphs, held against the reference."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from spanvla_ros.contracts import EngineError  # noqa: E402
from spanvla_ros.engine import parity  # noqa: E402
from spanvla_ros.engine.backends.torch import TorchBackend  # noqa: E402
from spanvla_ros.engine.backends.torch_cuda import BLOCK, TorchCudaBackend  # noqa: E402
from spanvla_ros.model import checkpoint, tiny  # noqa: E402
from spanvla_ros.model.fused import masks  # noqa: E402
from spanvla_ros.planning.preprocess import preprocess  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def model(**changes):
    torch.set_num_threads(1)
    return tiny.build(spec=dataclasses.replace(tiny.build().spec, **changes))


def reference(tmp_path, made):
    checkpoint.save(made, tmp_path / "model", torch.float32)
    return TorchBackend(tmp_path / "model", types.SimpleNamespace(spec=made.spec), made.tokenizer, 1)


def on_cpu(made, dtype=torch.float32):
    return TorchCudaBackend.on(made, device="cpu", dtype=dtype)


def prompts(made, count=2):
    found = [preprocess(o, made.spec, made.tokenizer) for o in parity.observations(made.spec, count)]
    if made.spec.kv_age:
        found = [{**prompt, "age": np.array([[0.4, 0.1, 0.0, 0.02]], np.float32)} for prompt in found]
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kv_age": True, "taps": (0, 1)},
        {"source": "gaussian", "head": "l1", "waypoints_per_token": 5},
        # a grid whose windows are ragged, and a picture of every camera before the next pair
        {"cameras": ("front", "left"), "frame_offsets_s": (-1.5, -1.0, -0.5, 0.0), "image_size": (84, 140), "prompt_tokens": 160},
    ],
)
def test_computes_what_the_reference_does(tmp_path, changes):
    made = model(**changes)
    found = parity.compare(made.spec, reference(tmp_path, made), on_cpu(made), prompts(made))
    assert found.tokens_equal and max(found.features, found.logits, found.waypoints) < 2e-5


def test_every_end_of_the_answer(tmp_path):
    """All budgets one after the other on the same prompt, as plans before, within and after the text have them."""
    made = model()
    sessions = reference(tmp_path, made), on_cpu(made)
    prompt = prompts(made, 1)[0]
    noise = np.ones((1, 10, 3), np.float32)
    for session in sessions:
        session.prefill(prompt)
    for budget in (13, 3, 0, 7, BLOCK, 12, 1):
        said, plans = zip(*((list(s.decode(budget)), s.flow(prompt, noise)) for s in sessions))
        assert said[0] == said[1]
        np.testing.assert_allclose(plans[0], plans[1], atol=2e-5)


def test_blocks_stop_at_the_end_of_what_is_asked():
    session = on_cpu(model())
    calls = []
    for name, work in session._graphs.items():
        session._graphs[name] = lambda name=name, work=work: (calls.append(name), work())
    session.prefill(prompts(model(), 1)[0])
    session._action_start = -7  # never said, so no answer ends by itself
    assert len(list(session.decode(6))) == 6
    assert calls == ["vision", "prefill", "block", "block", "close"]


def test_bfloat16_is_near():
    made = model()
    exact, rough = on_cpu(made), on_cpu(made, torch.bfloat16)
    prompt = prompts(made, 1)[0]
    plans = []
    for session in (exact, rough):
        session.prefill(prompt)
        plans.append(session.flow(prompt, np.zeros((1, 10, 3), np.float32)))
    error = np.linalg.norm(rough.features - exact.features) / np.linalg.norm(exact.features)
    assert 0 < error < 2e-2
    assert np.abs(plans[0] - plans[1]).max() < 0.05


def test_masks_open_prompt_and_answer():
    found = masks(torch.tensor([2]), prompt=4, slots=8, rows=3, dtype=torch.float32)[:, 0, 0]
    assert (found == 0).int().tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_clear_line(tmp_path):
    with pytest.raises(EngineError, match=r"torch \S+, built .*, finds no GPU; choose backend onnxruntime$"):
        TorchCudaBackend.on(model())
    # before anything is read
    with pytest.raises(EngineError, match="finds no GPU"):
        TorchCudaBackend(tmp_path / "nowhere", None, None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_recorded_equals_reference_on_the_gpu(tmp_path):
    made = model()
    session = TorchCudaBackend.on(made, dtype=torch.float32)
    found = parity.compare(made.spec, reference(tmp_path, made), session, prompts(made))
    assert found.tokens_equal and max(found.features, found.logits, found.waypoints) < 1e-3
    before = torch.cuda.memory_allocated()
    for prompt in prompts(made) * 50:
        session.prefill(prompt)
        list(session.decode(13))
        session.flow(prompt, np.zeros((1, 10, 3), np.float32))
    assert torch.cuda.memory_allocated() == before
