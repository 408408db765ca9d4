"""Poses of a hand's fingers: families, limits, contact with what is held.

A hand's own frame is anny's rest pose. Angles are radians; flexion is from a straight
finger towards the palm.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from datasets.hands.things import Thing

FINGERS = ("thumb", "index", "middle", "ring", "little")
THICKNESS_M = 0.0075  # half a finger's
FINGERS_APART_M = 0.008  # of two fingers' bones, less and they are in one another
TRIES = 30
# Flexion of the base, middle and end joint, lowest and highest, degrees.
LIMITS = np.radians([[-20, 90], [-5, 108], [-8, 80]])
THUMB_LIMITS = np.radians([[-10, 40], [-10, 58], [-25, 80]])
SPREAD = np.radians([0, 16, 4, -9, -18])  # of the four fingers of a hand spread wide
CLOSING = np.radians([5.0, 6.0, 4.0])  # of the three joints, a step towards a thing
STEPS = 20


class Fingers(NamedTuple):
    """How the fingers are bent.

    Attributes:
        flexion: [fingers, 3] of base, middle and end joint.
        aside: [fingers] of the base, towards the thumb; of the thumb away from the
            index finger, in the palm's plane.
        opposition: Of the thumb's base, out of the palm's plane.
    """

    flexion: Float[np.ndarray, "fingers=5 joints=3"]
    aside: Float[np.ndarray, "fingers=5"]
    opposition: float

    def towards(self, other: "Fingers", share: float) -> "Fingers":
        """Returns what is a part of the way to another."""
        stay = 1 - share
        return Fingers(
            stay * self.flexion + share * other.flexion,
            stay * self.aside + share * other.aside,
            stay * self.opposition + share * other.opposition,
        )


@dataclasses.dataclass(frozen=True)
class Hand:
    """The bones of one hand at rest.

    Attributes:
        wrist: [3] metres.
        chains: [fingers, 4, 3] base, middle, end joint and tip of each.
        along: [3] from the wrist to the middle finger's base.
        palm: [3] out of the palm.
        radial: [3] towards the thumb.
    """

    wrist: Float[np.ndarray, "xyz=3"]
    chains: Float[np.ndarray, "fingers=5 joints=4 xyz=3"]
    along: Float[np.ndarray, "xyz=3"]
    palm: Float[np.ndarray, "xyz=3"]
    radial: Float[np.ndarray, "xyz=3"]

    @classmethod
    def of(
        cls,
        wrist: Float[np.ndarray, "xyz=3"],
        chains: Float[np.ndarray, "fingers=5 joints=4 xyz=3"],
    ) -> "Hand":
        """Returns a hand of either side with the axes that its bones have."""
        along = _unit(chains[2, 0] - wrist)
        radial = chains[1, 0] - chains[4, 0]
        radial = _unit(radial - (radial @ along) * along)
        palm = np.cross(along, radial)
        # Fingers at rest are bent a little, towards the palm.
        bent = (chains[1:, 3] - chains[1:, 0]) @ palm
        return cls(wrist, chains, along, palm * np.sign(bent.mean()), radial)

    @property
    def axes(self) -> Float[np.ndarray, "fingers=5 xyz=3"]:
        """The axis about which each finger bends."""
        ways = self.chains[:, 3] - self.chains[:, 1]
        # The thumb bends across the palm, the others towards it.
        across = self.chains[4, 0] + 0.03 * self.palm - self.chains[0, 1]
        goals = np.stack([across, *[self.palm] * 4])
        axes = np.cross(ways, goals)
        return axes / np.linalg.norm(axes, axis=1, keepdims=True)

    @property
    def at_rest(self) -> Float[np.ndarray, "fingers=5 joints=3"]:
        """The flexion that the rest pose has."""
        before = np.concatenate(
            [self.chains[:, :1] - self.wrist, np.diff(self.chains, axis=1)], axis=1
        )
        before[0, 0] = before[0, 1]  # the thumb's base is at rest wherever it is
        axes = self.axes[:, None]
        flat = before - (before * axes).sum(axis=-1, keepdims=True) * axes
        first, second = flat[:, :-1], flat[:, 1:]
        sin = (np.cross(first, second) * axes).sum(axis=-1)
        return np.arctan2(sin, (first * second).sum(axis=-1))

    def rotations(
        self, fingers: Fingers
    ) -> Float[np.ndarray, "fingers=5 joints=3 3 3"]:
        """Returns how far each bone turns from rest, the hand itself staying."""
        axes = self.axes
        bends = fingers.flexion - self.at_rest
        turns = Rotation.from_rotvec((bends[..., None] * axes[:, None]).reshape(-1, 3))
        local = turns.as_matrix().reshape(5, 3, 3, 3)
        # Towards the thumb is the same way for a right hand as for a left one when it
        # is told by the hand's own axes.
        normal = np.cross(self.along, self.radial)
        spread = Rotation.from_rotvec(fingers.aside[:, None] * normal).as_matrix()
        opposed = Rotation.from_rotvec(
            fingers.opposition * np.cross(self.radial, self.palm)
        ).as_matrix()
        base = spread @ local[:, 0]
        base[0] = opposed @ base[0]
        middle = base @ local[:, 1]
        return np.stack([base, middle, middle @ local[:, 2]], axis=1)

    def joints(self, fingers: Fingers) -> Float[np.ndarray, "fingers=5 joints=4 xyz=3"]:
        """Returns where the joints and tips of the bent fingers are."""
        turned, bones = self.rotations(fingers), np.diff(self.chains, axis=1)
        moved = np.einsum("fjab,fjb->fja", turned, bones)
        ends = self.chains[:, :1] + np.cumsum(moved, axis=1)
        return np.concatenate([self.chains[:, :1], ends], axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def points_of(
    joints: np.ndarray,
) -> Float[np.ndarray, "fingers phalanges points xyz=3"]:
    """Returns points along each bone between joints [fingers, 4, 3]."""
    share = np.array([0.25, 0.5, 0.75, 1.0])[:, None]
    return joints[:, :-1, None] * (1 - share) + joints[:, 1:, None] * share


def entangled(hand: Hand, fingers: Fingers) -> np.ndarray:
    """Returns which fingers [fingers] are in another one, or in the palm."""
    # The base bones of neighbours are as close as the hand is made.
    ends = points_of(hand.joints(fingers))[:, 1:].reshape(5, -1, 3)
    is_in = np.zeros(5, bool)
    for first in range(5):
        for second in range(first + 1, 5):
            gaps = np.linalg.norm(ends[first][:, None] - ends[second][None], axis=-1)
            if gaps.min() < FINGERS_APART_M:
                is_in[[first, second]] = True
    # Points of the metacarpal bones: fingertips are not in them.
    share = np.linspace(0.15, 0.9, 4)[:, None]
    bones = hand.wrist + share * (hand.chains[1:, None, 0] - hand.wrist)
    gaps = np.linalg.norm(ends[:, :, None] - bones.reshape(1, 1, -1, 3), axis=-1)
    return is_in | (gaps.min(axis=(1, 2)) < FINGERS_APART_M)


def untangled(hand: Hand, fingers: Fingers) -> Fingers | None:
    """Returns fingers opened a little, the thumb lifted, until none is in another.

    None if that does not help.
    """
    for _ in range(TRIES):
        is_in = entangled(hand, fingers)
        if not is_in.any():
            return fingers
        flexion = fingers.flexion.copy()
        flexion[is_in] *= 0.93
        opposition = fingers.opposition + np.radians(4.0) * is_in[0]
        fingers = limited(fingers._replace(flexion=flexion, opposition=opposition))
    return None


def straight(rng: np.random.Generator, deviation_deg: float = 6.0) -> Fingers:
    """Draws fingers that are all but straight."""
    flexion = np.radians(np.abs(rng.normal(0, deviation_deg, (5, 3))))
    wide = rng.uniform(-0.15, 1.0)
    aside = wide * SPREAD + np.radians(rng.normal(0, 2, 5))
    aside[0] = np.radians(rng.uniform(-10, 40))
    return Fingers(flexion, aside, float(np.radians(rng.uniform(-5, 45))))


def bent(rng: np.random.Generator) -> Fingers:
    """Draws a fist."""
    flexion = np.radians(rng.normal((78, 95, 55), (8, 7, 10), (5, 3)))
    flexion[0] = np.radians(rng.uniform((5, 20, 10), (30, 50, 60)))
    aside = np.radians(rng.normal(0, 2, 5))
    aside[0] = np.radians(rng.uniform(-20, 15))
    return Fingers(flexion, aside, float(np.radians(rng.uniform(25, 60))))


def relaxed(rng: np.random.Generator) -> Fingers:
    """Draws fingers bent alike, more towards the little one."""
    level, slope = rng.uniform(5, 65), rng.uniform(-3, 10)
    of_finger = level + slope * np.arange(-1, 4) + rng.normal(0, 5, 5)
    flexion = np.radians(np.stack([0.7 * of_finger, of_finger, 0.6 * of_finger], 1))
    flexion[0] = np.radians(rng.uniform((-5, 0, 0), (25, 35, 45)))
    aside = rng.uniform(-0.2, 0.6) * SPREAD
    aside[0] = np.radians(rng.uniform(-15, 30))
    return Fingers(flexion, aside, float(np.radians(rng.uniform(0, 50))))


def counting(rng: np.random.Generator) -> Fingers:
    """Draws some fingers straight and the others bent."""
    open_, closed = straight(rng), bent(rng)
    is_open = rng.random(5) < rng.uniform(0.2, 0.8)
    if rng.random() < 0.3:  # one alone, mostly the index
        is_open[:] = False
        is_open[int(rng.choice(5, p=(0.2, 0.5, 0.1, 0.05, 0.15)))] = True
    flexion = np.where(is_open[:, None], open_.flexion, closed.flexion)
    aside = np.where(is_open, open_.aside, closed.aside)
    return Fingers(
        flexion, aside, open_.opposition if is_open[0] else closed.opposition
    )


def anyhow(rng: np.random.Generator) -> Fingers:
    """Draws every joint on its own, the end joint after the middle one."""
    low, high = LIMITS.T
    flexion = low + (high - low) * rng.beta(0.9, 1.3, (5, 3))
    flexion[:, 2] = 0.65 * flexion[:, 1] + np.radians(rng.normal(0, 8, 5))
    low, high = THUMB_LIMITS.T
    flexion[0] = rng.uniform(low, high)
    aside = np.radians(rng.normal(0, 8, 5))
    aside[0] = np.radians(rng.uniform(-20, 40))
    return Fingers(flexion, aside, float(np.radians(rng.uniform(-10, 65))))


def pinching(rng: np.random.Generator, hand: Hand) -> Fingers:
    """Draws the thumb's tip at that of another finger, or near it."""
    fingers = relaxed(rng) if rng.random() < 0.6 else straight(rng)
    other = int(rng.choice((1, 2, 3, 4), p=(0.6, 0.25, 0.1, 0.05)))
    gap = rng.choice([0.011, rng.uniform(0.015, 0.06)])
    fingers.flexion[other] = np.radians(rng.normal((50, 45, 25), 8))
    fingers.flexion[0] = np.radians(rng.normal((15, 20, 20), 8))
    fingers.aside[0] = np.radians(rng.normal(-5, 6))
    opposition = float(np.radians(rng.uniform(45, 70)))
    best, least = limited(fingers._replace(opposition=opposition)), np.inf
    for spread in (0.3, 0.2, 0.1, 0.05, 0.03):
        start = best
        for _ in range(16):
            flexion, aside = start.flexion.copy(), start.aside.copy()
            flexion[[0, other]] += rng.normal(0, spread, (2, 3))
            aside[0] += rng.normal(0, spread)
            tried = limited(
                Fingers(flexion, aside, start.opposition + rng.normal(0, spread))
            )
            tips = hand.joints(tried)[:, 3]
            off = abs(float(np.linalg.norm(tips[0] - tips[other])) - gap)
            if off < least:
                best, least = tried, off
    return best


