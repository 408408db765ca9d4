"""The average person: lengths, joint limits, and which parts may not overlap.

Lengths are metres, for `Shape.size` 1.
"""

from cmbjax.skeletons import BODY15

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
HAIR = len(BODY15.joints) + 1  # label that `frames` turns into the head's
