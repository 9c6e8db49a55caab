from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from spanvla_ros.contracts import ConfigError  # noqa: E402
from spanvla_ros.model import checkpoint, flow  # noqa: E402
from spanvla_ros.model.tiny import build  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return build(seed=5)


def conditions(model, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text, slots = model.architecture.text, model.spec.cache_tokens
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    kv = [(draw(batch, text.kv_heads, slots, text.head_dim), draw(batch, text.kv_heads, slots, text.head_dim)) for _ in model.spec.taps]
    valid = torch.rand(batch, slots, generator=generator) < 0.7
    return kv, valid, torch.tensor([60, 71, 90]), draw(batch, 19), draw(batch, 10, 3)


def test_euler_is_exact_on_a_straight_path():
    source, target = torch.randn(2, 10, 3), torch.randn(2, 10, 3)
    assert torch.allclose(flow.integrate(lambda point, tau: target - source, source, 5), target, atol=1e-6)


def test_residual_round_trip_wraps_yaw():
    scale = torch.rand(10, 3) + 0.1
    base, waypoints = torch.zeros(1, 10, 3), torch.randn(1, 10, 3)
    base[..., 2], waypoints[..., 2] = 3.1, -3.1
    residual = flow.to_residual(waypoints, base, scale)
    assert torch.allclose(residual[..., 2] * scale[:, 2], torch.tensor(2 * math.pi - 6.2), atol=1e-5)
    assert torch.allclose(flow.from_residual(residual, base, scale), waypoints, atol=1e-5)


def test_tau_has_its_share_of_zeros():
    tau = flow.sample_tau(20000, flow.TauConfig(zero_share=0.5), torch.Generator().manual_seed(0))
    assert abs((tau == 0).float().mean() - 0.5) < 0.02
    assert 0 <= tau.min() and tau.max() <= 0.999
    # the median of sigmoid(N(-0.5, 1))
    assert abs(tau[tau > 0].median() - 0.3775) < 0.02
    with pytest.raises(ConfigError, match="1.5"):
        flow.TauConfig(zero_share=1.5)


def test_perfect_field_has_no_loss_and_source_gets_no_gradient_from_the_target():
    source = torch.randn(4, 10, 3, requires_grad=True)
    noise, target, tau = torch.randn(4, 10, 3) * 0.1, torch.randn(4, 10, 3), torch.rand(4)
    velocity = target - source.detach() - noise
    assert flow.loss(lambda point, t: velocity, source, noise, target, tau).abs().max() == 0
    flow.loss(lambda point, t: torch.zeros_like(point) + 0 * point, source, noise, target, tau).sum().backward()
    assert source.grad.abs().max() == 0
    source.grad = None
    flow.loss(lambda point, t: point, source, noise, target, tau).sum().backward()
    assert source.grad.abs().max() > 0


def test_flow_learns_one_batch_and_leaves_the_vlm_alone():
    model = build(seed=6)
    kv, valid, position, ego, base = conditions(model)
    kv = [(k.requires_grad_(), v.requires_grad_()) for k, v in kv]
    waypoints = base + torch.randn(3, 10, 3, generator=torch.Generator().manual_seed(9)) * model.action_scale
    optimizer = torch.optim.Adam(model.expert.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        before = (model.sample(kv, valid, position, ego, base) - waypoints).abs().mean()
    for _ in range(300):
        optimizer.zero_grad()
        model.flow_loss(kv, valid, position, ego, base, waypoints, generator=generator).mean().backward()
        optimizer.step()
    with torch.no_grad():
        after = (model.sample(kv, valid, position, ego, base) - waypoints).abs().mean()
    assert after < 0.5 * before
    assert all(k.grad is None and v.grad is None for k, v in kv)


def test_expert_ignores_invalid_slots_and_sees_valid_ones(model):
    kv, valid, position, ego, base = conditions(model)
    with torch.no_grad():
        first = model.sample(kv, valid, position, ego, base)
        other = [(torch.where(valid[:, None, :, None], k, 7.0), torch.where(valid[:, None, :, None], v, -9.0)) for k, v in kv]
        assert torch.equal(first, model.sample(other, valid, position, ego, base))
        changed = [(k, v + 0.5) for k, v in kv]
        assert (first - model.sample(changed, valid, position, ego, base)).abs().max() > 1e-3
        assert (first - model.sample(kv, valid, position + 5, ego, base)).abs().max() > 1e-5
        assert (first - model.sample(kv, valid, position, ego, base, torch.ones(3, 10, 3))).abs().max() > 1e-3


def test_checkpoint_round_trip(model, tmp_path):
    checkpoint.save(model, tmp_path, torch.float32)
    again = checkpoint.load(tmp_path)
    assert again.spec == model.spec and again.architecture == model.architecture
    for name, value in checkpoint.weights(model).items():
        assert torch.equal(value, checkpoint.weights(again)[name])
    ids = torch.randint(20, 300, (1, 8))
    assert torch.equal(model.vlm.logits(model.vlm.decoder.embed_tokens(ids)), again.vlm.logits(again.vlm.decoder.embed_tokens(ids)))
    assert again.tokenizer.encode(" turn left").ids == model.tokenizer.encode(" turn left").ids


def test_checkpoint_errors_name_the_file(model, tmp_path):
    with pytest.raises(ConfigError, match="model.json"):
        checkpoint.load(tmp_path)
    checkpoint.save(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="model.safetensors"):
        checkpoint.load(tmp_path)


def test_switches_choose_what_learns():
    model = build()
    model.train_only(vision=False, text=True, expert=False)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns and all("language_model" in name for name in learns)
