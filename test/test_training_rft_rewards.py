"""Rewards at their bounds, advantages and divergence of hand-made groups, and the order of the samples."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("shapely")

from spanvla_ros.contracts import ConfigError, DataError  # noqa: E402
from spanvla_ros.planning.prompt import FAST_TEXT, SLOW_LEAD  # noqa: E402
from spanvla_ros.training import groups, grpo, rewards  # noqa: E402
from spanvla_ros.training.grpo import AdvantageConfig  # noqa: E402
from spanvla_ros.training.rewards import RewardConfig  # noqa: E402
from spanvla_ros.training.schedule import PUBLISHED, Phase, apportion, schedule  # noqa: E402

TIMES = 0.5 * np.arange(1, 11)


def straight(speed: float, left: float = 0.0) -> np.ndarray:
    return np.column_stack([speed * TIMES, np.full(10, left), 0 * TIMES])


def earned(label: str = "pos", texts: list[str] | None = None, whole: list[bool] | None = None, plans=None, **changes) -> rewards.Rewards:
    plans = np.stack([straight(8.0), straight(8.0, 1.7), straight(8.0, 0.85)]) if plans is None else plans
    count = len(plans)
    return rewards.reward(
        RewardConfig(**changes),
        label,
        score=np.linspace(1.0, 0.0, count),
        whole=np.array(whole or [True] * count),
        plans=plans,
        log=straight(8.0),
        texts=texts or [FAST_TEXT] * count,
        interval_s=0.5,
        speed_mps=8.0,
    )


def test_closeness_is_one_on_the_log_and_nothing_beyond_the_threshold():
    plans = np.stack([straight(8.0), straight(8.0, 0.85), straight(8.0, 1.7), straight(8.0, 50.0)])
    plans[0, :, 2] = 1.0  # headings don't count
    np.testing.assert_allclose(rewards.closeness(plans, straight(8.0), 1.7), [1, 0.5, 0, 0], atol=1e-9)


@pytest.mark.parametrize(("label", "sign"), [("pos", 0), ("neg", -1), ("rec", 1)])
def test_the_log_attracts_or_repels(label, sign):
    """Weight 5 and threshold 1.7 m (method section 5.2): on the log the whole weight, at the threshold none."""
    found = earned(label)
    np.testing.assert_allclose(found.negative + found.recovery, sign * np.array([5, 0, 2.5]), atol=1e-9)
    np.testing.assert_allclose(found.total, [10 + sign * 5, 5, sign * 2.5], atol=1e-9)
    assert not (found.recovery if sign < 0 else found.negative).any()


def test_constants_are_configurable():
    found = earned("neg", driving_weight=2.0, negative_weight=3.0, negative_threshold_m=3.4)
    np.testing.assert_allclose(found.total, [2 - 3, 1 - 1.5, -3 * 0.75], atol=1e-9)
    with pytest.raises(ConfigError, match="reward.recovery_threshold_m must be greater than 0, is 0"):
        RewardConfig(recovery_threshold_m=0)
    with pytest.raises(ConfigError, match="reward.driving_weight must not be negative, is -1"):
        RewardConfig(driving_weight=-1)


def test_what_came_to_no_end_earns_nothing_for_its_plan():
    found = earned("rec", whole=[False, True, True], texts=[FAST_TEXT] * 3)
    assert (found.driving[0], found.recovery[0], found.score[0], found.total[0]) == (0, 0, 0, 0)


def test_length_of_the_reasoning():
    config = RewardConfig()
    assert rewards.length_penalty(FAST_TEXT, config.length_gamma, config.length_tolerance) == 0
    short, even, long = (rewards.length_penalty("x" * n, config.length_gamma, config.length_tolerance) for n in (20, 200, 2000))
    assert short < even < long and even == 0.5 and long == pytest.approx(1 / (1 + math.exp(-3.6)))
    found = earned(texts=[FAST_TEXT, "x" * 200, "x" * 10**6])
    np.testing.assert_allclose(found.reasoning, [0, -1.5, -3], atol=1e-9)


def test_contradiction_replaces_the_length_penalty():
    """Text says stop, plan speeds up: -3 * 2, whatever the length."""
    speeding = np.stack([np.column_stack([8 * TIMES + 0.8 * TIMES**2, 0 * TIMES, 0 * TIMES])] * 2)
    words = f"{SLOW_LEAD} red lamp, stop at the line."
    found = earned(plans=speeding, texts=[words, "the lane is free, speed up."])
    assert found.contradicts.tolist() == [True, False] and found.reasoning[0] == -6
    assert -6 < found.reasoning[1] < 0
    # what came to no end has no plan to contradict it
    assert not earned(plans=speeding, texts=[words] * 2, whole=[False, True]).contradicts[0]


def test_driving_reward_is_the_score_and_drops_what_is_left_out():
    values = {name: np.array([v]) for name, v in {"nc": 1, "dac": 0.5, "ttc": 1, "ep": 0.4, "comfort": 0}.items()}
    assert rewards.driving("v1", values) == pytest.approx(0.5 * (5 * 1 + 5 * 0.4 + 0) / 12)
    assert rewards.driving("v1", {k: v for k, v in values.items() if k != "ep"}) == pytest.approx(0.5 * 5 / 7)
    second = {name: np.array([v]) for name, v in {"nc": 1, "dac": 1, "ddc": 0.5, "tlc": 1, "ttc": 1, "ep": 0.4, "lk": 1, "hc": 0, "ec": 1}.items()}
    assert rewards.driving("v2", second) == pytest.approx(0.5 * (5 + 2 + 2) / 14)


def test_rewards_stay_in_their_bounds():
    rng = np.random.default_rng(0)
    plans = np.stack([straight(v, left) for v, left in zip(rng.uniform(0, 15, 200), rng.normal(0, 2, 200))])
    texts = [words for words in (FAST_TEXT, "stop.", "x" * 5000, "speed up.") for _ in range(50)]
    for label, low, high in (("pos", -6, 10), ("neg", -11, 10), ("rec", -6, 15)):
        total = earned(label, texts, plans=plans).total
        assert low <= total.min() and total.max() <= high


def test_advantages_of_hand_made_groups():
    got = np.array([1.0, 2.0, 3.0, 6.0])
    config = AdvantageConfig()
    std = math.sqrt((4 + 1 + 0 + 9) / 3)
    np.testing.assert_allclose(grpo.advantages(got, got, config, 10.0), np.array([-2, -1, 0, 3]) / (std + 1e-4))
    np.testing.assert_allclose(grpo.advantages(got, got, AdvantageConfig(kind="nr"), 10.0), [-2, -1, 0, 3])


def test_equal_rewards_teach_nothing():
    got = np.full(64, 0.1) + 1e-17
    assert grpo.equal(got) and not grpo.advantages(got, got, AdvantageConfig(), 10.0).any()
    assert grpo.advantages(got, got, AdvantageConfig(kind="nr"), 10.0) == pytest.approx(np.zeros(64), abs=1e-9)
    assert not grpo.equal(np.array([0.1, 0.1, 0.11]))


def test_virtual_member_where_nobody_drives():
    """-r_v / (G + 1) for all where all rewards are 0; r_v is a score of 1 in units of the reward. None where one member drives."""
    zero = np.zeros(4)
    config = AdvantageConfig(kind="nr")
    np.testing.assert_allclose(grpo.advantages(zero, zero, config, 10.0), np.full(4, -2.0))
    words = np.array([-1.0, -1.0, -2.0, 0.0])
    np.testing.assert_allclose(grpo.advantages(words, zero, config, 10.0), words - 6 / 5)
    np.testing.assert_allclose(grpo.advantages(words, np.array([0, 0, 0, 1.0]), config, 10.0), words + 1)
    with pytest.raises(ConfigError, match=r"virtual_score must be in \(0, 1\], is 0"):
        AdvantageConfig(virtual_score=0)


def test_divergence_is_zero_at_the_reference_and_never_negative():
    policy = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert not grpo.divergence(policy, policy).any()
    assert (grpo.divergence(policy, policy + torch.linspace(-2, 2, 7)) >= 0).all()
    assert grpo.divergence(torch.tensor(-1.0), torch.tensor(-2.0)).item() == pytest.approx(math.exp(-1) + 1 - 1)


def test_divergence_estimates_kl():
    """Its mean under the policy is KL(policy, reference)."""
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.5, 0.2, 0.3]).log()
    exact = (policy.exp() * (policy - reference)).sum()
    assert (policy.exp() * grpo.divergence(policy, reference)).sum().item() == pytest.approx(exact.item(), abs=1e-6)


def test_loss_and_its_gradient_by_hand():
    """Two answers of three and one tokens: each counts the same; what was forced or padded counts nothing, even if it is no number."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, float("-inf"), 0.0]], requires_grad=True)
    reference = torch.tensor([[-1.0, -2.5, -3.0], [-1.5, 0.0, 0.0]])
    chosen = torch.tensor([[True, True, True], [True, False, False]])
    advantage = torch.tensor([2.0, -1.0])
    found = grpo.loss(log_probs.masked_fill(~chosen, 0.0), reference, advantage, chosen, beta=0.5)
    k = [0.0, math.exp(-0.5) + 0.5 - 1, 0.0], [math.exp(-0.5) + 0.5 - 1]
    kl = (sum(k[0]) / 3 + k[1][0]) / 2
    assert found["kl"].item() == pytest.approx(kl, abs=1e-6)
    assert found["loss"].item() == pytest.approx(-(2.0 - 1.0) / 2 + 0.5 * kl, abs=1e-6)
    found["loss"].backward()
    slope = 0.5 * (1 - math.exp(-0.5))
    wanted = [[-2 / 6, (-2 + slope) / 6, -2 / 6], [(1 + slope) / 2, 0, 0]]
    np.testing.assert_allclose(log_probs.grad.numpy(), wanted, atol=1e-6)


