import pytest

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from spanvla_ros.sim.roads import road
from spanvla_ros.sim.signals import ALL_RED_S, YELLOW_S, Signals


@pytest.fixture(scope="module")
def town():
    return road.load("town-6000")


def links(town):
    return [lane.signal for lane in town.lanes.values() if lane.signal is not None]


def approach(town, signal):
    return next(lane.edge for lane in town.lanes.values() for name in lane.successors if town.lanes[name].signal == signal)


def test_split_plan_serves_one_approach_at_a_time_with_yellow_and_all_red_between(town):
    signals, seen, history = Signals(town, "split"), set(), []
    for _ in range(int(60 / 0.05)):
        green = {approach(town, link) for link in links(town) if signals.state(link) == "green"}
        yellow = {approach(town, link) for link in links(town) if signals.state(link) == "yellow"}
        assert len(green | yellow) <= 1
        seen |= green
        history.append("green" if green else "yellow" if yellow else "red")
        signals.step(0.05)
    assert seen == {approach(town, link) for link in links(town)}
    first = history.index("yellow")
    assert history[first : first + round(YELLOW_S / 0.05)] == ["yellow"] * round(YELLOW_S / 0.05)
    assert set(history[first + round(YELLOW_S / 0.05) : first + round((YELLOW_S + ALL_RED_S) / 0.05)]) == {"red"}


def test_conflicting_links_are_never_both_protected(town):
    """Whoever must yield to a connector that has green shows at most a permissive green in the net's own plan."""
    signals = Signals(town, "net")
    for _ in range(int(120 / 0.1)):
        for lane in town.lanes.values():
            if lane.signal is None or signals.letters[lane.signal[0]][lane.signal[1]] != "G":
                continue
            for name in lane.yields_to:
                other = town.lanes[name]
                assert other.signal is None or signals.letters[other.signal[0]][other.signal[1]] != "G", f"{lane.name} and {name}"
        signals.step(0.1)


@pytest.mark.parametrize("plan", ["net", "split"])
def test_a_hold_brings_and_keeps_a_colour(town, plan):
    signals, link = Signals(town, plan), links(town)[0]
    for wanted in ("red", "green", "red"):
        signals.hold(link, wanted)
        for _ in range(int(60 / 0.05)):
            signals.step(0.05)
        assert signals.state(link) == wanted
        for _ in range(int(90 / 0.05)):
            signals.step(0.05)
            assert signals.state(link) == wanted
    signals.hold(link, None)
    colours = set()
    for _ in range(int(120 / 0.05)):
        signals.step(0.05)
        colours.add(signals.state(link))
    assert colours == {"red", "yellow", "green"}
