"""The MuJoCo model of a person.

Body frame: x to the person's left, y to the back, z up, origin midway between the
hips; metres. Without rotation the person faces the camera with the arms down. Lengths
are written for `Shape.size` 1.
"""

import dataclasses

import mujoco
import numpy as np

from cmbjax.skeletons import BODY15
from datasets.mannequin.shape import Shape

# ITOP's labels: shoulders, neck, torso and hips lie in one plane, the neck midway
# between the shoulders and the torso midway between neck and hips.
TORSO, NECK_TO_HEAD = 0.494, 0.24
SHOULDER_HALF, HIP_HALF = 0.175, 0.114
UPPER_ARM, FOREARM, WRIST_TO_PALM = 0.312, 0.25, 0.07
THIGH, SHIN = 0.495, 0.477
LUMBAR, THORACIC = 0.1, 0.27  # heights of the spine's two joints

SIDES = ("right", "left")
_SPINE_LIMITS = {
    "lumbar_flexion": (-20, 50),
    "lumbar_tilt": (-25, 25),
    "lumbar_turn": (-25, 25),
    "thoracic_flexion": (-15, 35),
    "thoracic_tilt": (-20, 20),
    "thoracic_turn": (-25, 25),
    "neck_flexion": (-45, 50),
    "neck_tilt": (-35, 35),
    "neck_turn": (-75, 75),
}
_ARM_LIMITS = {
    "shoulder_plane": (-60, 140),  # of elevation: 0 sideways, 90 forwards
    "shoulder_elevation": (0, 178),
    "shoulder_twist": (-240, 170),  # undoes the plane, then turns the forearm
    "elbow_flexion": (0, 150),
    "wrist_turn": (-90, 90),
    "wrist_flexion": (-60, 60),
}
_LEG_LIMITS = {
    "hip_flexion": (-35, 120),
    "hip_abduction": (-30, 60),
    "hip_rotation": (-45, 45),
    "knee_flexion": (0, 145),
    "ankle_flexion": (-30, 50),
}
# Every hinge in the order of qpos behind the root's seven numbers; degrees.
LIMITS = _SPINE_LIMITS | {
    f"{side}_{hinge}": limits
    for limb in (_ARM_LIMITS, _LEG_LIMITS)
    for side in SIDES
    for hinge, limits in limb.items()
}