FAMILIES = (straight, bent, relaxed, counting, anyhow)
ODDS = (0.16, 0.1, 0.2, 0.22, 0.14, 0.18)  # of these, and of pinching


def limited(fingers: Fingers) -> Fingers:
    """Returns fingers within the joints' limits."""
    flexion = np.clip(fingers.flexion, *LIMITS.T)
    flexion[0] = np.clip(fingers.flexion[0], *THUMB_LIMITS.T)
    aside = np.clip(fingers.aside, np.radians(-20), np.radians(20))
    aside[0] = np.clip(fingers.aside[0], np.radians(-30), np.radians(45))
    # Bent fingers cannot be spread.
    aside[1:] *= np.cos(np.clip(flexion[1:, 0], 0, np.pi / 2))
    opposition = float(np.clip(fingers.opposition, np.radians(-15), np.radians(70)))
    return Fingers(flexion, aside, opposition)


def sample(rng: np.random.Generator, hand: Hand) -> Fingers:
    """Draws a pose that a hand can have: of a family, or on the way between two."""
    for _ in range(TRIES):
        fingers = _of_family(rng, hand)
        if rng.random() < 0.3:
            fingers = fingers.towards(_of_family(rng, hand), rng.uniform(0, 1))
        free = untangled(hand, limited(fingers))
        if free is not None:
            return free
    return limited(straight(rng, 3.0))


