"""Arms and legs of the MuJoCo model; the frame is that of `body`.

A limb hangs down from its parent. `sign` is 1 on the person's left, -1 on the right.
"""

from datasets.simulation.anatomy import (
    ARM_BITS,
    CLUTTER_BIT,
    FOREARM,
    HIP_HALF,
    LEG_BITS,
    SHIN,
    SHOULDER_HALF,
    SIDES,
    THIGH,
    THORACIC,
    TORSO,
    TORSO_BIT,
    UPPER_ARM,
    WRIST_TO_PALM,
)
from datasets.simulation.part import Part, label
from datasets.simulation.shape import Shape

ORIGIN = (0.0, 0.0, 0.0)


def _other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


def add_arm(chest: Part, shape: Shape, side: str, sign: int) -> None:
    """Adds upper arm, forearm and hand."""
    girth, cloth = shape.girth, shape.sleeve
    upper, fore = UPPER_ARM * shape.arms, FOREARM * shape.arms
    shoulder, elbow, hand = (
        label(f"{side}_{joint}") for joint in ("shoulder", "elbow", "hand")
    )
    others = TORSO_BIT | CLUTTER_BIT | ARM_BITS[_other(side)] | sum(LEG_BITS.values())
    groups = {"bit": ARM_BITS[side], "mask": others}
    at = (sign * SHOULDER_HALF * shape.shoulders, 0.03, TORSO - THORACIC - 0.005)
    hinges = {
        f"{side}_shoulder_plane": (0, 0, -sign),
        f"{side}_shoulder_elevation": (0, -sign, 0),
        f"{side}_shoulder_twist": (0, 0, -sign),
    }
    arm = chest.child(at, hinges, **groups)
    deltoid = (0.062 * girth + cloth, 0.06 * girth + cloth, 0.09 * girth + cloth)
    arm.ellipsoid(shoulder, deltoid, (0, 0, -0.035), solid=False)
    end = (0, 0, -0.55 * upper)
    arm.capsule(shoulder, 0.053 * girth + cloth, ORIGIN, end, solid=False)
    start, end = (0, 0, -0.5 * upper), (0, 0, -upper)
    arm.capsule(elbow, 0.045 * girth + cloth, start, end)

    forearm = arm.child(end, {f"{side}_elbow_flexion": (-1, 0, 0)}, **groups)
    forearm.mark(f"{side}_elbow", ORIGIN)
    bulge = 0.036 * girth + cloth
    forearm.ellipsoid(elbow, (bulge, bulge, 0.35 * fore), (0, 0, -0.3 * fore))
    forearm.capsule(elbow, 0.033 * girth + cloth, ORIGIN, (0, 0, -0.5 * fore))
    start, end = (0, 0, -0.45 * fore), (0, 0, -fore)
    forearm.capsule(hand, 0.027 * girth + cloth, start, end)

    hinges = {f"{side}_wrist_turn": (0, 0, 1), f"{side}_wrist_flexion": (0, -1, 0)}
    palm = forearm.child(end, hinges, **groups)
    palm.mark(f"{side}_hand", (0, 0, -WRIST_TO_PALM))
    if shape.fist:
        palm.ellipsoid(hand, (0.036, 0.046, 0.053), (0, 0, -0.06))
        return
    palm.ellipsoid(hand, (0.019, 0.043, 0.056), (0, 0, -0.055))
    palm.ellipsoid(hand, (0.014, 0.037, 0.055), (-sign * 0.012, 0, -0.125))  # fingers
    thumb = (-sign * 0.012, -0.06, -0.085)
    palm.capsule(hand, 0.011, (0, -0.03, -0.03), thumb)


def add_leg(pelvis: Part, shape: Shape, side: str, sign: int) -> None:
    """Adds thigh, shin and shoe."""
    girth, cloth = shape.girth, shape.trouser
    thigh, shin = THIGH * shape.legs, SHIN * shape.legs
    hip, knee, foot = (label(f"{side}_{joint}") for joint in ("hip", "knee", "foot"))
    groups = {"bit": LEG_BITS[side], "mask": CLUTTER_BIT | LEG_BITS[_other(side)]}
    hinges = {
        f"{side}_hip_flexion": (-1, 0, 0),
        f"{side}_hip_abduction": (0, -sign, 0),
        f"{side}_hip_rotation": (0, 0, 1),
    }
    leg = pelvis.child((sign * HIP_HALF * shape.hips, 0, 0), hinges, **groups)
    start, inward = (-sign * 0.025, 0.005, -0.03), -sign * 0.012
    middle, bottom = (inward, 0, -0.5 * thigh), (inward, 0, -thigh)
    leg.capsule(hip, 0.082 * girth + cloth, start, middle, solid=False)
    bulge = (0.085 * girth + cloth, 0.095 * girth + cloth, 0.6 * thigh)
    leg.ellipsoid(hip, bulge, (-sign * 0.02, 0, -0.3 * thigh), solid=False)
    leg.capsule(knee, 0.069 * girth + cloth, middle, bottom)
    if shape.skirt:
        hem = (-sign * 0.03, 0, -shape.skirt)
        leg.capsule(hip, 0.115 * girth, start, hem, solid=False)

    calf = leg.child(bottom, {f"{side}_knee_flexion": (1, 0, 0)}, **groups)
    calf.mark(f"{side}_knee", (sign * 0.008, 0, 0))
    calf.capsule(knee, 0.053 * girth + cloth, ORIGIN, (0, 0.005, -0.5 * shin))
    bulge = (0.055 * girth + cloth, 0.06 * girth + cloth, 0.4 * shin)
    calf.ellipsoid(knee, bulge, (0, 0.018, -0.32 * shin))
    top, ankle = (0, 0.005, -0.45 * shin), (0, 0.01, -shin)
    calf.capsule(foot, 0.049 * girth + 1.2 * cloth, top, ankle)

    shoe = calf.child((0, 0, -shin), {f"{side}_ankle_flexion": (1, 0, 0)}, **groups)
    shoe.mark(f"{side}_foot", ORIGIN)
    toes = (sign * 0.02, -0.13, -0.052)
    shoe.capsule(foot, 0.04, (0, 0.035, -0.045), toes)
    shoe.ellipsoid(foot, (0.042, 0.08, 0.05), (0, -0.03, -0.03), lean=0.3)
