import pytest

from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation.benchmark import compare, latency, summarize


def row(family="lane", seed=1, score=100.0, **changes):
    values = dict(
        family=family,
        seed=seed,
        route_completion=1.0,
        driving_score_lb21=score,
        driving_score_lb20=score,
        success=score == 100,
        at_fault=0,
        infractions=[],
        distance_m=500.0,
        smoothness=1.0,
        efficiency=None,
        neuroncap=5.0,
        state_hash=f"{family}{seed}{score}",
    )
    return {**values, **changes}


def said(agrees, contradicts, unknown, **counts):
    return {"plans": agrees + contradicts + unknown, "agrees": agrees, "contradicts": contradicts, "unknown": unknown, **counts}


def test_figures_overall_and_per_family():
    hit = {"type": "collision_vehicle", "time_s": 1.0, "at_fault": True}
    rows = [
        row(infractions=[{"type": "min_speed", "time_s": 9.0, "percent": 90.0}], efficiency=90.0),
        row("crash", 1, 40.0, infractions=[hit, {"type": "red_light", "time_s": 2.0}], at_fault=1, neuroncap=1.0, smoothness=None),
        row("crash", 2, pdm={"plans": 3, "epdms": 0.5}, reasoning=said(7, 3, 0, complex=4, slow_in_complex=3, slow_in_free=1)),
        row("crash", 3, pdm={"plans": 1, "epdms": 0.9}, reasoning=said(2, 0, 0, complex=0, slow_in_complex=0, slow_in_free=1)),
    ]
    found = summarize(rows)
    assert found["episodes"] == 4 and found["driving_score_lb21"] == 85.0 and found["success_rate"] == 0.75
    # 2 km, two events; too slow is counted apart
    assert found["infractions_per_km"] == 1.0 and found["infractions"] == 2
    assert found["infractions_per_km_by_type"] == {"collision_vehicle": 0.5, "min_speed": 0.5, "red_light": 0.5}
    assert found["at_fault_collisions"] == 1 and found["collision_rate"] == 0.25 and found["efficiency"] == 90.0
    assert found["pdm"] == {"plans": 4, "epdms": 0.6}
    shares = {"agrees": 0.75, "contradicts": 0.25, "agreement": 0.75, "slow_in_complex": 0.75, "slow_in_free": 0.25}
    assert found["reasoning"] == {"plans": 12, **shares} and found["families"]["lane"]["reasoning"] is None
    assert list(found["families"]) == ["lane", "crash"] and found["families"]["lane"]["neuroncap_score"] is None
    assert found["families"]["crash"]["neuroncap_score"] == pytest.approx(11 / 3, abs=1e-3) == found["neuroncap_score"]
    assert summarize([]) == {"episodes": 0, "families": {}}


def test_latency():
    assert latency([]) is None
    assert latency([1.0, 2.0, 9.0]) == {"mean": 4.0, "p50": 2.0, "p95": pytest.approx(8.3)}


def test_comparison_is_paired_and_says_how_sure_it_is():
    one = {"scenarios": [row(seed=k, score=60.0 + k) for k in range(10)] + [row("red", 1)]}
    two = {"scenarios": [row(seed=k, score=70.0 + k) for k in range(10)] + [row("red", 1), row("red", 2)]}
    found = compare(one, two)
    assert found["common"] == 11 and found["only_first"] == 0 and found["only_second"] == 1 and found["identical"] == 1
    assert found["families"]["lane"] == {"mean": 10.0, "low": 10.0, "high": 10.0}
    assert found["difference"]["mean"] == pytest.approx(100 / 11, abs=1e-3) and 7 < found["difference"]["low"] < found["difference"]["high"] <= 10
    assert len(found["changed"]) == 10 and found["changed"][0]["gain"] == 10.0
    assert found["second"]["episodes"] == 11
    with pytest.raises(ConfigError, match="no scenario"):
        compare(one, {"scenarios": [row("lead", 5)]})
