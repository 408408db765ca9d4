"""Joint sets: names, kinematic tree, mirror pairs, reference segments, table rows.

Joints stand in the order of the data set's own files. Left and right are the
person's own.
"""

import dataclasses

Joints = tuple[int, ...]
Segment = tuple[Joints, Joints]  # from the mean of some joints to the mean of others

# Colours that colour-blind readers tell apart too (Okabe and Ito).
RIGHT, LEFT, MIDDLE = "#e69f00", "#56b4e9", "#f0e442"
FINGERS = ("#f0e442", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00")


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """A named set of joints.

    Attributes:
        name: Key in `SKELETONS`.
        joints: Names, in the order of the labels.
        parents: Index of each joint's parent; the root has -1.
        mirror_pairs: (right, left) joints that a horizontal flip swaps.
        head: The segment whose length is PCKh's unit; None where there is no head.
        torsos: Segments that PDJ may use as its unit; the first is the default.
        rows: Rows of the paper's tables and the joints each averages over.
        reach_m: Everything is within this of the depth of the whole, metres.
        limb_m: Half the width of a thin limb, metres.
        up: What points upwards where the whole is upright: of a body the trunk, of a
            hand the palm.
        found_as: What `depth.detector` has to look for: people or hands.
        right_m: A joint is right within so many metres, where confidence is meant.
        thick_m: What is so far behind the surface is behind something else.
    """

    name: str
    joints: tuple[str, ...]
    parents: Joints
    mirror_pairs: tuple[tuple[int, int], ...] = ()
    head: Segment | None = None
    torsos: dict[str, Segment] = dataclasses.field(default_factory=dict, hash=False)
    rows: dict[str, Joints] = dataclasses.field(default_factory=dict, hash=False)
    reach_m: float = 1.0
    limb_m: float = 0.03
    up: Segment | None = None
    found_as: str = "people"
    right_m: float = 0.1
    thick_m: float = 0.2

    @property
    def num_joints(self) -> int:
        """Joints in the set."""
        return len(self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, joint) of each joint that has a parent."""
        pairs = ((parent, joint) for joint, parent in enumerate(self.parents))
        return tuple(pair for pair in pairs if pair[0] >= 0)

    @property
    def mirror(self) -> Joints:
        """For each joint, the joint that takes its place in a mirrored image."""
        order = list(range(self.num_joints))
        for right, left in self.mirror_pairs:
            order[right], order[left] = left, right
        return tuple(order)


def _pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    rights = (name for name in names if name.startswith("right_"))
    return tuple(
        (names.index(name), names.index("left_" + name.removeprefix("right_")))
        for name in rights
    )


_K2HPD_JOINTS = (
    "head neck torso right_shoulder right_elbow right_hand left_shoulder left_elbow "
    "left_hand right_hip right_knee right_foot left_hip left_knee left_foot "
    "upper_spine hip_centre right_wrist left_wrist"
)
_ITOP_JOINTS = (
    "head neck right_shoulder left_shoulder right_elbow left_elbow right_hand "
    "left_hand torso right_hip left_hip right_knee left_knee right_foot left_foot"
)
_FINGER_JOINTS = (
    "thumb_1 thumb_2 thumb_tip index_base index_1 index_2 index_tip middle_base "
    "middle_1 middle_2 middle_tip ring_base ring_1 ring_2 ring_tip little_base "
    "little_1 little_2 little_tip"
)
_HAND_JOINTS = f"palm {_FINGER_JOINTS}"
_HAND21_JOINTS = f"wrist thumb_base {_FINGER_JOINTS}"

_UTD_MHAD_JOINTS = (
    "head neck spine hip_centre left_shoulder left_elbow left_wrist left_hand "
    "right_shoulder right_elbow right_wrist right_hand left_hip left_knee left_ankle "
    "left_foot right_hip right_knee right_ankle right_foot"
)

# K2HPD: the order of its label files; joints 15-18 inferred from their mean position.
# The rows are those of Table 3: its body rows weigh 11 upper, 8 lower and 19 joints, so
# that 15 and 16, which have no row of their own, must count in them.
BODY19 = Skeleton(
    name="body19",
    joints=tuple(_K2HPD_JOINTS.split()),
    parents=(1, 15, 16, 15, 3, 17, 15, 6, 18, 16, 9, 10, 16, 12, 13, 2, -1, 4, 7),
    mirror_pairs=_pairs(tuple(_K2HPD_JOINTS.split())),
    head=((0,), (1,)),
    torsos={"neck_to_hips": ((1,), (9, 12)), "shoulder_to_hip": ((3,), (12,))},
    up=((9, 12), (1,)),
    rows={
        "Head": (0,),
        "Neck": (1,),
        "Shoulders": (3, 6),
        "Elbows": (4, 7),
        "Hands": (5, 8),
        "Wrists": (17, 18),
        "Torso": (2,),
        "Hips": (9, 12),
        "Knees": (10, 13),
        "Feet": (11, 14),
        "Upper Body": (0, 1, 3, 4, 5, 6, 7, 8, 15, 17, 18),
        "Lower Body": (2, 9, 10, 11, 12, 13, 14, 16),
        "Full Body": tuple(range(19)),
    },
)

# ITOP: the rows are those of Table 4.
BODY15 = Skeleton(
    name="body15",
    joints=tuple(_ITOP_JOINTS.split()),
    parents=(1, 8, 1, 1, 2, 3, 4, 5, -1, 8, 8, 9, 10, 11, 12),
    mirror_pairs=_pairs(tuple(_ITOP_JOINTS.split())),
    head=((0,), (1,)),
    torsos={"neck_to_hips": ((1,), (9, 10)), "shoulder_to_hip": ((2,), (10,))},
    up=((9, 10), (1,)),
    rows={
        "Head": (0,),
        "Neck": (1,),
        "Shoulders": (2, 3),
        "Elbows": (4, 5),
        "Hands": (6, 7),
        "Torso": (8,),
        "Hips": (9, 10),
        "Knees": (11, 12),
        "Feet": (13, 14),
        "Upper Body": tuple(range(8)),
        "Lower Body": tuple(range(8, 15)),
        "Full Body": tuple(range(15)),
    },
)

# UTD-MHAD: the joints of the Kinect's software, which calls the neck shoulder centre.
BODY20 = Skeleton(
    name="body20",
    joints=tuple(_UTD_MHAD_JOINTS.split()),
    parents=(1, 2, 3, -1, 1, 4, 5, 6, 1, 8, 9, 10, 3, 12, 13, 14, 3, 16, 17, 18),
    mirror_pairs=_pairs(tuple(_UTD_MHAD_JOINTS.split())),
    head=((0,), (1,)),
    torsos={"neck_to_hips": ((1,), (12, 16)), "shoulder_to_hip": ((8,), (12,))},
    up=((12, 16), (1,)),
    rows={
        "Head": (0,),
        "Neck": (1,),
        "Shoulders": (4, 8),
        "Elbows": (5, 9),
        "Wrists": (6, 10),
        "Hands": (7, 11),
        "Torso": (2,),
        "Hips": (12, 16),
        "Knees": (13, 17),
        "Ankles": (14, 18),
        "Feet": (15, 19),
        "Upper Body": (0, 1, 4, 5, 6, 7, 8, 9, 10, 11),
        "Lower Body": (2, 3, 12, 13, 14, 15, 16, 17, 18, 19),
        "Full Body": tuple(range(20)),
    },
)

HAND20 = Skeleton(
    name="hand20",
    joints=tuple(_HAND_JOINTS.split()),
    parents=(-1, 0, 1, 2, 0, 4, 5, 6, 0, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    reach_m=0.2,
    limb_m=0.006,
    up=((0,), (8,)),
    found_as="hands",
    right_m=0.02,
    thick_m=0.03,
    rows={
        "Palm": (0,),
        "Thumb": (1, 2, 3),
        "Index": (4, 5, 6, 7),
        "Middle": (8, 9, 10, 11),
        "Ring": (12, 13, 14, 15),
        "Little": (16, 17, 18, 19),
        "Tips": (3, 7, 11, 15, 19),
        "Full Hand": tuple(range(20)),
    },
)

# The order of most hand data sets: the wrist, and of each finger four joints.
HAND21 = Skeleton(
    name="hand21",
    joints=tuple(_HAND21_JOINTS.split()),
    parents=(-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19),
    reach_m=0.2,
    limb_m=0.006,
    up=((0,), (9,)),
    found_as="hands",
    right_m=0.02,
    thick_m=0.03,
    rows={
        "Wrist": (0,),
        "Thumb": (1, 2, 3, 4),
        "Index": (5, 6, 7, 8),
        "Middle": (9, 10, 11, 12),
        "Ring": (13, 14, 15, 16),
        "Little": (17, 18, 19, 20),
        "Tips": (4, 8, 12, 16, 20),
        "Full Hand": tuple(range(21)),
    },
)

SKELETONS = {
    skeleton.name: skeleton for skeleton in (BODY19, BODY15, BODY20, HAND20, HAND21)
}


def joint_colours(skeleton: Skeleton) -> list[str]:
    """Returns each joint's colour: by the side of a body, by the finger of a hand."""
    first_words = [name.split("_")[0] for name in skeleton.joints]
    if skeleton.mirror_pairs:
        sides = {"right": RIGHT, "left": LEFT}
        return [sides.get(word, MIDDLE) for word in first_words]
    fingers = list(dict.fromkeys(first_words))
    return [FINGERS[fingers.index(word) % len(FINGERS)] for word in first_words]
