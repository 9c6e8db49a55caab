"""What the pictures show, asked of the pixels: lamps, paint, actors, what hides what."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip("shapely")
pytest.importorskip("sumolib")
import shapely

from spanvla_ros.contracts import Command, ConfigError, SpanVLAError
from spanvla_ros.sim.actor import SIZES, STATIC, Actor
from spanvla_ros.sim.ego import EgoState
from spanvla_ros.sim.pictures import cells, look, scenery
from spanvla_ros.sim.pictures.camera import CAMERAS, FRONT
from spanvla_ros.sim.pictures.renderer import Renderer, encode
from spanvla_ros.sim.pictures.stage import Stage
from spanvla_ros.sim.roads import road
from spanvla_ros.sim.roads.road import HEAD_LAMPS_M

PITCHED = dataclasses.replace(FRONT, pitch_rad=math.radians(3.0), yaw_rad=math.radians(-2.0))


class Lamps:
    """Signals that all show one colour."""

    def __init__(self, colour: str = "green"):
        self.colour = colour

    def state(self, signal: tuple[str, int]) -> str:
        assert isinstance(signal[0], str) and isinstance(signal[1], int)
        return self.colour


@pytest.fixture(scope="module")
def town():
    try:
        Renderer.shared()
    except SpanVLAError as error:
        pytest.skip(str(error))
    return road.load("town-6001")


@pytest.fixture(scope="module")
def path(town):
    """Over the junction, straight on; it begins and ends on straight road near the junction."""
    start = next(
        lane.name
        for lane in town.lanes.values()
        if lane.junction is None and any(town.lanes[way].turn is Command.STRAIGHT for way in lane.successors)
    )
    ways = (town.path(names) for names in town.walks(start, 250.0, 6))
    return next(way for way in ways if way.stops[0].turn is Command.STRAIGHT)


@pytest.fixture
def stage(town):
    return Stage(town, 6001)


def ego_at(path, s: float) -> EgoState:
    x, y, yaw = path.pose(s)
    return EgoState(x=float(x), y=float(y), yaw=float(yaw), speed_mps=5.0, steer_rad=0.0)


def actor(kind: str, path, s: float, left_m: float = 0.0, turn: float = 0.0, **values) -> Actor:
    x, y, yaw = path.pose(s)
    length, width, height = SIZES[kind]
    values = {"name": kind, "speed_mps": 0.0, **values}
    x, y = float(x - left_m * math.sin(yaw)), float(y + left_m * math.cos(yaw))
    return Actor(kind=kind, x=x, y=y, yaw=float(yaw + turn), length_m=length, width_m=width, height_m=height, **values)


def shown(stage, ego, actors=(), camera=FRONT, colour="green", stamp_ns=0) -> np.ndarray:
    return stage.picture(camera, ego, actors, Lamps(colour), stamp_ns).astype(int)


def changed(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels v, u (N, 2) in which two pictures differ."""
    return np.argwhere(np.abs(picture - other).max(-1) > 12)


def bounds(camera, ego, thing: Actor, grown_m: float = 0.0) -> np.ndarray:
    """Lowest and highest v, u (2, 2) of an actor's box, `grown_m` wider all around."""
    grown = dataclasses.replace(thing, length_m=thing.length_m + 2 * grown_m, width_m=thing.width_m + 2 * grown_m)
    corners = np.column_stack([np.tile(grown.corners, (2, 1)), np.repeat([0.0, thing.height_m + grown_m], 4)])
    u, v, depth = camera.project(ego.pose, corners)
    assert depth.min() > 0.5
    return np.array([(v.min(), u.min()), (v.max(), u.max())])


def at(picture, camera, ego, points: np.ndarray) -> np.ndarray:
    """Colours (N, 3) of the pixels that show world points (N, 3)."""
    u, v, depth = camera.project(ego.pose, points)
    assert (depth > 0).all()
    return picture[v.astype(int), u.astype(int)]


