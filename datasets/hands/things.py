"""Things that a hand holds: a plain one that fingers touch, and what is fixed to it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from datasets.simulation.solids import Solid, box, ellipsoid, joined, tube

KINDS = ("rod", "block", "ball")


class Thing(NamedTuple):
    """A thing in a hand's frame.

    Attributes:
        kind: rod (a capsule along its z), block or ball.
        half: [3] half its size; of a rod [radius, radius, half length].
        centre: [3] metres.
        rotation: [3, 3] from its frame to the hand's.
        more: What is fixed to it, in its own frame.
    """

    kind: str
    half: Float[np.ndarray, "xyz=3"]
    centre: Float[np.ndarray, "xyz=3"]
    rotation: Float[np.ndarray, "3 3"]
    more: tuple[Solid, ...] = ()

    def distance(self, points: Float[np.ndarray, "points xyz=3"]) -> np.ndarray:
        """Returns how far from the surface points are, [points]; below 0 inside."""
        local = (points - self.centre) @ self.rotation
        if self.kind == "ball":
            return np.linalg.norm(local, axis=1) - self.half[0]
        if self.kind == "rod":
            beyond = np.abs(local[:, 2]) - self.half[2]
            around = np.linalg.norm(local[:, :2], axis=1) - self.half[0]
            off = np.stack([around, beyond], axis=1)
        else:
            off = np.abs(local) - self.half
        outside = np.linalg.norm(np.maximum(off, 0), axis=1)
        return np.asarray(outside + np.minimum(off.max(axis=1), 0))

    @property
    def solid(self) -> Solid:
        """Its surface."""
        if self.kind == "ball":
            plain = ellipsoid((0, 0, 0), self.half)
        elif self.kind == "rod":
            end = np.array([0, 0, self.half[2]])
            plain = tube(-end, end, (self.half[0], self.half[0]))
        else:
            plain = box(-self.half, self.half)
        whole = joined([plain, *self.more])
        return whole._replace(vertices=whole.vertices @ self.rotation.T + self.centre)


def sample(
    rng: np.random.Generator,
    middle: np.ndarray,
    along: np.ndarray,
    palm: np.ndarray,
    radial: np.ndarray,
) -> Thing:
    """Draws a thing that lies in a palm.

    Args:
        rng: Draws it.
        middle: [3] of the palm's surface.
        along: [3] towards the fingers.
        palm: [3] out of the palm.
        radial: [3] towards the thumb.
    """
    kind = KINDS[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]
    axes = np.stack([along, palm, radial], axis=1)  # a rod lies across the palm
    tilt = Rotation.from_rotvec(rng.normal(0, (0.15, 0.35, 0.1))).as_matrix()
    rotation = axes @ tilt
    more: list[Solid] = []
    if kind == "ball":
        radius = rng.uniform(0.018, 0.045)
        half = np.full(3, radius)
    elif kind == "rod":
        radius = 0.004 * 10 ** rng.uniform(0, 1)
        half = np.array([radius, radius, rng.uniform(0.05, 0.14)])
        more = _fixed(rng, half)
    else:
        thin = rng.uniform(0.004, 0.035)
        half = np.array([rng.uniform(0.02, 0.055), thin, rng.uniform(0.03, 0.12)])
        radius = thin
    lift = radius + 0.004
    shift = rng.normal(0, 0.012) * along
    if kind == "rod":
        shift = shift + rng.uniform(-0.6, 0.6) * half[2] * rotation[:, 2]
    centre = middle + lift * palm + (0.02 + 0.3 * radius) * along + shift
    return Thing(kind, half, centre, rotation, tuple(more))


def _fixed(rng: np.random.Generator, half: np.ndarray) -> list[Solid]:
    """Draws what is fixed to a rod's end: a tool's head, a bottle's body."""
    if rng.random() < 0.45:
        return []
    end = rng.choice([-1, 1]) * half[2]
    if rng.random() < 0.5:
        size = rng.uniform((0.015, 0.015, 0.01), (0.06, 0.06, 0.06))
        return [box(-size, size).moved((*rng.normal(0, 0.02, 2), end))]
    wide = half[0] * rng.uniform(0.5, 2.5)
    long = np.sign(end) * rng.uniform(0.03, 0.12)
    return [tube((0, 0, end), (0, 0, end + long), (half[0], wide))]