def test_published_recipe():
    """6000 groups: 2000 positive ones first, then 3000, 500 and 500 of each label, mixed."""
    pools = {label: start + np.arange(700) for label, start in (("pos", 0), ("neg", 1000), ("rec", 2000))}
    plan = schedule(PUBLISHED, pools, 6000, seed=0)
    labels = plan // 1000
    assert (labels[:2000] == 0).all() and np.bincount(labels[2000:]).tolist() == [3000, 500, 500]
    half = np.bincount(labels[2000:4000])
    assert abs(half[1] - 250) < 60 and abs(half[2] - 250) < 60
    # every sample before one comes twice
    assert len(set(plan[:700])) == 700 and len(set(plan[labels == 1])) == 500
    assert np.array_equal(plan, schedule(PUBLISHED, pools, 6000, seed=0)) and not np.array_equal(plan, schedule(PUBLISHED, pools, 6000, seed=1))


def test_shares_are_met_to_within_one():
    assert apportion(10, [1, 1, 1]) == [4, 3, 3] and apportion(0, [1, 0, 0]) == [0, 0, 0] and apportion(7, [0, 0, 2]) == [0, 0, 7]
    plan = schedule([Phase(samples=1, pos=1), Phase(samples=2, neg=1)], {"pos": np.array([5]), "neg": np.array([7])}, 10, 0)
    assert plan.tolist() == [5] * 3 + [7] * 7
    with pytest.raises(DataError, match="the schedule wants samples with label 'rec', the data has none"):
        schedule(PUBLISHED, {"pos": np.array([1]), "neg": np.array([2])}, 100, 0)
    with pytest.raises(ConfigError, match="shares of labels that are not all 0, has 3 with pos 0"):
        Phase(samples=3)


def test_plans_at_any_rate_are_scored_at_half_seconds():
    from spanvla_ros.model.tiny import tiny_spec

    spec = tiny_spec()
    dense = dataclasses.replace(spec, waypoints=50, waypoint_interval_s=0.1, action_scale=((1, 1, 1),) * 50)
    plans = np.arange(50, dtype=float)[None, :, None].repeat(3, 2)
    assert groups.half_seconds(plans, dense)[0, :, 0].tolist() == list(range(4, 50, 5))
    assert groups.half_seconds(plans[:, :10], spec).shape == (1, 10, 3)
    with pytest.raises(DataError, match="6 waypoints every 0.5 s have no 8 poses"):
        groups.half_seconds(plans[:, :6], dataclasses.replace(spec, waypoints=6, action_scale=((1, 1, 1),) * 6))
