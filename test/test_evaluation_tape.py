"""Pictures of a drive: clips, the view from above, drawings, and the report that holds them."""

import re
import struct
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from spanvla_ros.contracts import InputError
from spanvla_ros.evaluation import benchmark, birdview, sketch, suite, webp
from spanvla_ros.evaluation.tape import Box, Ground, Snapshot, Tape, rings

CAR = np.array([(2.5, 1.0), (-2.5, 1.0), (-2.5, -1.0), (2.5, -1.0)])


def square(x0, y0, x1, y1):
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


GROUND = Ground(
    drivable=[square(-20, -4, 120, 4)],
    sidewalk=[square(-20, 4, 120, 6)],
    white=[square(-20, -0.1, 120, 0.1)],
    yellow=[],
    route=np.column_stack([np.arange(0.0, 101.0), np.full(101, -2.0)]),
)
HIT = {"type": "collision_vehicle", "time_s": 8.0, "actor": "it", "at_fault": True, "impact_mps": 7.0}


def result(**changes):
    values = dict(
        family="lane",
        seed=6000,
        route_completion=0.8,
        driving_score_lb21=47.1,
        driving_score_lb20=48.0,
        success=False,
        at_fault=1,
        infractions=[HIT, {"type": "min_speed", "time_s": 10.0, "percent": 80.0}],
        ended="blocked",
        goal="route",
        duration_s=10.0,
        distance_m=80.0,
        smoothness=0.8,
        efficiency=80.0,
        neuroncap=0.5,
        map_id="town-6000",
        variant="",
        plans=90,
        refused=1,
        pdm={"plans": 4, "epdms": 0.5, "nc": 1.0},
        state_hash="abcdef0123456789",
    )
    return {**values, **changes}


def tape(jpeg=None, text="", **changes):
    shots = []
    for k in range(51):
        x = 1.6 * k
        boxes = (Box(name="it", kind="car", corners=CAR + [70, -2]), Box(name="man", kind="pedestrian", corners=CAR / 5 + [60 - k, 5.0]))
        plan = np.column_stack([x + np.arange(1.0, 11.0), np.full(10, -2.0), np.zeros(10)])
        shots.append(
            Snapshot(
                time_s=0.2 * k,
                pose=np.array([x, -2, 0.0]),
                speed_mps=8.0,
                footprint=CAR + [x + 1.4, -2],
                boxes=boxes,
                plan=plan,
                jpeg=jpeg,
                text=text,
            )
        )
    return Tape(result=result(**changes), ground=GROUND, snapshots=shots)


def frames_of(data):
    """Sizes of the ANMF chunks of an animated WebP."""
    assert data[:4] == b"RIFF" and data[8:12] == b"WEBP" and struct.unpack_from("<I", data, 4)[0] == len(data) - 8
    at, count = 12, 0
    while at < len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        count += data[at : at + 4] == b"ANMF"
        at += 8 + size + size % 2
    return count


def test_animation_plays_back():
    shades = [np.full((50, 81, 3), (20 * k, 100, 255 - 20 * k), np.uint8) for k in range(9)]
    data = webp.encode(shades, 120, quality=80)
    assert frames_of(data) == 9
    if hasattr(cv2, "imdecodeanimation"):
        _, film = cv2.imdecodeanimation(np.frombuffer(data, np.uint8))
        assert len(film.frames) == 9 and list(film.durations) == [120] * 9
        assert np.abs(film.frames[7][25, 40, 2::-1].astype(int) - [140, 100, 115]).max() < 6
    with pytest.raises(InputError):
        webp.encode([], 100)
    with pytest.raises(InputError, match="40x30 pixels in an animation of 81x50"):
        webp.encode([shades[0], np.zeros((30, 40, 3), np.uint8)], 100)


def test_from_above_with_the_car_at_its_place():
    now = tape().snapshots[10]
    picture = birdview.draw(GROUND, now, (200, 250), 62.0)
    scale = 250 / 62.0

    def at(ahead, left):
        return picture[round(0.72 * 250 - ahead * scale), round(100 - left * scale)].tolist()

    assert at(0.5, 0) == list(birdview.EGO) and at(0, 7.0) == list(birdview.WALK) and at(0, 20) == list(birdview.GRASS)
    assert at(-10, -1.2) == list(birdview.ROAD)
    # another 4 m on, the thing comes into sight; it is red once it was hit
    late = tape().snapshots[30]
    for marked, color in ((frozenset(), birdview.VEHICLE_COLOR), (frozenset({"it"}), birdview.HIT)):
        picture = birdview.draw(GROUND, late, (200, 250), 62.0, marked)
        assert at(22, 0.5) == list(color)