def own_heads(town, path):
    yaw = path.pose(path.stops[0].s)[2]
    heads = [head for head in town.heads if head.tls == path.stops[0].signal[0] and abs(math.remainder(head.yaw - yaw, math.tau)) < 0.2]
    assert len(heads) == 2
    return heads


@pytest.mark.parametrize("camera", [FRONT, PITCHED], ids=["level", "pitched"])
@pytest.mark.parametrize("colour", ["red", "yellow", "green"])
def test_the_lit_lamp_shows_where_it_projects(town, path, stage, colour, camera):
    ego = ego_at(path, path.stops[0].s - 16.0)
    picture = shown(stage, ego, camera=camera, colour=colour)
    for head in own_heads(town, path):
        for lamp, height in HEAD_LAMPS_M.items():
            red, green, blue = at(picture, camera, ego, np.array([(*head.head[:2], head.head[2] + height)]))[0]
            if lamp != colour:
                assert max(red, green, blue) < 90
            elif lamp == "red":
                assert red > 200 and max(green, blue) < 80
            elif lamp == "yellow":
                assert min(red, green) > 160 and blue < 90
            else:
                assert green > 200 and max(red, blue) < 150


@pytest.mark.parametrize("name", look.LOOKS)
def test_paint_on_the_road_stands_out_in_every_look(town, path, name):
    """White and yellow pixels at projected points of the markings, grey ones between them."""
    ego = ego_at(path, path.stops[0].s - 24.0)
    picture = shown(Stage(town, 6001, name), ego)
    ahead, left = (grid.ravel() for grid in np.meshgrid(np.arange(6.0, 15.0, 0.1), np.arange(-5.0, 5.0, 0.03)))
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    points = np.column_stack([ego.x + cos * ahead - sin * left, ego.y + sin * ahead + cos * left, np.zeros(len(ahead))])
    u, v, _ = FRONT.project(ego.pose, points)
    points = points[(u > 2) & (u < FRONT.width - 2) & (v < FRONT.height - 2)]

    def colours(shape) -> np.ndarray:
        inside = points[shapely.contains_xy(shape, points[:, 0], points[:, 1])]
        assert len(inside) > 20
        return at(picture, FRONT, ego, inside)

    paint = shapely.union_all([town.white, town.yellow])
    white, yellow = colours(town.white.buffer(-0.05)), colours(town.yellow.buffer(-0.05))
    asphalt = colours(town.drivable.buffer(-0.3).difference(paint.buffer(0.3)))
    assert np.ptp(asphalt, axis=1).max() < 30
    contrast = {"day": 80, "overcast": 50, "fog": 40, "dusk": 45, "wet": 60}[name]
    assert np.mean(white.min(axis=1) > asphalt.mean() + contrast) > 0.9
    assert np.mean(yellow[:, 0] - yellow[:, 2] > 40) > 0.9


@pytest.mark.parametrize("kind", SIZES)
def test_actors_show_inside_their_boxes(path, stage, kind):
    for distance, turn in ((9.0 + SIZES[kind][0], 0.0), (9.0 + SIZES[kind][0], 1.2), (24.0, 2.4)):
        ego = ego_at(path, 60.0)
        # obstacles beside the road: on it they come with a sign
        left_m = -2.9 if kind in STATIC else 0.5
        thing = actor(kind, path, 61.5 + distance, left_m=left_m, turn=turn, gait_m=0.35, speed_mps=1.0, braking=True)
        seen = changed(shown(stage, ego, [thing]), shown(stage, ego))
        low, high = bounds(FRONT, ego, thing, grown_m=0.3 if kind == "pedestrian" else 0.12)
        assert ((seen >= low - 1.5) & (seen <= high + 1.5)).all()
        assert len(seen) > 0.3 * np.prod(np.ptp(bounds(FRONT, ego, thing), axis=0))


