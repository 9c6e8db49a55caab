from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from spanvla_ros.contracts import ConfigError, InputError, ModelSpec  # noqa: E402
from spanvla_ros.model import flow  # noqa: E402
from spanvla_ros.model.expert import tapped_layers  # noqa: E402
from spanvla_ros.model.tiny import build, tiny_spec  # noqa: E402
from spanvla_ros.planning import images  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return build(seed=5)


def variant(seed=5, **changes):
    """A tiny model of another bridge, every weight of its expert in use."""
    made = build(seed=seed)
    if "waypoints" in changes:
        changes["action_scale"] = ((1.0, 1.0, 0.3),) * changes["waypoints"]
        changes["waypoint_interval_s"] = 5 / changes["waypoints"]
    torch.manual_seed(seed)
    made.refit(dataclasses.replace(made.spec, **changes))
    for weight in made.expert.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return made.eval()


def conditions(model, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text, slots = model.architecture.text, model.spec.cache_tokens
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    kv = [(draw(batch, text.kv_heads, slots, text.head_dim), draw(batch, text.kv_heads, slots, text.head_dim)) for _ in model.spec.taps]
    valid = torch.rand(batch, slots, generator=generator) < 0.7
    return kv, valid, torch.tensor([60, 71, 90][:batch]), draw(batch, 19), draw(batch, model.spec.waypoints, 3)


def prompt(model, text="<start> user", width=None):
    """A batch of one prompt, padded to `width`."""
    vision = torch.arange(1, model.spec.vision_tokens + 1)
    words = torch.tensor(model.tokenizer.encode(" user front turn left ; speed 5 5 5 5 assistant").ids)
    ids, slot = (torch.cat(parts) for parts in ((torch.zeros_like(vision), words), (vision, torch.zeros_like(words))))
    spare = (width or len(ids)) - len(ids)
    pad = lambda row: torch.nn.functional.pad(row, (0, spare))[None]  # noqa: E731
    positions = pad(torch.arange(len(ids)))[None].expand(3, 1, -1)
    return pad(ids), pad(slot), positions, torch.tensor([len(ids)])


def pictures(model):
    generator = torch.Generator().manual_seed(1)
    spec = model.spec
    frames = torch.randint(0, 256, (len(spec.cameras), len(spec.frame_offsets_s), *spec.image_size, 3), generator=generator, dtype=torch.uint8)
    return torch.from_numpy(images.patchify(frames.numpy(), spec)).reshape(1, spec.groups, -1, 1176)


def test_paper_taps_18_of_36_layers():
    assert tapped_layers(36, 2) == tuple(range(0, 36, 2)) and len(tapped_layers(36, 2)) == 18
    assert [len(tapped_layers(36, k)) for k in (1, 4, "last")] == [36, 9, 1]
    assert tapped_layers(4, 2, 1) == (1, 3) and tapped_layers(4, "last") == (3,)


def test_candidates_equal_single_plans_and_read_one_cache(model, monkeypatch):
    kv, valid, position, ego, base = conditions(model)
    noise = torch.randn(3, 6, 10, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        many = model.sample(kv, valid, position, ego, base, noise, n=6)
        one = torch.stack([model.sample(kv, valid, position, ego, base, noise[:, k]) for k in range(6)], dim=1)
        again = [model.sample(kv, valid, position, ego, base, n=6, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert many.shape == (3, 6, 10, 3) and torch.allclose(many, one, atol=1e-5)
    assert torch.equal(*again) and (again[0][:, 0] - again[0][:, 1]).abs().max() > 1e-3
    seen = []
    monkeypatch.setattr("spanvla_ros.model.expert.attend", lambda q, k, v, m: seen.append(k) or q.transpose(1, 2).flatten(2))
    with torch.no_grad():
        model.sample(kv, valid, position, ego, base, n=6)
    assert seen[0] is kv[0][0]


@pytest.mark.parametrize("changes", [{}, {"head": "l1"}, {"source": "gaussian"}, {"waypoints": 50, "waypoints_per_token": 5}])
def test_plan_does_not_depend_on_padding(changes):
    model = variant(**changes)
    features = model.vision(pictures(model))
    ego, base = torch.randn(1, 19), torch.randn(1, model.spec.waypoints, 3)
    plans = []
    with torch.no_grad():
        for width in (None, 70, 112):
            decoded = model.decode_greedy(features, *prompt(model, width=width))
            plans.append(model.sample(model.tapped(decoded.kv), decoded.valid, decoded.next_position, ego, base))
    assert torch.allclose(plans[0], plans[1], atol=1e-5) and torch.allclose(plans[0], plans[2], atol=1e-5)
    assert plans[0].abs().max() > 0.1


@pytest.mark.parametrize("changes", [{}, {"head": "l1"}, {"source": "mlp"}])
def test_no_gradient_reaches_the_vlm_in_stage_two(changes):
    model = variant(**changes)
    model.requires_grad_(True)
    prefilled = model.prefill(model.vision(pictures(model)), *prompt(model))
    taps = model.tapped(prefilled.kv)
    assert taps[0][0].requires_grad
    valid = torch.ones(1, taps[0][0].shape[2])
    model.flow_loss(taps, valid, prefilled.start, torch.randn(1, 19), torch.zeros(1, 10, 3), torch.randn(1, 10, 3)).mean().backward()
    assert all(p.grad is None for p in model.vlm.parameters())
    assert model.expert.point_in.weight.grad.abs().max() > 0 and model.expert.blocks[0].cross_query.weight.grad.abs().max() > 0


def test_sources_start_where_they_say():
    ego = torch.randn(2, 19)
    assert torch.equal(variant(source="cv").expert.source_mean(ego), torch.zeros(2, 10, 3))
    assert variant(source="mlp").expert.source_mean(ego).abs().max() > 0
    for source, rolls_out in (("cv+mlp", True), ("cv", True), ("mlp", False), ("gaussian", False)):
        model = variant(source=source)
        kv, valid, position, ego3, base = conditions(model)
        with torch.no_grad():
            difference = model.sample(kv, valid, position, ego3, base + torch.tensor([5.0, 1.0, 0.1])) - model.sample(kv, valid, position, ego3, base)
        wanted = torch.tensor([5.0, 1.0, 0.1]) if rolls_out else torch.zeros(3)
        assert torch.allclose(difference[..., :2], wanted[:2].expand_as(difference[..., :2]), atol=1e-4), source


def test_fresh_expert_plans_the_roll_out_in_every_variant():
    for changes in ({}, {"source": "cv"}, {"head": "l1"}, {"kv_age": True}):
        model = build()
        model.refit(dataclasses.replace(model.spec, **changes))
        kv, valid, position, ego, base = conditions(model)
        with torch.no_grad():
            plan = model.sample(kv, valid, position, ego, base, age=torch.randn(3, 4) if model.spec.kv_age else None)
        assert torch.allclose(plan, flow.wrap_yaw(base), atol=1e-5)


def test_l1_head_is_one_pass_without_tau():
    model = variant(head="l1")
    assert model.expert.tau_in is None
    kv, valid, position, ego, base = conditions(model)
    with torch.no_grad():
        assert torch.equal(*(model.sample(kv, valid, position, ego, base, steps=steps) for steps in (1, 10)))
        plan = model.sample(kv, valid, position, ego, base)
        off = plan + model.action_scale * 0.5
        loss = model.flow_loss(kv, valid, position, ego, base, off)
    assert torch.allclose(loss, torch.full((3,), 0.5), atol=1e-4)


def test_age_is_asked_for_and_matters():
    model, plain = variant(kv_age=True), build()
    kv, valid, position, ego, base = conditions(model)
    with torch.no_grad():
        young, old = (model.sample(kv, valid, position, ego, base, age=torch.full((3, 4), value)) for value in (0.0, 1.0))
    assert (young - old).abs().max() > 1e-3
    with pytest.raises(InputError, match="needs age"):
        model.sample(kv, valid, position, ego, base)
    with pytest.raises(InputError, match="takes no age"):
        plain.sample(kv, valid, position, ego, base, age=torch.zeros(3, 4))


@pytest.mark.parametrize(
    "config",
    [flow.TauConfig(zero_share=0.0, distribution=name) for name in ("logit-normal", "truncated-normal", "beta")],
)
def test_tau_follows_its_distribution(config):
    tau = flow.sample_tau(50000, config, torch.Generator().manual_seed(0))
    assert 0 <= tau.min() and tau.max() <= 0.999
    # closed forms of the distribution function at some points
    phi = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731
    low, high = phi(-0.4 / 0.3), phi(0.599 / 0.3)
    expected = {
        "logit-normal": lambda t: phi(math.log(t / (1 - t)) + 0.5),
        "truncated-normal": lambda t: (phi((t - 0.4) / 0.3) - low) / (high - low),
        "beta": lambda t: 1 - (1 - t / 0.999) ** 1.5,
    }[config.distribution]
    for t in (0.1, 0.3, 0.6, 0.9):
        assert abs(float((tau <= t).float().mean()) - expected(t)) < 0.01
    assert abs(float((flow.sample_tau(20000, dataclasses.replace(config, zero_share=0.4)) == 0).float().mean()) - 0.4) < 0.02


def test_spec_of_before_keeps_its_hash_and_new_fields_travel():
    spec = tiny_spec()
    assert not {"source", "head", "kv_age", "waypoints_per_token"} & spec.to_dict().keys()
    other = dataclasses.replace(spec, source="gaussian", kv_age=True)
    assert other.sha256 != spec.sha256 and ModelSpec.from_dict(other.to_dict()) == other
    with pytest.raises(ConfigError, match="source is 'noise'; known are cv"):
        dataclasses.replace(spec, source="noise")


def test_fifty_waypoints_cost_little_more_than_ten():
    """Five waypoints per query: as many queries, so about as many operations; one per query costs more."""
    from torch.utils.flop_counter import FlopCounterMode

    from spanvla_ros.model.architecture import Architecture
    from spanvla_ros.share import share

    model = build(architecture=Architecture.load(share("config/model/demo.yaml")))

    def operations(**changes):
        model.refit(dataclasses.replace(model.spec, **changes, action_scale=((1.0, 1.0, 1.0),) * changes["waypoints"]))
        text, slots, spec = model.architecture.text, model.spec.cache_tokens, model.spec
        kv = [(torch.zeros(1, text.kv_heads, slots, text.head_dim),) * 2 for _ in range(text.layers)]
        scene = torch.zeros(1, model.architecture.expert.ego_features), torch.zeros(1, spec.waypoints, 3)
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model.sample(model.tapped(kv), torch.ones(1, slots), torch.tensor([slots]), *scene, steps=5)
        return counted.get_total_flops()

    ten = operations(waypoints=10, waypoint_interval_s=0.5, waypoints_per_token=1)
    assert operations(waypoints=50, waypoint_interval_s=0.1, waypoints_per_token=5) <= 1.1 * ten
    assert operations(waypoints=50, waypoint_interval_s=0.1, waypoints_per_token=1) > 1.5 * ten


def test_steps_are_equal_parts_of_the_way():
    seen = []
    flow.integrate(lambda point, tau: seen.append(float(tau[0])) or point, torch.zeros(1, 2, 3), 5)
    assert seen == pytest.approx([0, 0.2, 0.4, 0.6, 0.8]) and all(b > a for a, b in pairwise(seen))
