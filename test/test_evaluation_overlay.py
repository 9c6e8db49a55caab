import numpy as np
import pytest

from spanvla_ros import geometry
from spanvla_ros.contracts import InputError
from spanvla_ros.evaluation.overlay import Camera, caption, draw_line, draw_plan

SIZE = (252, 448)
ROAD = geometry.constant_turn(10.0, 0.0, 0.5 * np.arange(1, 11))


def black():
    return np.zeros((*SIZE, 3), np.uint8)


def test_projection_of_known_points():
    camera = Camera.level(SIZE)
    # at camera height and straight ahead lies the principal point; 10 m ahead on the ground is f * 1.55 / 10 below it
    pixels, ahead = camera.project(np.array([[11.5, 0, 1.55], [11.5, 0, 0], [11.5, 1.0, 1.55], [-5, 0, 0]]))
    focal = 224 / np.tan(np.radians(35))
    np.testing.assert_allclose(pixels[:3], [[224, 126], [224, 126 + focal * 0.155], [224 - focal * 0.1, 126]])
    assert ahead.tolist() == [True, True, True, False]


def test_a_straight_plan_is_drawn_on_the_road_ahead():
    drawn = draw_plan(black(), Camera.level(SIZE), ROAD)
    rows, columns = np.nonzero(drawn.any(2))
    assert rows.min() > 126, "nothing above the horizon"
    assert abs(columns.mean() - 223.5) < 1
    assert not black().any()


def test_a_left_turn_leans_left_and_a_standing_car_draws_nothing():
    camera = Camera.level(SIZE)
    left = draw_plan(black(), camera, geometry.constant_turn(8.0, 0.15, 0.5 * np.arange(1, 11)))
    assert np.nonzero(left.any(2))[1].mean() < 200
    assert not draw_plan(black(), camera, np.zeros((10, 3))).any()


def test_pictures_of_another_size_are_refused():
    with pytest.raises(InputError, match="448x252"):
        draw_plan(np.zeros((100, 200, 3), np.uint8), Camera.level(SIZE), ROAD)


def test_line_and_caption():
    line = draw_line(black(), Camera.level(SIZE), ROAD)
    assert 0 < line.any(2).sum() < 2000
    short, long = caption(black(), ["one"]), caption(black(), ["one " * 60])
    assert short.shape[1] == long.shape[1] == 448 and long.shape[0] > short.shape[0] > 252
    assert caption(black(), ["one"], min_lines=4).shape[0] == caption(black(), ["a", "b", "c", "d"]).shape[0]
