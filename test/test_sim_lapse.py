from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("libsumo", reason="needs the extra [sim]")
pytest.importorskip("shapely", reason="needs the extra [sim]")

from spanvla_ros.sim.driver import lapse as lapses
from spanvla_ros.sim.driver.lapse import KINDS, Careless
from spanvla_ros.sim.driver.style import Style
from spanvla_ros.sim.scenarios import scenario as scenarios
from spanvla_ros.sim.scenarios.family import FAMILIES
from spanvla_ros.sim.simulation import Simulation


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_driver_worse_than_the_usual(kind):
    for seed in range(5):
        style = lapses.style(kind, np.random.default_rng(seed))
        assert style != Style()
        assert style == lapses.style(kind, np.random.default_rng(seed))


def test_bias_leans_mostly_over_the_middle_of_the_road_on_either_side_of_it():
    for side in (1, -1):
        leans = [side * lapses.style("lane_bias", np.random.default_rng(k), side).lateral_bias_m > 0 for k in range(60)]
        assert 0.6 < np.mean(leans) < 0.95


def route(stops=(), curvature=0.0):
    return SimpleNamespace(start_s=10.0, end_s=100.0, path=SimpleNamespace(stops=stops, curvature=np.full(300, curvature)))


def test_only_what_the_route_offers():
    lamp = SimpleNamespace(s=50.0, signal=("J", 0))
    sign, behind = SimpleNamespace(s=50.0, signal=None), SimpleNamespace(s=150.0, signal=("J", 0))
    assert lapses._offered("red_run", route([lamp])) and not lapses._offered("red_run", route([sign, behind]))
    assert lapses._offered("corner_cutting", route(curvature=0.05)) and not lapses._offered("corner_cutting", route())
    for family in FAMILIES:
        for seed in (1, 3, 5):
            scenario = SimpleNamespace(family=family, seed=seed, route=route())
            found = lapses.kinds(scenario)
            assert found and set(found) <= set(KINDS) - {"red_run", "corner_cutting"}


def test_seeds_and_attempts_try_another_kind():
    scenario = SimpleNamespace(family="lane", seed=1, route=route())
    orders = [lapses.kinds(scenario, attempt) for attempt in range(3)]
    assert len({order[0] for order in orders[:2]}) == 2 and orders[2] == ("lane_bias", "hesitation")


def drive(seed, seconds=16.0):
    simulation = Simulation(scenarios.build("red", seed), render=False)
    simulation.reset()
    careless, log = Careless(simulation), []
    while simulation.time_s < seconds:
        good = simulation.expert.plan()
        trajectory = careless.plan(good)
        log.append((simulation.time_s, careless.active, trajectory is good.trajectory))
        simulation.advance(trajectory, 0.25)
    digest = simulation.state_hash
    simulation.close()
    return careless.lapse, log, digest


def test_a_lapse_comes_once_at_its_moment_lasts_seconds_and_is_repeatable():
    lapse, log, digest = drive(5001)
    assert lapse.kind == "red_run" and 4.0 <= lapse.start_s <= 15.0
    assert 3.0 <= lapse.end_s - lapse.start_s <= 6.5
    during = [lapse.start_s <= t < lapse.end_s for t, *_ in log]
    assert during == [active for _, active, _ in log]
    assert during == [not good for *_, good in log]
    again, _, same = drive(5001)
    assert again == lapse and same == digest