def _of_family(rng: np.random.Generator, hand: Hand) -> Fingers:
    number = int(rng.choice(len(ODDS), p=ODDS))
    if number == len(FAMILIES):
        return pinching(rng, hand)
    return FAMILIES[number](rng)


def closed_around(rng: np.random.Generator, hand: Hand, thing: Thing) -> Fingers:
    """Returns fingers closed until they touch what is held; some may stay away."""
    fingers = limited(straight(rng, 3.0))
    fingers = fingers._replace(opposition=float(np.radians(rng.uniform(35, 68))))
    fingers.aside[0] = np.radians(rng.uniform(0, 25))
    moving = np.ones((5, 3), bool)
    moving[1:][rng.random(4) < 0.08] = False
    flexion = fingers.flexion.copy()
    for _ in range(STEPS):
        points = points_of(hand.joints(fingers._replace(flexion=flexion)))
        depth = thing.distance(points.reshape(-1, 3)).reshape(points.shape[:-1])
        touches = depth.min(axis=-1) < THICKNESS_M
        # What a bone touches stops its own joint and those before it.
        for joint in range(3):
            moving[touches[:, joint], : joint + 1] = False
        if not moving.any():
            break
        flexion = limited(fingers._replace(flexion=flexion + moving * CLOSING)).flexion
    return fingers._replace(flexion=flexion)
