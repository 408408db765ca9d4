"""The MuJoCo model of a person: torso, head, and where the limbs hang.

Body frame: x to the person's left, y to the back, z up, origin midway between the
hips; metres. Without rotation the person faces the camera with the arms down.
"""

import mujoco
import numpy as np

from datasets.simulation.anatomy import (
    HAIR,
    HIP_HALF,
    LUMBAR,
    NECK_TO_HEAD,
    SHOULDER_HALF,
    SIDES,
    THORACIC,
    TORSO,
    TORSO_BIT,
)
from datasets.simulation.limbs import add_arm, add_leg
from datasets.simulation.part import Part, label
from datasets.simulation.shape import Shape


def add_person(spec: mujoco.MjSpec, shape: Shape) -> None:
    """Adds a person with a free root to a model.

    Args:
        spec: Model in radians whose geoms carry one number, a body-part label.
        shape: The person's proportions.
    """
    root = spec.worldbody.add_body(name="person")
    root.add_freejoint()
    pelvis = Part(root, shape.size, bit=TORSO_BIT)
    waist = pelvis.child((0, 0, LUMBAR), _spine("lumbar"), bit=TORSO_BIT)
    middle = (0, 0, THORACIC - LUMBAR)
    chest = waist.child(middle, _spine("thoracic"), bit=TORSO_BIT)
    throat = (0, 0.02, TORSO - THORACIC + 0.04)
    neck = chest.child(throat, _spine("neck"), bit=TORSO_BIT)
    _add_pelvis(pelvis, shape)
    _add_waist(waist, shape)
    _add_chest(chest, shape)
    _add_head(neck, shape)
    for add_limb, parent in ((add_arm, chest), (add_leg, pelvis)):
        for side, sign in zip(SIDES, (-1, 1), strict=True):
            add_limb(parent, shape, side, sign)


def _spine(name: str) -> dict[str, tuple[int, int, int]]:
    axes = {"flexion": (1, 0, 0), "tilt": (0, 1, 0), "turn": (0, 0, 1)}
    return {f"{name}_{motion}": axis for motion, axis in axes.items()}


def _add_pelvis(pelvis: Part, shape: Shape) -> None:
    cloth = shape.jacket + shape.trouser
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        hip = HIP_HALF * shape.hips * sign
        pelvis.mark(f"{side}_hip", (hip, 0, 0))
        half = (0.103 * shape.girth + cloth, 0.11 * shape.girth + cloth, 0.125)
        pelvis.ellipsoid(label(f"{side}_hip"), half, (0.62 * hip, 0.01, 0.03))


def _add_waist(waist: Part, shape: Shape) -> None:
    width = 0.168 * shape.girth + shape.jacket
    depth = 0.1 * shape.girth + shape.jacket + shape.belly
    waist.ellipsoid(label("torso"), (width, depth, 0.17), (0, -0.005, 0.06))


def _add_chest(chest: Part, shape: Shape) -> None:
    girth, cloth, top = shape.girth, shape.jacket, TORSO - THORACIC
    torso, neck = label("torso"), label("neck")
    half = (0.172 * girth + cloth, 0.105 * girth + cloth, 0.18)
    chest.ellipsoid(torso, half, (0, 0.01, 0.06))
    wide = SHOULDER_HALF * shape.shoulders
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        chest.mark(f"{side}_shoulder", (sign * wide, 0.02, top))
        half = (0.082 * girth + cloth, 0.06 * girth + cloth, 0.095)
        chest.ellipsoid(torso, half, (sign * 0.07, -0.05, top - 0.12))
        inner = (sign * 0.03, 0.015, top - 0.03)
        outer = (sign * 0.95 * wide, 0.03, top - 0.005)
        shoulder, radius = label(f"{side}_shoulder"), 0.052 * girth + cloth
        chest.capsule(shoulder, radius, inner, outer, solid=False)
        inner = (sign * 0.02, 0.025, top + 0.06)
        outer = (sign * 0.7 * wide, 0.03, top + 0.015)
        radius = 0.046 * girth + cloth / 2
        chest.capsule(neck, radius, inner, outer, solid=False)


def _add_head(neck: Part, shape: Shape) -> None:
    head, size = label("head"), shape.head
    up = NECK_TO_HEAD - 0.04
    neck.mark("head", (0, -0.015, up))
    top = (0, -0.015, up - 0.06)
    radius = 0.069 * shape.girth
    neck.capsule(label("neck"), radius, (0, 0.01, -0.08), top, solid=False)
    skull = np.multiply((0.095, 0.098, 0.098), size)
    neck.ellipsoid(head, skull, (0, -0.02, up + 0.03))
    jaw = np.multiply((0.08, 0.071, 0.088), size)
    neck.ellipsoid(head, jaw, (0, -0.045, up - 0.035), lean=-0.2)
    hair = skull + shape.hair
    neck.ellipsoid(HAIR, hair, (0, 0.012, up + 0.048), solid=False)
    if shape.long_hair:
        neck.ellipsoid(HAIR, (0.085, 0.05, 0.16), (0, 0.055, up - 0.06))
