"""Poses: angles of the hinges in `anatomy.LIMITS`, drawn by families of movement.

An arm's upper arm points in a plane (0 sideways, 90 forwards, -40 backwards) at an
elevation (0 hanging, 90 level, 180 up); `roll` turns the forearm in (positive, across
the body) or out (negative, back or up). Degrees throughout.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from datasets.simulation.anatomy import LIMITS

Rng = np.random.Generator
Range = tuple[float, float]

# plane, elevation, roll, elbow flexion: ranges of each family of arm poses, and weight.
ARMS: dict[str, tuple[float, Range, Range, Range, Range]] = {
    "hanging": (6.0, (-30, 80), (3, 22), (-20, 60), (0, 45)),
    "on the hip": (0.8, (-30, 20), (25, 55), (20, 80), (60, 115)),
    "behind the back": (0.3, (-50, -20), (15, 40), (60, 90), (40, 100)),
    "sideways": (1.5, (-15, 35), (45, 110), (-60, 40), (0, 50)),
    "forwards": (1.8, (45, 110), (40, 110), (-40, 60), (0, 55)),
    "up": (1.4, (0, 100), (120, 174), (-60, 40), (0, 70)),
    "forearm up": (1.6, (-10, 60), (50, 105), (-90, -20), (50, 130)),
    "forearm before the body": (2.8, (0, 80), (5, 50), (20, 85), (60, 125)),
    "forearm forwards": (2.0, (0, 90), (5, 50), (-35, 25), (50, 120)),
    "arms crossed": (1.4, (50, 110), (25, 75), (45, 85), (75, 125)),
    "hand at the head": (1.2, (20, 100), (55, 125), (-50, 20), (105, 148)),
    "hand on the other shoulder": (0.7, (70, 125), (50, 95), (20, 80), (90, 140)),
    "across the body": (0.7, (95, 135), (45, 100), (0, 60), (0, 60)),
    "any": (1.0, (-40, 125), (0, 175), (-90, 85), (0, 145)),
}
ALIKE = 0.4  # share of poses in which both arms do the same


def _uniform(rng: Rng, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _sample_arm(rng: Rng, family: str) -> dict[str, float]:
    _, *ranges = ARMS[family]
    plane, elevation, roll, elbow = (_uniform(rng, *limits) for limits in ranges)
    return {
        "shoulder_plane": plane,
        "shoulder_elevation": elevation,
        "shoulder_twist": roll - plane,
        "elbow_flexion": elbow,
        "wrist_turn": rng.normal(0, 35),
        "wrist_flexion": rng.normal(0, 18),
    }


def _sided(right: dict[str, float], left: dict[str, float]) -> dict[str, float]:
    pairs = {"right": right, "left": left}
    return {f"{s}_{k}": v for s, motions in pairs.items() for k, v in motions.items()}


def _leg(flexion: float, knee: float, abduction: float = 2.0) -> dict[str, float]:
    """A leg whose sole stays level."""
    ankle = float(np.clip(flexion - knee, -25, 25))
    motions = {"hip_flexion": flexion, "hip_abduction": abduction}
    return motions | {"knee_flexion": knee, "ankle_flexion": ankle}


def _stand(rng: Rng) -> list[dict[str, float]]:
    apart = _uniform(rng, -3, 4) if rng.random() < 0.8 else _uniform(rng, 4, 22)
    bent = abs(rng.normal(8, 7)) + abs(rng.normal(0, 4, 2))
    return [_leg(b / 2 + rng.normal(0, 3), b, apart + rng.normal(0, 2)) for b in bent]


def _walk(rng: Rng) -> list[dict[str, float]]:
    stride, knee = _uniform(rng, 5, 32), _uniform(rng, 5, 65)
    return [_leg(stride, 0.4 * stride, 3), _leg(-0.5 * stride, knee, 3)]


def _raise_leg(rng: Rng) -> list[dict[str, float]]:
    flexion, straight = _uniform(rng, 20, 110), rng.random() < 0.3
    knee = _uniform(rng, 0, 30) if straight else flexion * _uniform(rng, 0.7, 1.25)
    raised = _leg(flexion, min(knee, 135), _uniform(rng, -8, 30))
    return [raised | {"ankle_flexion": rng.normal(10, 12)}, _leg(2, 4, 2)]


def _kick_aside(rng: Rng) -> list[dict[str, float]]:
    raised = _leg(rng.normal(5, 12), _uniform(rng, 0, 40), _uniform(rng, 20, 55))
    return [raised, _leg(2, 4, _uniform(rng, -4, 6))]


def _heel_up(rng: Rng) -> list[dict[str, float]]:
    back = _leg(_uniform(rng, -20, 25), _uniform(rng, 50, 120), 3)
    return [back | {"ankle_flexion": 30.0}, _leg(2, 5, 2)]


def _squat(rng: Rng) -> list[dict[str, float]]:
    flexion, apart = _uniform(rng, 20, 100), _uniform(rng, 4, 30)
    knee = flexion * _uniform(rng, 1.0, 1.3)
    return [_leg(flexion + e, min(knee + e, 140), apart) for e in rng.normal(0, 3, 2)]


def _lunge(rng: Rng) -> list[dict[str, float]]:
    if rng.random() < 0.4:  # aside
        apart = _uniform(rng, 15, 45)
        bent = _leg(_uniform(rng, 20, 60), _uniform(rng, 40, 85), apart)
        return [bent, _leg(0, 3, apart)]
    flexion = _uniform(rng, 30, 90)
    front = _leg(flexion, flexion * _uniform(rng, 0.9, 1.1), _uniform(rng, 2, 14))
    return [front, _leg(_uniform(rng, -30, 0), _uniform(rng, 5, 90), 5)]


def _any_legs(rng: Rng) -> list[dict[str, float]]:
    return [
        _leg(_uniform(rng, -20, 80), _uniform(rng, 0, 90), _uniform(rng, -5, 35))
        for _ in range(2)
    ]


LEGS: dict[Callable[[Rng], list[dict[str, float]]], float] = {
    _stand: 12.0,
    _walk: 2.0,
    _raise_leg: 1.6,
    _kick_aside: 0.4,
    _heel_up: 0.5,
    _squat: 0.9,
    _lunge: 1.4,
    _any_legs: 0.4,
}


@dataclasses.dataclass(frozen=True)
class Families:
    """What a person is doing.

    Attributes:
        arms: Names in `ARMS`, right and left.
        alike: Whether both arms do the same at the same angles.
        legs: A key of `LEGS`.
        swapped: Whether left and right legs change places.
    """

    arms: tuple[str, str]
    alike: bool
    legs: Callable[[Rng], list[dict[str, float]]]
    swapped: bool


def sample_families(rng: Rng) -> Families:
    """Draws what a person is doing."""
    odds = np.array([weight for weight, *_ in ARMS.values()])
    arms = rng.choice(len(ARMS), size=2, p=odds / odds.sum())
    right, left = (list(ARMS)[i] for i in arms)
    odds = np.array(list(LEGS.values()))
    legs = list(LEGS)[int(rng.choice(len(LEGS), p=odds / odds.sum()))]
    return Families((right, left), rng.random() < ALIKE, legs, rng.random() < 0.5)


def _sample_arms(rng: Rng, families: Families) -> dict[str, float]:
    right, left = (_sample_arm(rng, name) for name in families.arms)
    if families.alike:
        left = {hinge: angle + rng.normal(0, 6) for hinge, angle in right.items()}
    return _sided(right, left)


def _sample_legs(rng: Rng, families: Families) -> dict[str, float]:
    legs = [leg | {"hip_rotation": rng.normal(0, 9)} for leg in families.legs(rng)]
    return _sided(*(legs[::-1] if families.swapped else legs))


def _sample_spine(rng: Rng) -> dict[str, float]:
    bend = abs(rng.normal(0, 22)) if rng.random() < 0.12 else rng.normal(2, 4)
    tilt = rng.normal(0, 12 if rng.random() < 0.15 else 3)
    turn = rng.normal(0, 12 if rng.random() < 0.15 else 4)
    return {
        "lumbar_flexion": bend,
        "lumbar_tilt": tilt,
        "lumbar_turn": turn,
        "thoracic_flexion": 0.5 * bend + rng.normal(0, 3),
        "thoracic_tilt": 0.5 * tilt,
        "thoracic_turn": 0.7 * turn,
        "neck_flexion": rng.normal(0, 8),
        "neck_tilt": rng.normal(0, 5),
        "neck_turn": rng.normal(0, 22),
    }


def sample_pose(rng: Rng, families: Families) -> tuple[np.ndarray, np.ndarray]:
    """Draws a pose.

    Args:
        rng: Source of the angles.
        families: What the person is doing.

    Returns:
        The hinges' angles in the order of `LIMITS`, within them, and the lean of the
        pelvis [forwards, to the person's right], which the legs make up for; radians.
    """
    angles = _sample_spine(rng)
    angles |= _sample_arms(rng, families) | _sample_legs(rng, families)
    lean = np.array([rng.normal(2, 4), rng.normal(0, 3)])
    if rng.random() < 0.1:  # bowing from the hips
        lean[0] += abs(rng.normal(0, 25))
    for side, sign in (("right", 1), ("left", -1)):
        angles[f"{side}_hip_flexion"] += lean[0]
        angles[f"{side}_hip_abduction"] += sign * lean[1]
    low, high = np.array(list(LIMITS.values())).T
    hinges = np.clip([angles[name] for name in LIMITS], low, high)
    return np.radians(hinges), np.radians(lean)
