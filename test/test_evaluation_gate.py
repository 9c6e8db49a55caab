import pytest

from spanvla_ros.contracts import ConfigError
from spanvla_ros.evaluation.gate import Gate, Limit, load
from spanvla_ros.evaluation.judgement import FIGURES
from spanvla_ros.planning import supervisor, validity
from spanvla_ros.share import share


def verdicts(limits, **figures):
    return [check.verdict for check in Gate(limits=limits).check(dict.fromkeys(FIGURES) | figures)]


def test_both_sides_of_a_limit_count_and_the_limit_itself_passes():
    limits = {"ade_3s_m": Limit(max=2.0), "comfort_share": Limit(min=0.9), "plans": Limit(min=10, max=20)}
    assert verdicts(limits, ade_3s_m=2.0, comfort_share=0.9, plans=20) == ["pass"] * 3
    assert verdicts(limits, ade_3s_m=2.01, comfort_share=0.89, plans=9) == ["fail"] * 3
    assert verdicts({"plans": Limit(min=10, max=20)}, plans=21) == ["fail"]


def test_a_figure_that_is_missing_or_no_number_fails():
    assert verdicts({"ade_5s_m": Limit(max=2.0)}) == ["fail"]
    assert verdicts({"ade_5s_m": Limit(max=2.0, missing="skip")}) == ["skipped"]
    assert verdicts({"ade_5s_m": Limit(max=2.0, missing="skip")}, ade_5s_m=float("nan")) == ["fail"]
    assert verdicts({"ade_5s_m": Limit(min=2.0)}, ade_5s_m=float("nan")) == ["fail"]


def test_the_gate_of_the_package_judges_by_the_defaults_of_the_node():
    gate = load(share("config/gates/default.yaml"))
    assert gate.supervisor == supervisor.Limits() and gate.validity == validity.Limits()
    assert {"ade_3s_m", "comfort_share", "invalid_share", "deadline_miss_share", "nominal_share", "contradiction_share", "latency_p95_ms"} <= set(
        gate.limits
    )
    assert gate.limits["comfort_share"].words("comfort_share") == "at least 90.0 %"
    assert Limit(min=1.0, max=2.0).words("ade_1s_m") == "at least 1.00 m and at most 2.00 m"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limits: {ade_3s: {max: 1}}", "limits.ade_3s is no figure; did you mean ade_3s_m?"),
        ("limits: {xyz: {max: 1}}", "there are plans, refused_share"),
        ("limits: {plans: {}}", "limits.plans has neither min nor max"),
        ("limits: {plans: {least: 1}}", "unknown key limits.plans.least"),
        ("limits: {plans: {min: many}}", "limits.plans.min must be a number, is 'many'"),
        ("limits: {plans: {min: 1, missing: maybe}}", "limits.plans.missing must be one of fail, skip, is 'maybe'"),
        ("supervisor: {deadline_s: 0}\nlimits: {plans: {min: 1}}", "deadline_s is 0.0, it must be above 0"),
        ("{}", "limits is empty, such a gate lets everything pass"),
    ],
)
def test_what_is_wrong_with_a_gate_is_said_in_one_line(tmp_path, text, words):
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "gate.yaml")
    assert words in str(error.value) and "gate.yaml" in str(error.value)