def test_a_pedestrian_shows_up_to_40_m_in_his_clothes(path, stage):
    ego = ego_at(path, path.stops[0].s - 38.0)
    for distance, least in ((10.0, 600), (20.0, 150), (40.0, 35)):
        for paint in range(10):
            person = actor("pedestrian", path, path.stops[0].s - 36.5 + distance, turn=1.57, paint=paint, speed_mps=1.2, gait_m=0.35)
            assert len(changed(shown(stage, ego, [person]), shown(stage, ego))) >= least
    near = [actor("pedestrian", path, path.stops[0].s - 28.0, paint=paint) for paint in range(10)]
    middles = [shown(stage, ego, [person])[125:140, 220:228].mean((0, 1)) for person in near]
    assert np.std(middles, axis=0).max() > 25


def test_legs_move_with_the_way_walked(path, stage):
    ego = ego_at(path, 60.0)

    def person(gait_m: float, speed_mps: float) -> np.ndarray:
        return shown(stage, ego, [actor("pedestrian", path, 70.0, turn=1.57, gait_m=gait_m, speed_mps=speed_mps)])

    assert len(changed(person(0.0, 1.3), person(0.35, 1.3))) > 60
    assert len(changed(person(0.0, 0.0), person(0.35, 0.0))) == 0


def test_an_occluded_car_is_hidden(path, stage):
    ego = ego_at(path, 60.0)
    car, truck = actor("car", path, 95.0, name="car"), actor("truck", path, 75.0, name="truck", paint=3)
    nothing, alone, blocked = shown(stage, ego), shown(stage, ego, [car]), shown(stage, ego, [truck])
    assert len(changed(alone, nothing)) > 100
    assert (shown(stage, ego, [car, truck]) == blocked).all()
    # beside the truck it shows again
    beside = dataclasses.replace(car, x=car.x - 5.0 * math.sin(ego.yaw), y=car.y + 5.0 * math.cos(ego.yaw))
    assert len(changed(shown(stage, ego, [beside, truck]), blocked)) > 60


def test_every_camera_sees_its_own_part(path, stage):
    ego = ego_at(path, 60.0)
    for degrees, seeing in ((55.0, {"front_left"}), (-55.0, {"front_right"}), (0.0, {"front"}), (27.0, {"front", "front_left"}), (180.0, set())):
        angle = ego.yaw + math.radians(degrees)
        place = {"x": ego.x + 1.5 + 14.0 * math.cos(angle), "y": ego.y + 14.0 * math.sin(angle)}
        person = dataclasses.replace(actor("pedestrian", path, 60.0), **place)
        found = {name for name, camera in CAMERAS.items() if len(changed(shown(stage, ego, [person], camera), shown(stage, ego, (), camera))) > 60}
        assert found == seeing, degrees


def test_indicators_blink_with_simulated_time(path, stage):
    ego = ego_at(path, 60.0)
    car = actor("car", path, 72.0, paint=4)
    off = shown(stage, ego, [car])
    for side in ("left", "right"):
        lit = {}
        for tenth in range(14):
            picture = shown(stage, ego, [dataclasses.replace(car, indicator=side)], stamp_ns=tenth * 100_000_000)
            lit[tenth] = changed(picture, off)
            if len(lit[tenth]):
                red, green, blue = np.median(picture[tuple(lit[tenth].T)], axis=0)
                assert red > 200 and 110 < green < 190 and blue < 70
                assert (np.sign(lit[tenth][:, 1] - FRONT.width / 2) == (-1 if side == "left" else 1)).all()
        assert [tenth for tenth in lit if len(lit[tenth]) > 40] == [0, 1, 2, 3, 7, 8, 9, 10]
        assert sum(len(pixels) > 0 for pixels in lit.values()) == 8