# Who collides with whom (contype); neighbours on the tree overlap by design.
TORSO_BIT, CLUTTER_BIT = 1, 32
# A geom of no group meets nobody's contype. It is not 0 because MuJoCo bounds a body
# by the geoms that can collide, and mj_multiRay misses whatever lies outside.
NOBODY = 1024
ARM_BITS, LEG_BITS = {"right": 2, "left": 4}, {"right": 8, "left": 16}
_KINDS = {
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
HAIR = len(BODY15.joints) + 1  # label that `frames` turns into the head's


@dataclasses.dataclass
class _Part:
    """A MuJoCo body under construction, scaled by the person's size."""

    body: mujoco.MjsBody
    size: float
    bit: int = 0
    mask: int = 0

    def child(self, at, hinges: dict[str, tuple], **bits: int) -> "_Part":
        body = self.body.add_body(pos=np.multiply(at, self.size))
        for name, axis in hinges.items():
            body.add_joint(
                name=name,
                type=mujoco.mjtJoint.mjJNT_HINGE,
                axis=axis,
                range=np.radians(LIMITS[name]),
                armature=1.0,
            )
        return _Part(body, self.size, **bits)

    def add(self, label, kind, size, at=(0, 0, 0), to=None, solid=True, lean=0.0):
        """Adds a geom; `size` and `at` at size 1, `lean` about x in radians."""
        place = {}
        if to is None:
            place["pos"] = np.multiply(at, self.size)
            place["quat"] = [np.cos(lean / 2), np.sin(lean / 2), 0, 0]
        else:
            place["fromto"] = np.multiply((*at, *to), self.size)
        self.body.add_geom(
            type=_KINDS[kind],
            size=np.resize(np.append(np.multiply(size, self.size), (0, 0)), 3),
            userdata=[label],
            contype=self.bit if solid else 0,
            conaffinity=(self.mask if solid else 0) | NOBODY,
            **place,
        )

    def mark(self, joint: str, at) -> None:
        self.body.add_site(name=joint, pos=np.multiply(at, self.size))


def _label(joint: str) -> int:
    return 1 + BODY15.joints.index(joint)


def add_person(spec: mujoco.MjSpec, shape: Shape) -> None:
    """Adds a person with a free root to a model.

    Args:
        spec: Model in radians whose geoms carry one number, a body-part label.
        shape: The person's proportions.
    """
    root = spec.worldbody.add_body(name="person")
    root.add_freejoint()
    pelvis = _Part(root, shape.size, bit=TORSO_BIT)
    _add_pelvis(pelvis, shape)
    bits = {"bit": TORSO_BIT}
    waist = pelvis.child((0, 0, LUMBAR), _spine("lumbar"), **bits)
    g, thick = shape.girth, shape.jacket
    half, belly = 0.148 * g + thick, 0.1 * g + thick + shape.belly
    waist.add(_label("torso"), "ellipsoid", (half, belly, 0.17), (0, -0.005, 0.06))
    chest = waist.child((0, 0, THORACIC - LUMBAR), _spine("thoracic"), **bits)
    _add_chest(chest, shape)
    neck = chest.child((0, 0.02, TORSO - THORACIC + 0.04), _spine("neck"), **bits)
    _add_head(neck, shape)
    for add_limb, parent in ((_add_arm, chest), (_add_leg, pelvis)):
        for side, sign in zip(SIDES, (-1, 1), strict=True):
            add_limb(parent, shape, side, sign)


def _spine(name: str) -> dict[str, tuple]:
    axes = {"flexion": (1, 0, 0), "tilt": (0, 1, 0), "turn": (0, 0, 1)}
    return {f"{name}_{motion}": axis for motion, axis in axes.items()}


def _add_pelvis(pelvis: _Part, shape: Shape) -> None:
    g, thick, wide = shape.girth, shape.jacket + shape.trouser, shape.hips
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        hip, label = HIP_HALF * wide * sign, _label(f"{side}_hip")
        pelvis.mark(f"{side}_hip", (hip, 0, 0))
        size = (0.095 * g + thick, 0.11 * g + thick, 0.125)
        pelvis.add(label, "ellipsoid", size, (0.62 * hip, 0.01, 0.03))


def _add_chest(chest: _Part, shape: Shape) -> None:
    g, thick, top = shape.girth, shape.jacket, TORSO - THORACIC
    wide = SHOULDER_HALF * shape.shoulders
    torso, neck = _label("torso"), _label("neck")
    size = (0.155 * g + thick, 0.105 * g + thick, 0.17)
    chest.add(torso, "ellipsoid", size, (0, 0.01, 0.06))
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        shoulder = _label(f"{side}_shoulder")
        chest.mark(f"{side}_shoulder", (sign * wide, 0.02, top))
        breast = (0.082 * g + thick, 0.06 * g + thick, 0.095)
        chest.add(torso, "ellipsoid", breast, (sign * 0.07, -0.05, top - 0.12))
        girdle = (0.052 * g + thick, 0, 0)
        ends = (sign * 0.03, 0.015, top - 0.03), (sign * 0.95 * wide, 0.03, top - 0.005)
        chest.add(shoulder, "capsule", girdle, *ends, solid=False)
        slope = (0.037 * g + thick / 2, 0, 0)
        ends = (sign * 0.02, 0.025, top + 0.06), (sign * 0.7 * wide, 0.03, top + 0.015)
        chest.add(neck, "capsule", slope, *ends, solid=False)


def _add_head(neck: _Part, shape: Shape) -> None:
    label, size = _label("head"), shape.head
    up = NECK_TO_HEAD - 0.04
    neck.mark("head", (0, -0.015, up))
    ends = (0, 0.01, -0.08), (0, -0.015, up - 0.06)
    neck.add(_label("neck"), "capsule", (0.055 * shape.girth, 0, 0), *ends, solid=False)
    skull = np.multiply((0.076, 0.096, 0.098), size)
    neck.add(label, "ellipsoid", skull, (0, -0.02, up + 0.03))
    jaw = np.multiply((0.06, 0.07, 0.085), size)
    neck.add(label, "ellipsoid", jaw, (0, -0.045, up - 0.035), lean=-0.2)
    hair = skull + shape.hair
    neck.add(HAIR, "ellipsoid", hair, (0, 0.012, up + 0.048), solid=False)
    if shape.long_hair:
        neck.add(HAIR, "ellipsoid", (0.085, 0.05, 0.16), (0, 0.055, up - 0.06))


def _add_arm(chest: _Part, shape: Shape, side: str, sign: int) -> None:
    g, cloth = shape.girth, shape.sleeve
    upper, fore = UPPER_ARM * shape.arms, FOREARM * shape.arms
    shoulder, elbow, hand = (
        _label(f"{side}_{j}") for j in ("shoulder", "elbow", "hand")
    )
    inward = (0, 0, -sign)
    at = (sign * SHOULDER_HALF * shape.shoulders, 0.03, TORSO - THORACIC - 0.005)
    hinges = {"plane": inward, "elevation": (0, -sign, 0), "twist": inward}
    others = [bit for s, bit in ARM_BITS.items() if s != side]
    mask = TORSO_BIT | CLUTTER_BIT | sum(others) | sum(LEG_BITS.values())
    bits = {"bit": ARM_BITS[side], "mask": mask}
    arm = chest.child(
        at, {f"{side}_shoulder_{k}": v for k, v in hinges.items()}, **bits
    )
    deltoid = np.multiply((0.056, 0.058, 0.085), g) + cloth
    arm.add(shoulder, "ellipsoid", deltoid, (0, 0, -0.035), solid=False)
    biceps, lower = (0.045 * g + cloth, 0, 0), (0.039 * g + cloth, 0, 0)
    arm.add(shoulder, "capsule", biceps, to=(0, 0, -0.55 * upper), solid=False)
    arm.add(elbow, "capsule", lower, (0, 0, -0.5 * upper), (0, 0, -upper))
    hinge = {f"{side}_elbow_flexion": (-1, 0, 0)}
    forearm = arm.child((0, 0, -upper), hinge, **bits)
    forearm.mark(f"{side}_elbow", (0, 0, 0))
    bulge = np.array([0.043 * g + cloth, 0.043 * g + cloth, 0.35 * fore])
    forearm.add(elbow, "ellipsoid", bulge, (0, 0, -0.3 * fore))
    forearm.add(elbow, "capsule", (0.036 * g + cloth, 0, 0), to=(0, 0, -0.5 * fore))
    wrist = (0.029 * g + cloth, 0, 0)
    forearm.add(hand, "capsule", wrist, (0, 0, -0.45 * fore), (0, 0, -fore))
    motions = {"turn": (0, 0, 1), "flexion": (0, -1, 0)}
    hinge = {f"{side}_wrist_{k}": axis for k, axis in motions.items()}
    palm = forearm.child((0, 0, -fore), hinge, **bits)
    palm.mark(f"{side}_hand", (0, 0, -WRIST_TO_PALM))
    if shape.fist:
        palm.add(hand, "ellipsoid", (0.036, 0.046, 0.053), (0, 0, -0.06))
        return
    palm.add(hand, "ellipsoid", (0.019, 0.043, 0.056), (0, 0, -0.055))
    palm.add(hand, "ellipsoid", (0.014, 0.037, 0.055), (-sign * 0.012, 0, -0.125))
    ends = (0, -0.03, -0.03), (-sign * 0.012, -0.06, -0.085)
    palm.add(hand, "capsule", (0.011, 0, 0), *ends)


def _add_leg(pelvis: _Part, shape: Shape, side: str, sign: int) -> None:
    g, cloth = shape.girth, shape.trouser
    thigh, shin = THIGH * shape.legs, SHIN * shape.legs
    hip, knee, foot = (_label(f"{side}_{j}") for j in ("hip", "knee", "foot"))
    others = [bit for s, bit in LEG_BITS.items() if s != side]
    bits = {"bit": LEG_BITS[side], "mask": CLUTTER_BIT | sum(others)}
    hinges = {"flexion": (-1, 0, 0), "abduction": (0, -sign, 0), "rotation": (0, 0, 1)}
    hinges = {f"{side}_hip_{k}": axis for k, axis in hinges.items()}
    leg = pelvis.child((sign * HIP_HALF * shape.hips, 0, 0), hinges, **bits)
    middle, end = (-sign * 0.012, 0.0, -0.5 * thigh), (-sign * 0.012, 0.0, -thigh)
    upper = (0.082 * g + cloth, 0, 0)
    start = (-sign * 0.025, 0.005, -0.03)
    leg.add(hip, "capsule", upper, start, middle, solid=False)
    bulge = np.array([0.085 * g + cloth, 0.095 * g + cloth, 0.6 * thigh])
    leg.add(hip, "ellipsoid", bulge, (-sign * 0.02, 0, -0.3 * thigh), solid=False)
    leg.add(knee, "capsule", (0.06 * g + cloth, 0, 0), middle, end)
    if shape.skirt:
        below = (-sign * 0.03, 0, -shape.skirt)
        leg.add(hip, "capsule", (0.115 * g, 0, 0), start, below, solid=False)
    calf = leg.child(end, {f"{side}_knee_flexion": (1, 0, 0)}, **bits)
    calf.mark(f"{side}_knee", (sign * 0.008, 0, 0))
    calf.add(knee, "capsule", (0.053 * g + cloth, 0, 0), to=(0, 0.005, -0.5 * shin))
    bulge = np.array([0.055 * g + cloth, 0.06 * g + cloth, 0.4 * shin])
    calf.add(knee, "ellipsoid", bulge, (0, 0.018, -0.32 * shin))
    ends = (0, 0.005, -0.45 * shin), (0, 0.01, -shin)
    calf.add(foot, "capsule", (0.04 * g + 1.2 * cloth, 0, 0), *ends)
    ankle = {f"{side}_ankle_flexion": (1, 0, 0)}
    shoe = calf.child((0, 0, -shin), ankle, **bits)
    shoe.mark(f"{side}_foot", (0, 0, 0))
    ends = (0, 0.035, -0.045), (sign * 0.02, -0.13, -0.052)
    shoe.add(foot, "capsule", (0.04, 0, 0), *ends)
    shoe.add(foot, "ellipsoid", (0.042, 0.08, 0.05), (0, -0.03, -0.03), lean=0.3)
