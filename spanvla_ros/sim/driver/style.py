"""How somebody drives: the few numbers that tell a good driver from a bad one."""

from __future__ import annotations

from dataclasses import dataclass

from spanvla_ros.contracts import ConfigError


@dataclass(frozen=True, kw_only=True)
class Style:
    """Driving parameters; the defaults are the good driver, bad ones (see `lapse`) change some of them.

    cruise_share of the speed limit; headway_s and gap_m to a lead (gap when standing); comfortable accelerations
    [m/s^2]; late_braking_mps2: braking for lines, leads and people only starts once it has to be this hard (0 = early
    and smoothly); lateral_bias_m: off the planned line, left positive; cuts_corner_m: towards the inside of curves;
    clearance_share of the usual distance to what is passed; hesitates 0..1: share of the speed given away, from 0.5 on
    also a needless stop before every junction and obstacle; ignores_lamp: red and yellow; ignores_leads: whatever is
    ahead in the lane; ignores_priority: right of way at yield and stop lines, in turns and merges, people crossing.
    """

    cruise_share: float = 0.9364
    headway_s: float = 1.2
    gap_m: float = 3.5
    accelerate_mps2: float = 1.5
    brake_mps2: float = 2.0
    curve_acceleration_mps2: float = 1.9
    late_braking_mps2: float = 0.0
    lateral_bias_m: float = 0.0
    cuts_corner_m: float = 0.0
    clearance_share: float = 1.0
    hesitates: float = 0.0
    ignores_lamp: bool = False
    ignores_leads: bool = False
    ignores_priority: bool = False

    def __post_init__(self):
        for name in ("cruise_share", "headway_s", "gap_m", "accelerate_mps2", "brake_mps2", "curve_acceleration_mps2"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"style {name} must be positive, is {getattr(self, name)}")
        if not 0 <= self.hesitates < 1:
            raise ConfigError(f"style hesitates must be in [0, 1), is {self.hesitates}")