def test_road_works_are_announced_beside_the_road(town, path, stage):
    ego = ego_at(path, 60.0)
    cones = [actor("cone", path, s, left_m=-0.6, name=f"cone{s}") for s in (100.0, 103.0, 106.0)]
    without = shown(stage, ego, [dataclasses.replace(cone, kind="pedestrian") for cone in cones])
    picture = shown(stage, ego, cones)
    orange = np.argwhere((picture[..., 0] > 150) & (picture[..., 2] < 60) & (np.abs(picture - without).max(-1) > 20))
    assert len(orange) > 40
    sign = orange[orange[:, 0] < FRONT.height / 2]  # above the horizon: taller than the camera stands
    assert len(sign) > 20 and (sign[:, 1] > FRONT.width / 2).all()


def test_looks_differ_and_only_those_exist(town, path):
    ego = ego_at(path, path.stops[0].s - 20.0)
    pictures = {name: shown(Stage(town, 4, name), ego) for name in look.LOOKS}
    assert (pictures["day"] == shown(Stage(town, 4), ego)).all()
    for a in look.LOOKS:
        for b in look.LOOKS:
            assert a == b or np.abs(pictures[a] - pictures[b]).mean() > 3, (a, b)
    assert pictures["dusk"].mean() < 0.6 * pictures["day"].mean()
    assert np.ptp(pictures["fog"][60:120].mean(-1)) < np.ptp(pictures["day"][60:120].mean(-1)) + 40
    with pytest.raises(ConfigError, match="snow"):
        Stage(town, 4, "snow")


def test_pictures_depend_on_what_they_show_alone(town, path):
    """The same instant gives the same pixels, whatever was drawn before; actors and ego stay as they are."""
    ego = ego_at(path, 60.0)
    things = (actor("car", path, 80.0), actor("bicycle", path, 75.0, left_m=3.0, speed_mps=4.0, gait_m=2.0))
    first = shown(Stage(town, 7), ego, things)
    other = Stage(town, 8, "fog")
    for camera in CAMERAS.values():
        shown(other, ego_at(path, 90.0), things[:1], camera, "red", 350_000_000)
    assert (shown(Stage(town, 7), ego, things) == first).all()
    assert things == (actor("car", path, 80.0), actor("bicycle", path, 75.0, left_m=3.0, speed_mps=4.0, gait_m=2.0)) and ego == ego_at(path, 60.0)


def test_lower_quality_gives_smaller_files(path, stage):
    picture = stage.picture(FRONT, ego_at(path, 60.0), (), Lamps(), 0)
    assert len(encode(picture, 60)) < len(encode(picture)) == len(encode(picture, 90))


def test_scenery_keeps_clear_of_roads_and_pavements(town):
    houses, trees = scenery.layout(town)
    taken = shapely.union_all([town.drivable, town.sidewalk]).buffer(3.0)
    assert len(houses) > 15 and len(trees) > 80
    assert not any(taken.intersects(house.footprint) for house in houses)
    assert not any(taken.contains(shapely.Point(tree.x, tree.y)) for tree in trees)


