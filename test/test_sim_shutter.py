import pytest

pytest.importorskip("libsumo", reason="needs the extra [sim]")

from spanvla_ros.sim.scenarios.scenario import Fault
from spanvla_ros.sim.shutter import Shutter

STEP = 100_000_000


def film(kind: str) -> dict[int, list[tuple[int, str]]]:
    """What arrives at each of ten exposures, of which those at 0.3, 0.4 and 0.5 s are faulty."""
    shutter = Shutter((Fault(kind=kind, at_s=0.3, until_s=0.6),))
    return {k: [(stamp // STEP, text) for stamp, text in shutter.expose("front", k * STEP, lambda k=k: f"picture {k}", lambda: "black")] for k in range(10)}


@pytest.mark.parametrize(("kind", "faulty"), [
    ("drop", {3: [], 4: [], 5: []}),
    ("black", {3: [(3, "black")], 4: [(4, "black")], 5: [(5, "black")]}),
    ("freeze", {3: [(3, "picture 2")], 4: [(4, "picture 2")], 5: [(5, "picture 2")]}),
    ("late", {3: [], 4: [(3, "picture 3")], 5: [(4, "picture 4")], 6: [(5, "picture 5"), (6, "picture 6")]}),
])  # fmt: skip
def test_faults_do_what_their_name_says_and_end(kind, faulty):
    arrived = film(kind)
    assert {k: v for k, v in arrived.items() if k in faulty} == faulty
    assert all(v == [(k, f"picture {k}")] for k, v in arrived.items() if k not in faulty)
