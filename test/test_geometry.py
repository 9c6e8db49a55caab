import numpy as np
import pytest

from spanvla_ros import geometry

RNG = np.random.default_rng(0)


def test_local_and_global_are_inverse():
    for _ in range(50):
        origin = RNG.uniform(-100, 100, 3)
        poses = RNG.uniform(-3, 3, (7, 3))
        back = geometry.to_global(origin, geometry.to_local(origin, poses))
        np.testing.assert_allclose(back[:, :2], poses[:, :2], atol=1e-9)
        np.testing.assert_allclose(geometry.wrap(back[:, 2] - poses[:, 2]), 0, atol=1e-9)


def test_wrap_keeps_pi_and_range():
    assert geometry.wrap(np.pi) == pytest.approx(np.pi)
    assert geometry.wrap(-np.pi) == pytest.approx(np.pi)
    wrapped = geometry.wrap(RNG.uniform(-50, 50, 1000))
    assert (wrapped > -np.pi).all() and (wrapped <= np.pi).all()


def test_interpolation_takes_the_short_way_round():
    stamps, poses = np.array([0.0, 1.0]), np.array([[0, 0, 3.1], [2, 4, -3.1]])
    middle = geometry.interpolate_poses(stamps, poses, np.array([0.5]))[0]
    np.testing.assert_allclose(middle[:2], [1, 2])
    assert abs(middle[2]) > 3.1


def test_constant_turn_is_a_circle_and_a_line():
    times = np.linspace(0.5, 5, 10)
    np.testing.assert_allclose(geometry.constant_turn(7.0, 0.0, times), np.column_stack([7 * times, 0 * times, 0 * times]), atol=1e-12)
    arc = geometry.constant_turn(7.0, 0.5, times)
    np.testing.assert_allclose(np.hypot(arc[:, 0], arc[:, 1] - 14.0), 14.0, atol=1e-9)
    assert geometry.constant_turn(7.0, -0.5, times)[0, 1] < 0


def test_spline_hits_knots_with_given_slope_and_has_no_corner():
    knots = np.arange(6) * 0.5
    values = RNG.uniform(-5, 5, (6, 2))
    slope = np.array([3.0, -2.0])
    np.testing.assert_allclose(geometry.clamped_spline(knots, values, slope, knots), values, atol=1e-9)
    step = 1e-4
    near = geometry.clamped_spline(knots, values, slope, np.array([0.0, step]))
    np.testing.assert_allclose((near[1] - near[0]) / step, slope, atol=1e-2)
    for knot in knots[1:-1]:
        at = knot + step * np.array([-2, -1, 0, 1, 2])
        y = geometry.clamped_spline(knots, values, slope, at)
        second = np.diff(y, 2, axis=0) / step**2
        np.testing.assert_allclose(second[0], second[-1], atol=1.0)


def test_monotone_cubic_hits_its_knots_and_never_turns_back():
    knots = np.arange(8) * 0.5
    for _ in range(50):
        values = np.cumsum(np.maximum(RNG.normal(1, 2, 8), 0))
        fine = geometry.monotone_cubic(knots, values, RNG.uniform(0, 20), np.linspace(0, 3.5, 400))
        assert np.diff(fine).min() >= -1e-12
        np.testing.assert_allclose(geometry.monotone_cubic(knots, values, 1.0, knots), values, atol=1e-12)
