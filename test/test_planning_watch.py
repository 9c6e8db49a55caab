"""Which input is wrong, and how often its stamps were."""

from __future__ import annotations

from spanvla_ros.contracts import NS_PER_S
from spanvla_ros.planning.supervisor import Reason
from spanvla_ros.planning.watch import InputWatch

EPOCH_NS = 1_700_000_000 * NS_PER_S
TENTH_NS = NS_PER_S // 10


def test_watch_names_the_input_that_is_wrong():
    watch, now = InputWatch(("front", "left"), 0.3), EPOCH_NS
    assert watch.fault(now).reason is Reason.ODOMETRY_MISSING
    watch.odometry(now)
    watch.image("front", now)
    assert watch.fault(now) == (Reason.IMAGE_MISSING, "nothing on image/left yet")
    watch.image("left", now)
    assert watch.fault(now) is None
    later = now + 4 * TENTH_NS
    watch.odometry(later)
    watch.image("front", later)
    assert watch.fault(later) == (Reason.IMAGE_STALE, "image/left is 0.400 s old, allowed are 0.3 s")
    assert watch.ages_s(later) == {"image/front": 0.0, "image/left": 0.4, "odometry": 0.0}
    watch.invalid_odometry("twist.linear.x is nan")
    assert watch.fault(later) == (Reason.ODOMETRY_INVALID, "twist.linear.x is nan")
    watch.odometry(later + 100 * TENTH_NS)  # another clock
    assert watch.fault(later).reason is Reason.ODOMETRY_STALE


def test_duplicates_disorder_and_gaps_are_counted_and_an_old_message_makes_nothing_older():
    watch = InputWatch(("front",), 0.3)
    for tenths in (0, 1, 1, 3, 2, 10):
        watch.image("front", EPOCH_NS + tenths * TENTH_NS)
    assert str(watch.streams()["image/front"]) == "6 received, 1 duplicates, 1 out of order, 2 gaps, 0 ahead of the clock"
    assert watch.ages_s(EPOCH_NS + 10 * TENTH_NS)["image/front"] == 0.0
    for hundredths in (0, 20, 50):
        watch.odometry(EPOCH_NS + hundredths * TENTH_NS // 10)
    assert watch.streams()["odometry"].gaps == 1  # 0.25 s are interpolated


def test_a_stamp_ahead_of_the_clock_is_named_and_counted():
    watch = InputWatch(("front",), 0.3)
    assert watch.ahead("image/front", EPOCH_NS + 2 * TENTH_NS, EPOCH_NS) == ""
    assert "5.000 s ahead of the clock, allowed are 0.3 s" in watch.ahead("image/front", EPOCH_NS + 50 * TENTH_NS, EPOCH_NS)
    assert watch.ahead("odometry", EPOCH_NS + 50 * TENTH_NS, EPOCH_NS)
    assert [stream.ahead for stream in watch.streams().values()] == [1, 1]