@pytest.mark.parametrize("camera", [FRONT, PITCHED], ids=["level", "pitched"])
def test_cells_mark_what_the_picture_shows(town, path, camera):
    ego = ego_at(path, path.stops[0].s - 16.0)
    s = path.project(ego.pose)[0]
    marker = cells.Cells(town, path)
    person = actor("pedestrian", path, s + 12.0, left_m=0.8)
    cone, barrier = actor("cone", path, s + 9.0, left_m=-1.2), actor("barrier", path, s + 14.0, left_m=-1.5, turn=1.57)
    empty = marker.bits(camera, ego, s, (), Lamps("red"))
    bits = marker.bits(camera, ego, s, (person, cone, barrier), Lamps("red"))
    assert bits.shape == (18, 32) and bits.dtype == np.uint8
    for thing, bit in ((person, cells.PEDESTRIAN), (cone, cells.CONE), (barrier, cells.CONE)):
        v, u = bounds(camera, ego, thing).mean(axis=0)
        assert bits[int(v // cells.CELL_PX), int(u // cells.CELL_PX)] & bit
        assert not (empty & bit).any()
    for colour, bit in (("red", cells.STOP_LAMP), ("yellow", cells.STOP_LAMP), ("green", cells.GREEN_LAMP)):
        lamps = marker.bits(camera, ego, s, (), Lamps(colour)) & (cells.STOP_LAMP | cells.GREEN_LAMP)
        assert set(np.unique(lamps)) == {0, bit}
        for head in own_heads(town, path):
            u, v, _ = camera.project(ego.pose, np.array([(*head.head[:2], head.head[2] + HEAD_LAMPS_M[colour])]))
            assert lamps[int(v[0] // cells.CELL_PX), int(u[0] // cells.CELL_PX)]
    # behind the junction the signal matters no more
    behind = ego_at(path, path.stops[0].exit_s + 1.0)
    assert not (marker.bits(camera, behind, path.stops[0].exit_s + 1.0, (), Lamps("red")) & cells.STOP_LAMP).any()
    # road cells show the ground plane: asphalt below the horizon, in the corridor first
    column = bits[:, 15]
    assert column[-1] & cells.ROAD and column[-1] & cells.CORRIDOR
    horizon = camera.height / 2 - camera.focal_px * math.tan(camera.pitch_rad)
    assert not (empty[: int(horizon // cells.CELL_PX)] & cells.ROAD).any()


def test_cells_leave_out_what_a_house_hides(town, path):
    marker = cells.Cells(town, path)
    house = max(scenery.layout(town)[0], key=lambda h: h.size[0])
    (x, y), away = np.array([house.x, house.y]), np.array([math.cos(0.3), math.sin(0.3)])
    ego = EgoState(x=x - 25.0 * away[0], y=y - 25.0 * away[1], yaw=0.3, speed_mps=0.0, steer_rad=0.0)
    for distance, visible in ((25.0, False), (-14.0, True)):
        car = dataclasses.replace(actor("car", path, 0.0), x=float(x + distance * away[0]), y=float(y + distance * away[1]))
        assert bool((marker.bits(FRONT, ego, 0.0, (car,), Lamps()) & cells.VEHICLE).any()) is visible


@pytest.mark.parametrize(("control", "name"), [("stop", "left-6000"), ("yield", "ring-6000")])
def test_signs_tell_who_has_to_give_way(control, name):
    ring = road.load(name)
    lane = next(lane for lane in ring.lanes.values() if any(ring.lanes[way].control == control for way in lane.successors))
    x, y, yaw = scenery.beside(ring, lane, lane.length_m - 1.0)
    cos, sin = math.cos(yaw), math.sin(yaw)
    left = 2.6 * ring.side
    ego = EgoState(x=x - 14.0 * cos - left * sin, y=y - 14.0 * sin + left * cos, yaw=yaw, speed_mps=5.0, steer_rad=0.0)
    picture = shown(Stage(ring, 6000), ego)
    u, v, _ = FRONT.project(ego.pose, np.array([(x, y, 2.25)]))
    size = int(0.8 * 0.55 * FRONT.focal_px / 12.5)
    plate = picture[int(v[0]) - size : int(v[0]) + size, int(u[0]) - size : int(u[0]) + size]
    red = (plate[..., 0] > 130) & (plate[..., 1] < 90) & (plate[..., 2] < 90)
    white = plate.min(axis=-1) > 150
    assert red.mean() > 0.12 and white.mean() > 0.05
    assert white[size, size] and (red.mean() > 0.4) == (control == "stop")


def test_left_hand_traffic_has_its_posts_on_the_left(town):
    left = road.load("left-6000")
    lanes = [lane for lane in left.lanes.values() if lane.junction is None and lane.index == 0]
    for lane in lanes[:6]:
        x, y, yaw = scenery.beside(left, lane, lane.length_m / 2)
        middle = shapely.LineString(lane.baseline).interpolate(lane.length_m / 2)
        across = -math.sin(yaw) * (x - middle.x) + math.cos(yaw) * (y - middle.y)
        assert across > lane.width_m / 2 + 0.5
        assert left.drivable.distance(shapely.Point(x, y)) > 0.5
