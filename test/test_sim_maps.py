import gzip

import pytest

from spanvla_ros.contracts import ConfigError
from spanvla_ros.sim.roads import maps


@pytest.mark.parametrize("kind", maps.KINDS)
def test_seed_ranges_share_no_map(kind):
    train = {maps.map_id(kind, seed) for seed in range(5000)}
    validation = {maps.map_id(kind, seed) for seed in range(5000, 6000)}
    test = {maps.map_id(kind, seed) for seed in [*range(6000, 7000), 9000, 9001, 12345]}
    assert not train & validation and not (train | validation) & test
    assert test <= set(maps.committed())


def test_what_is_unknown_is_named():
    with pytest.raises(ConfigError, match="seed 7500"):
        maps.map_id("town", 7500)
    with pytest.raises(ConfigError, match="village"):
        maps.map_id("village", 3)
    with pytest.raises(ConfigError, match="village-6000"):
        maps.net_file("village-6000")
    with pytest.raises(ConfigError, match="town-x"):
        maps.xodr_file("town-x")


def test_benchmark_needs_no_generator(monkeypatch):
    monkeypatch.setattr(maps, "_netconvert", lambda: pytest.fail("netconvert was called"))
    for name in maps.committed():
        assert maps.net_file(name).stat().st_size < 100_000
        assert maps.xodr_file(name).stat().st_size < 150_000


@pytest.mark.parametrize("kind", maps.KINDS)
def test_generated_map_is_reproducible_and_anonymous(kind, tmp_path):
    pytest.importorskip("sumo")
    for folder in ("a", "b"):
        maps.generate(f"{kind}-30", tmp_path / folder)
    for suffix in ("net.xml.gz", "xodr.gz"):
        first, second = (tmp_path / folder / f"{kind}-30.{suffix}" for folder in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()
        text = gzip.decompress(first.read_bytes()).decode()
        assert "<!--" not in text and str(tmp_path) not in text and "date=" not in text


@pytest.mark.parametrize("name", maps.committed())
def test_committed_maps_are_what_the_generator_makes(name, tmp_path):
    pytest.importorskip("sumo")
    maps.generate(name, tmp_path)
    assert gzip.decompress((tmp_path / f"{name}.net.xml.gz").read_bytes()) == gzip.decompress(maps.net_file(name).read_bytes())
