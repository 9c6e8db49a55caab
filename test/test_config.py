from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spanvla_ros import config
from spanvla_ros.contracts import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1e-3
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    path: Path = Path("x")
    steps: int | None = None
    flag: bool = False
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.name == "bad":
            raise ConfigError("name is 'bad'")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: demo\ninner: {rate: 1e-4, sizes: [3]}\n")
    return path


def test_file_overrides_and_back(file):
    made = config.load(Outer, file, ["steps=5", "inner.pair=[2, 3]", "flag=true"])
    assert made == Outer(name="demo", steps=5, flag=True, inner=Inner(rate=1e-4, sizes=(3,), pair=(2.0, 3.0)))
    assert config.build(Outer, config.to_dict(made), "again") == made
    assert config.load(Outer, file, ["steps=null"]).steps is None


@pytest.mark.parametrize(
    "override, message",
    [
        ("stesp=5", r"stesp.*did you mean steps"),
        ("inner.rat=5", r"inner.rat=5: unknown key rat; did you mean rate"),
        ("steps=many", r"a.yaml \+ overrides: steps must be a whole number, is 'many'"),
        ("flag=1", r"flag must be true or false, is 1"),
        ("inner.pair=[1]", r"inner.pair must have 2 values, has 1"),
        ("inner.sizes=[1, a]", r"inner.sizes\[1\] must be a whole number, is 'a'"),
        ("name.x=1", r"name has no keys below it"),
        ("inner=3", r"inner must be a mapping"),
        ("steps", r"not of the form key=value"),
        ("name=[", r"not valid YAML"),
        ("name=null", r"name must be text, is empty"),
        ("name=bad", r"a.yaml.*name is 'bad'"),
    ],
)
def test_errors_name_place_key_value_and_nearest(file, override, message):
    with pytest.raises(ConfigError, match=message):
        config.load(Outer, file, [override])


def test_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        config.load(Outer, tmp_path / "none.yaml")
    path = tmp_path / "b.yaml"
    for text, message in (("- 1", "must hold a mapping"), ("a: [", "not valid YAML"), ("flag: true", "key name is missing"), ("naem: x", "did you mean name")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"b.yaml.*{message}"):
            config.load(Outer, path)


def test_shipped_training_configurations_load():
    pytest.importorskip("torch")
    from spanvla_ros.training.ablation import AblationConfig
    from spanvla_ros.training.ego import EgoConfig
    from spanvla_ros.training.expert import ExpertConfig
    from spanvla_ros.training.rft import RftConfig
    from spanvla_ros.training.vlm import VlmConfig

    kinds = {"vlm": VlmConfig, "expert": ExpertConfig, "ablation": AblationConfig, "mlp": EgoConfig, "rft": RftConfig, "figure": RftConfig}
    given = {"ablation": ["expert.vlm=any"], "rft": ["model=any"], "figure": ["model=any"]}
    folder = Path(__file__).resolve().parents[1] / "config/train"
    for path in folder.glob("*.yaml"):
        kind = path.stem.rpartition("_")[2]
        config.load(kinds[kind], path, given.get(kind, []))
