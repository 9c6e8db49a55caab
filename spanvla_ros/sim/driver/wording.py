"""The words of the expert: for every topic the decisions it stands for, what matters, and several ways to say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spanvla_ros.sim.driver.decision import Lateral, Longitudinal

_L, _T = Longitudinal, Lateral


@dataclass(frozen=True, kw_only=True)
class Topic:
    """longitudinal decision; state: what the thing does ("behavior") or means for us ("impact"); thing: class and type where no actor
    is behind it; texts with {d} metres, {v} kind of actor, {side} left or right, {way} where a manoeuvre goes."""

    longitudinal: Longitudinal
    texts: tuple[str, ...]
    state: tuple[str, str] = ("behavior", "")
    thing: tuple[str, str] | None = None


_LAMP = ("Traffic Sign", "traffic light")
TOPICS: Mapping[str, Topic] = {
    "free": Topic(longitudinal=_L.SET_SPEED_TRACKING, texts=()),
    "red": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, thing=_LAMP, state=("behavior", "red"),
        texts=(
            "Red light ahead, stop at the line in {d} m.", "The light is red, brake for the line in {d} m.",
            "Red light in {d} m, slow down and stop.",
        ),
    ),
    "red_wait": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, thing=_LAMP, state=("behavior", "red"),
        texts=("The light is red, wait at the line.", "Red light, stay stopped at the line.", "Still red, keep standing before the line."),
    ),
    "yellow": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, thing=_LAMP, state=("behavior", "yellow"),
        texts=(
            "Yellow light ahead, stop at the line in {d} m.", "The light is yellow, brake for the line in {d} m.",
            "Yellow and far enough to stop, brake for the line in {d} m.",
        ),
    ),
    "green": Topic(
        longitudinal=_L.SET_SPEED_TRACKING, thing=_LAMP, state=("behavior", "green"),
        texts=("Green light ahead, drive on.", "The light is green, go through the junction.", "Green, the junction is ours, keep going."),
    ),
    "green_left": Topic(
        longitudinal=_L.SPEED_ADAPTATION, thing=_LAMP, state=("behavior", "green"),
        texts=("Green light, turn left at the junction.", "The light is green, go and turn left.", "Green, take the left turn slowly."),
    ),
    "green_right": Topic(
        longitudinal=_L.SPEED_ADAPTATION, thing=_LAMP, state=("behavior", "green"),
        texts=("Green light, turn right at the junction.", "The light is green, go and turn right.", "Green, take the right turn slowly."),
    ),
    "stop_sign": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, thing=("Traffic Sign", "stop sign"), state=("impact", "full stop at the line"),
        texts=(
            "Stop sign in {d} m, halt at the line.", "A stop sign ahead, come to a full stop in {d} m.",
            "Stop line with a stop sign in {d} m, brake to a halt.",
        ),
    ),
    "hesitation": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, thing=("Road Events", "junction"), state=("impact", "unsure whether to go"),
        texts=("A junction ahead, stop first to be sure.", "Not sure about the junction, stop before it.", "Stop before the junction and look."),
    ),
    "stopped": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, state=("behavior", "stopped in our lane"),
        texts=(
            "A stopped {v} blocks our lane in {d} m, brake.", "A {v} stands ahead in {d} m, stop behind it.",
            "The {v} {d} m ahead does not move, slow down and stop.",
        ),
    ),
    "stopped_wait": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, state=("behavior", "stopped in our lane"),
        texts=(
            "A stopped {v} is right ahead, wait behind it.", "A {v} stands right ahead, stay stopped.",
            "The {v} in front still stands, keep waiting.",
        ),
    ),
    "lead": Topic(
        longitudinal=_L.LEAD_FOLLOWING, state=("behavior", "driving ahead"),
        texts=("A {v} drives {d} m ahead, keep the gap.", "Follow the {v} ahead in {d} m.", "The {v} {d} m ahead is slower, adapt to it."),
    ),
    "lead_brakes": Topic(
        longitudinal=_L.LEAD_FOLLOWING, state=("behavior", "braking hard"),
        texts=(
            "The {v} ahead brakes, brake too and keep the gap.", "Brake lights of the {v} {d} m ahead, slow down at once.",
            "The {v} in front slows down hard, brake with it.",
        ),
    ),
    "cut_in": Topic(
        longitudinal=_L.LEAD_FOLLOWING, state=("behavior", "cutting in from the {side}"),
        texts=(
            "A {v} moves into our lane from the {side}, open the gap.", "A {v} cuts in from the {side}, ease off and let it in.",
            "The {v} on the {side} changes into our lane, slow down for it.",
        ),
    ),
    "pedestrian": Topic(
        longitudinal=_L.YIELD, state=("behavior", "walking into our way"),
        texts=(
            "A pedestrian crosses {d} m ahead, brake and let him pass.", "Somebody walks onto the road in {d} m, yield.",
            "A pedestrian steps into our way {d} m ahead, stop for him.",
        ),
    ),
    "pedestrian_wait": Topic(
        longitudinal=_L.YIELD, state=("behavior", "crossing before us"),
        texts=(
            "A pedestrian crosses right ahead, wait.", "Wait until the pedestrian has crossed.",
            "Somebody is walking before the car, stay stopped.",
        ),
    ),
    "people": Topic(
        longitudinal=_L.SPEED_ADAPTATION, state=("impact", "may step onto the road"),
        texts=(
            "Somebody stands near the lane, go past slowly.", "A pedestrian waits at the roadside, be ready to brake.",
            "A person close to our lane, reduce speed.",
        ),
    ),
    "hidden": Topic(
        longitudinal=_L.SPEED_ADAPTATION, state=("impact", "hides the kerb behind it"),
        texts=(
            "A parked {v} hides the kerb, pass slowly.", "Somebody could step out behind the {v} on the {side}, slow down.",
            "The {v} on the {side} blocks the view, reduce speed.",
        ),
    ),
    "give_way": Topic(
        longitudinal=_L.YIELD, state=("behavior", "approaching with right of way"),
        texts=(
            "A {v} with right of way comes from the {side}, give way.", "Give way to the {v} from the {side}, slow down.",
            "The {v} on the {side} has priority, brake for it.",
        ),
    ),
    "give_way_wait": Topic(
        longitudinal=_L.YIELD, state=("behavior", "approaching with right of way"),
        texts=("Crossing traffic has priority, wait at the line.", "A {v} comes from the {side}, wait for a gap.", "No gap yet, stay at the line."),
    ),
    "oncoming_turn": Topic(
        longitudinal=_L.YIELD, state=("behavior", "oncoming with right of way"),
        texts=(
            "An oncoming {v} goes first, slow down before the turn.", "Oncoming {v}, yield before turning {way}.",
            "The gap before the oncoming {v} is too small, let it pass.",
        ),
    ),
    "oncoming_turn_wait": Topic(
        longitudinal=_L.YIELD, state=("behavior", "oncoming with right of way"),
        texts=(
            "Wait for the oncoming {v} before turning {way}.", "Oncoming traffic leaves no gap, wait to turn {way}.",
            "Still an oncoming {v}, hold before the turn.",
        ),
    ),
    "runner": Topic(
        longitudinal=_L.YIELD, state=("behavior", "crossing without stopping"),
        texts=(
            "A {v} from the {side} does not stop, brake.", "The {v} on the {side} crosses our way, brake and let it pass.",
            "A {v} shoots across from the {side}, brake at once.",
        ),
    ),
    "oncoming": Topic(
        longitudinal=_L.YIELD, state=("behavior", "coming towards us in our lane"),
        texts=(
            "An oncoming {v} is in our lane, brake and keep aside.", "A {v} comes head-on in our lane, slow down and make room.",
            "The oncoming {v} drifts into our lane, brake.",
        ),
    ),
    "merge_gap": Topic(
        longitudinal=_L.GAP_SEARCHING, state=("behavior", "on the lane we want"),
        texts=(
            "A {v} is beside our merge, adapt the speed to a gap.", "Let the {v} pass, then merge behind it.",
            "No gap yet because of a {v}, slow down and merge after it.",
        ),
    ),
    "merge_gap_wait": Topic(
        longitudinal=_L.GAP_SEARCHING, state=("behavior", "on the lane we want"),
        texts=("Wait for a gap behind the {v}.", "The lane is taken by a {v}, wait before joining it.", "No gap yet, stay and let the {v} pass."),
    ),
    "merge": Topic(
        longitudinal=_L.SPEED_ADAPTATION, thing=("Lane", "acceleration lane"), state=("impact", "ends, merge {way}"),
        texts=("Our lane ends, merge {way} with the traffic.", "The gap is free, move over to the {way}.", "Merge {way} onto the main road."),
    ),
    "wait_to_pass": Topic(
        longitudinal=_L.YIELD, state=("impact", "narrows our lane"),
        texts=(
            "A {v} narrows our lane in {d} m and the other lane is taken, slow down and wait.", "No room beside the {v} yet, stop before it.",
            "The way past the {v} is not free, brake and let the others through.",
        ),
    ),
    "wait_to_pass_wait": Topic(
        longitudinal=_L.YIELD, state=("impact", "narrows our lane"),
        texts=(
            "Wait behind the {v} until the other lane is free.", "Others use the gap beside the {v}, keep waiting.",
            "The other lane is taken, stay behind the {v}.",
        ),
    ),
    "blocked": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, state=("impact", "closes the road"),
        texts=("The road is closed in {d} m, stop before it.", "A {v} blocks the whole road, brake and stop.", "No way past the {v} in {d} m, stop."),
    ),
    "blocked_wait": Topic(
        longitudinal=_L.STOP_FOR_STATIC_CONSTRAINTS, state=("impact", "closes the road"),
        texts=("The road is closed, stay stopped.", "A {v} blocks the whole road, keep standing.", "No way past the {v}, hold."),
    ),
    "nudge": Topic(
        longitudinal=_L.SPEED_ADAPTATION, state=("impact", "narrows our lane"),
        texts=(
            "A {v} on the {side}, keep a bit {way} in the lane.", "Make room for the {v} on the {side}, nudge {way}.",
            "The {v} on the {side} is close, move slightly {way}.",
        ),
    ),
    "pass": Topic(
        longitudinal=_L.SPEED_ADAPTATION, state=("impact", "takes part of our lane"),
        texts=(
            "A {v} blocks part of our lane and the other lane is free, pass on the {way}.", "The way is free, swing {way} around the {v}.",
            "Go around the {v} on the {way}, nobody is coming.",
        ),
    ),
    "change": Topic(
        longitudinal=_L.SPEED_ADAPTATION, state=("impact", "closes our lane"),
        texts=(
            "A {v} closes our lane, change to the {way} lane.", "The {way} lane is free, use it around the {v}.",
            "Move to the {way} lane to get past the {v}.",
        ),
    ),
    "overtake": Topic(
        longitudinal=_L.ACCELERATION_FOR_PASSING, state=("behavior", "driving slowly"),
        texts=(
            "A slow {v} ahead and the {way} lane is free, change and pass.", "Overtake the slow {v} on the {way}.",
            "The {v} is slow, use the {way} lane to pass it.",
        ),
    ),
    "return": Topic(
        longitudinal=_L.SET_SPEED_TRACKING, thing=("Ego states", "lane position"), state=("behavior", "back to our lane"),
        texts=("Past it, return to our lane on the {way}.", "The way is clear again, move back {way}.", "Go back to our own lane on the {way}."),
    ),
    "evade": Topic(
        longitudinal=_L.YIELD, state=("behavior", "coming towards us in our lane"),
        texts=(
            "An oncoming {v} is in our lane, brake and swerve {way}.", "A {v} comes head-on, brake and make room to the {way}.",
            "The oncoming {v} drifts over, keep {way} and brake.",
        ),
    ),
    "curve": Topic(
        longitudinal=_L.SPEED_ADAPTATION, thing=("Lane", "curve"), state=("behavior", "bends to the {side}"),
        texts=("The road bends to the {side}, slow down.", "Tight curve to the {side}, reduce speed.", "A curve to the {side}, take it slowly."),
    ),
    "turn": Topic(
        longitudinal=_L.SPEED_ADAPTATION, thing=("Lane", "junction"), state=("behavior", "turns to the {side}"),
        texts=(
            "Turn {side} through the junction slowly.", "In the junction, follow the turn to the {side}.",
            "The route turns {side} here, go slowly.",
        ),
    ),
    "recover": Topic(
        longitudinal=_L.SET_SPEED_TRACKING, thing=("Ego states", "lane position"), state=("behavior", "off centre to the {side}"),
        texts=(
            "Too far {side} in the lane, steer back to its centre.", "The car is off centre to the {side}, steer back.",
            "Off to the {side}, return to the middle of the lane.",
        ),
    ),
}  # fmt: skip
