import pytest

from spanvla_ros.contracts import ConfigError

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from spanvla_ros.sim.scenario import FAMILIES, parse_families, parse_seeds


def test_families_and_seeds_of_a_command_line():
    assert parse_families("all") == list(FAMILIES) and parse_families("red,lane") == ["red", "lane"]
    assert list(parse_seeds("6000:6002")) == [6000, 6001] and list(parse_seeds("0:50:20")) == [0, 20, 40]


@pytest.mark.parametrize(("parse", "text", "named"), [
    (parse_families, "lane,fog", "fog"), (parse_families, "", "nothing"),
    (parse_seeds, "7", "7"), (parse_seeds, "a:b", "a:b"), (parse_seeds, "5:5", "empty"), (parse_seeds, "0:9:0", "0:9:0"),
])
def test_wrong_ones_are_named(parse, text, named):
    with pytest.raises(ConfigError, match=named):
        parse(text)