def test_clips_are_for_failures_and_show_the_moment():
    assert birdview.clip(tape(success=True)) is None
    inside = 1 + round((birdview.BEFORE_S + birdview.AFTER_S) / 0.2)
    assert abs(frames_of(birdview.clip(tape())) - inside) <= 1
    jpeg = cv2.imencode(".jpg", np.zeros((252, 448, 3), np.uint8))[1].tobytes()
    assert abs(frames_of(birdview.clip(tape(jpeg=jpeg, text="the road is free"))) - inside) <= 1


def test_a_caption_that_wraps_in_some_frames_is_no_obstacle():
    long = {"type": "left_the_lanes_of_its_own_direction_for_a_rather_long_way", "time_s": 8.0}
    assert frames_of(birdview.clip(tape(infractions=[long]))) == frames_of(birdview.clip(tape()))


def test_drawings_are_valid_and_number_what_went_wrong():
    for text in (sketch.from_above(tape()), sketch.speed(tape())):
        root = ElementTree.fromstring(text)
        assert [t.text for t in root.iter("{http://www.w3.org/2000/svg}text") if "font-weight" in t.get("style", "")] == ["1"]
        assert not re.search("nan|inf", text)
    assert len(sketch.from_above(tape())) < 6000
    ElementTree.fromstring(sketch.from_above(tape(success=True, infractions=[])))


def test_rings_of_areas():
    shapely = pytest.importorskip("shapely")
    holed = shapely.Point(0, 0).buffer(5).difference(shapely.Point(0, 0).buffer(2))
    assert len(rings(holed)) == 2 and len(rings(shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]))) == 2
    assert rings(shapely.Polygon()) == []


def summary(rows, **changes):
    values = dict(planner="expert", engine_hash=None, seeds="1:9", render="none", black=False, ros=False)
    values |= dict(benchmark.summarize(rows), plan_latency_ms=benchmark.latency([3.0, 4.0]), scenarios=rows)
    return {**values, **changes}


def pictures(row):
    made = tape(**row)
    found = {"top.svg": sketch.from_above(made).encode(), "speed.svg": sketch.speed(made).encode()}
    return found if row["success"] else {**found, "clip.webp": b"film"}


def test_report_is_one_file_with_every_family_and_episode():
    rows = [result(), result(seed=6001, success=True, infractions=[], driving_score_lb21=100.0), result(family="crash", variant="side<b>")]
    text = suite.page(summary(rows), pictures)
    assert not re.search(r"(src|href)=['\"](?!data:|#)", text), "something is loaded from elsewhere"
    assert text.count("data:image/webp") == 2 and text.count("<svg") == 6
    for needle in (
        "minisim DS (LB2.1)",
        "can't be compared with published CARLA",
        "collision vehicle at 8.0 s",
        "80 % of the traffic",
        "abcdef012345",
        "3.5 ms",
        "0.500",
    ):
        assert needle in text, needle
    assert "side&lt;b&gt;" in text
    for row in rows:
        assert f"id='{row['family']}-{row['seed']}'" in text
    assert set(re.findall(r"href='#([^']+)'", text)) <= set(re.findall(r"id='([^']+)'", text)), "a link leads nowhere"


def test_report_shows_the_worst_failures_of_every_family():
    rows = [result(seed=k, driving_score_lb21=float(k)) for k in range(9)]
    text = suite.page(summary(rows), pictures)
    assert text.count("data:image/webp") == suite.CLIPS_PER_FAMILY and "9 episodes did not succeed" in text
    assert [int(s) for s in re.findall(r"<figcaption><a href='#lane-(\d)'", text)] == [0, 1, 2]


def test_report_of_figures_that_are_missing():
    rows = [result(success=True, infractions=[], pdm=None, smoothness=None, efficiency=None)]
    text = suite.page(summary(rows, plan_latency_ms=None), lambda row: {})
    assert "None" not in text.replace("None: every episode", "") and "every episode ended as it should" in text
