"""Properties of the PDM score, and what it says to bad input."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely import affinity

from spanvla_ros.contracts import DataError
from spanvla_ros.evaluation.pdm.comfort import extended_comfort
from spanvla_ros.evaluation.pdm.fixtures import read_fixture, scene_names
from spanvla_ros.evaluation.pdm.made_up import crossroads, plans
from spanvla_ros.evaluation.pdm.scene import Agents, Scene
from spanvla_ros.evaluation.pdm.scorer import score

FOLDER = Path(__file__).parent / "golden" / "pdm"
FIXTURES = [read_fixture(FOLDER, name) for name in scene_names(FOLDER)]
VERSIONS = ("v1", "v2")


def moved(scene: Scene, angle: float, shift: tuple[float, float]) -> Scene:
    """The whole scene after a rigid motion."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def states(values, velocity=False):
        result = values.copy()
        result[..., :2] = values[..., :2] @ turn.T + shift
        if values.shape[-1] > 2:
            result[..., 2] = values[..., 2] + angle
        if velocity:
            result[..., 3:5] = values[..., 3:5] @ turn.T
        return result

    def polygon(shape):
        return affinity.translate(affinity.rotate(shape, angle, origin=(0, 0), use_radians=True), *shift)

    return scene.changed(
        ego=states(scene.ego),
        areas=tuple(
            dataclasses.replace(area, polygon=polygon(area.polygon), baseline=None if area.baseline is None else states(area.baseline))
            for area in scene.areas
        ),
        centerline=states(scene.centerline),
        history=None if scene.history is None else states(scene.history),
        traffic={key: dataclasses.replace(agents, frames=states(agents.frames, True)) for key, agents in scene.traffic.items()},
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.scene.name)
def test_a_rigid_motion_of_everything_changes_no_score(fixture, version):
    before = score(fixture.scene, fixture.proposals, version)
    after = score(moved(fixture.scene, 1.1, (30.0, -70.0)), fixture.proposals, version)
    for name in before.values:
        np.testing.assert_allclose(after.values[name], before.values[name], atol=1e-6, err_msg=name)
    np.testing.assert_allclose(after.total, before.total, atol=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_ego_that_stays_at_rest_is_never_at_fault(version):
    for fixture in FIXTURES:
        ego = fixture.scene.ego.copy()
        ego[3:] = 0.0
        stay = np.zeros((1, 8, 3))
        # an agent on top of the ego, so that there is something to be at fault for
        frames = np.full((1, 51, 5), 0.0) + [*ego[:3], 3.0, 0.0]
        here = Agents(tokens=("here",), types=("VEHICLE",), sizes=np.array([[4.0, 2.0]]), frames=frames)
        for scene in (fixture.scene.changed(ego=ego), fixture.scene.changed(ego=ego, traffic={"v1": here, "v2": here})):
            assert score(scene, stay, version).values["nc"].tolist() == [1.0]


@pytest.mark.parametrize("version", VERSIONS)
def test_removing_an_agent_never_lowers_nc_or_ttc(version):
    changed = 0
    for fixture in FIXTURES:
        before = score(fixture.scene, fixture.proposals, version)
        for row in range(len(fixture.scene.traffic[version].tokens)):
            agents = fixture.scene.traffic[version]
            fewer = agents.without(np.arange(len(agents.tokens)) == row)
            scene = fixture.scene.changed(traffic={**fixture.scene.traffic, version: fewer})
            after = score(scene, fixture.proposals, version)
            for name in ("nc", "ttc"):
                assert (after.values[name] >= before.values[name]).all(), (scene.name, agents.tokens[row])
                changed += int((after.values[name] > before.values[name]).sum())
    assert changed > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_enlarging_the_drivable_area_never_lowers_dac(version):
    changed = 0
    for fixture in FIXTURES:
        before = score(fixture.scene, fixture.proposals, version)
        for margin in (0.3, 2.0, 10.0):
            layers = ("ROADBLOCK", "INTERSECTION", "CARPARK_AREA")
            grown = tuple(
                dataclasses.replace(area, polygon=area.polygon.buffer(margin)) if area.layer in layers else area for area in fixture.scene.areas
            )
            after = score(fixture.scene.changed(areas=grown), fixture.proposals, version)
            assert (after.values["dac"] >= before.values["dac"]).all()
            changed += int((after.values["dac"] > before.values["dac"]).sum())
    assert changed > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_group_gets_the_scores_of_its_members(version):
    scene, group = crossroads(), plans(16)
    together = score(scene, group, version)
    alone = [score(scene, group[[k]], version).total[0] for k in range(len(group))]
    np.testing.assert_allclose(together.total, alone, atol=1e-9)


def test_failures_name_step_and_object():
    scene = crossroads()
    straight = np.zeros((1, 8, 3))
    straight[0, :, 0] = 9.0 * 1.8 * 0.5 * np.arange(1, 9)
    failures = score(scene, straight, "v1").failures
    # 25 m behind a vehicle of 7 m/s, up to 16 m/s
    assert (failures["nc"][0].cause, failures["nc"][0].reason) == ("agent_0", "hit with the front")
    assert 20 < failures["nc"][0].step <= 40
    assert failures["ttc"][0].cause == "agent_0" and failures["ttc"][0].step < failures["nc"][0].step
    assert failures["dac"][0] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"centerline": np.zeros((0, 2))}, "centerline is of shape (0, 2)"),
        (lambda s: {"areas": ()}, "areas is empty"),
        (lambda s: {"areas": (dataclasses.replace(s.areas[0], polygon=shapely.Polygon()),)}, "ROADBLOCK block_west].polygon is empty"),
        (
            lambda s: {"areas": (dataclasses.replace(s.areas[0], polygon=shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])),)},
            "ROADBLOCK block_west].polygon is invalid: Self-intersection",
        ),
        (lambda s: {"ego": np.full(11, np.nan)}, "ego is not finite"),
        (lambda s: {"traffic": {**s.traffic, "v1": gap(s.traffic["v1"])}}, "traffic[v1][agent_2].frames is missing in frame 20"),
        (lambda s: {"traffic": {"v1": s.traffic["v2"], "v2": s.traffic["v2"]}}, "traffic[v1].frames is of shape (8, 41, 5)"),
        (lambda s: {"red_lights": ((),) * 40}, "red_lights is of 40 steps"),
    ],
)
def test_a_bad_scene_is_named_with_field_and_value(change, words):
    scene = crossroads()
    with pytest.raises(DataError) as error:
        scene.changed(**change(scene))
    assert words in str(error.value) and "scene crossroads" in str(error.value)


def gap(agents: Agents) -> Agents:
    frames = agents.frames.copy()
    frames[2, 20] = np.nan
    return dataclasses.replace(agents, frames=frames)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((2, 7, 3)), "plans is of shape (2, 7, 3)"),
        (np.zeros((8, 3)), "plans is of shape (8, 3)"),
        (np.where(np.arange(8)[:, None] == 5, np.nan, np.zeros((2, 8, 3))), "plans[0] waypoint 5 is not finite: [nan, nan, nan]"),
    ],
)
def test_a_bad_plan_is_named(bad, words):
    with pytest.raises(DataError) as error:
        score(crossroads(), bad, "v2")
    assert words in str(error.value) and "scene crossroads" in str(error.value)


def test_extended_comfort_is_perfect_for_the_same_drive():
    fixture = FIXTURES[0]
    states = score(fixture.scene, fixture.proposals, "v2").states
    later = np.concatenate([states[:, 5:], np.repeat(states[:, -1:], 5, axis=1)], axis=1)
    assert extended_comfort(later, states, 0.5).scores.tolist() == [1.0] * len(states)
    with pytest.raises(DataError, match="0.6 s apart"):
        extended_comfort(states, states, 0.6)
