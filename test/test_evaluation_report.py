import re

import cv2
import numpy as np
import pytest

from spanvla_ros.evaluation.recording import Drive, Moment
from spanvla_ros.evaluation.report import page

JPEG = cv2.imencode(".jpg", np.zeros((40, 80, 3), np.uint8))[1].tobytes()


def drive(**changes):
    times = np.arange(0, 5, 0.1)
    values = dict(
        result={"family": "lane", "seed": 6000, "route_completion": 0.98, "driving_score_lb21": 88.2, "infractions": []},
        times_s=times,
        poses=np.column_stack([3 * times, 7 * times, np.full(len(times), 1.1)]),
        speeds_mps=np.full(len(times), 7.6),
        route=np.array([[0.0, 0.0], [15.0, 35.0]]),
        plans=[np.array([[0.0, 0.0], [3.0, 7.0]])],
        states=[(0.0, "WAITING"), (1.5, "NOMINAL")],
        moments=[Moment(time_s=2.0, jpeg=JPEG, text="a <car> ahead & I stop")],
    )
    return Drive(**{**values, **changes})


def summary(**changes):
    scenario = {"family": "lane", "seed": 6000, "route_completion": 0.98, "driving_score_lb21": 88.2}
    values = dict(
        scenarios=[{**scenario, "infractions": [{"type": "red_light", "time_s": 12.3}]}, {**scenario, "infractions": []}],
        plans=412,
        plan_latency_ms={"p50": 41.0, "p95": 60.2, "p99": 71.0},
        planning_rate_hz=7.9,
        state_share={"NOMINAL": 0.97, "HOLD": 0.03},
        real_time_factor=0.8,
        black_image_change={"mean_m": 3.21, "max_m": 7.0, "n": 30, "identical": 29},
    )
    return {**values, **changes}


def test_page_is_one_file_with_every_number():
    text = page("Demo", "three families", summary(), [drive()])
    assert not re.search(r"(src|href)=['\"](?!data:)", text), "something is loaded from elsewhere"
    for needle in ("98%", "88.2", "red_light at 12.3 s", "none", "41 ms", "7.9", "97.0%", "3.21 m", "29 of 30", "lane 6000", "412"):
        assert needle in text, needle
    assert text.count("data:image/png") == 2 and text.count("data:image/jpeg") == 1


def test_texts_of_the_model_are_escaped():
    text = page("Demo", "", summary(), [drive()])
    assert "a &lt;car&gt; ahead &amp; I stop" in text and "<car>" not in text


@pytest.mark.parametrize("missing", ["plan_latency_ms", "state_share", "black_image_change", "real_time_factor"])
def test_what_was_not_measured_is_left_out(missing):
    assert "None" not in page("Demo", "", summary(**{missing: None}), [drive(route=np.empty((0, 2)), plans=(), states=(), moments=())])


def test_a_car_that_never_moved_can_be_reported():
    assert "lane" in page("Demo", "", summary(), [drive(poses=np.zeros((50, 3)), speeds_mps=np.zeros(50))])
