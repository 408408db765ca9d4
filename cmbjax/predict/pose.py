"""A person, or a hand, as the predictor returns it.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres.
"""

import dataclasses
from typing import Literal

import numpy as np

from cmbjax.skeletons import Skeleton

OUTSIDE, HIDDEN, SEEN = 0, 1, 2  # values of `Pose.visibility`

Side = Literal["", "right", "left"]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """One person, or hand, in a frame.

    Attributes:
        joints_px: [joints, 2] pixels of the frame.
        joints_m: [joints, 3] metres, camera frame.
        confidence: [joints] how probably the joint is within 10 cm (of a hand 2 cm) of
            where it is said to be (see `calibration`); of networks whose card has no
            calibration, the height of the heat map's peak, in [0, 1].
        visibility: uint8 [joints] as in COCO: 2 is seen, 1 hidden by something or by
            the person's own body, 0 not in the picture.
        box: [x0, y0, x1, y1] pixels of what is seen of the person.
        depth_m: Depth of the person as a whole, metres.
        score: How probably there is somebody (see `calibration.presence`); of networks
            whose card has no such probability, the detector's score; 1 of a box that
            was given.
        side: Which hand it is, right or left, as its owner says; empty of a person.
        peaks: [joints] heights of the heat maps, of which the confidence is made.
    """

    joints_px: np.ndarray
    joints_m: np.ndarray
    confidence: np.ndarray
    visibility: np.ndarray
    box: np.ndarray
    depth_m: float
    score: float = 1.0
    side: Side = ""
    peaks: np.ndarray | None = None

    @property
    def seen_px(self) -> np.ndarray:
        """Returns `joints_px`, NaN where a joint is hidden or not in the picture."""
        return np.where(self.visibility[:, None] == SEEN, self.joints_px, np.nan)

    @property
    def seen_m(self) -> np.ndarray:
        """Returns `joints_m`, NaN where a joint is hidden or not in the picture."""
        return np.where(self.visibility[:, None] == SEEN, self.joints_m, np.nan)


def in_picture(
    joints_px: np.ndarray, shape: tuple[int, ...], margin: float = 0.0
) -> np.ndarray:
    """Returns which joints [joints] are in a picture of shape [height, width].

    Args:
        joints_px: [joints, 2] pixels.
        shape: Of the picture.
        margin: Pixels that they are to be away from its edges.
    """
    size = np.array(shape[::-1])
    is_there = (joints_px >= margin) & (joints_px < size - margin)
    return np.asarray(is_there.all(axis=1))


def mean_of_surest(pose: Pose, shape: tuple[int, ...]) -> float:
    """Returns the mean confidence of a third of the joints: the surest in the picture.

    Of somebody of whom a part is seen these are plain; a thing has one or two.
    """
    there = np.where(in_picture(pose.joints_px, shape), pose.confidence, 0)
    return float(np.sort(there)[-(there.size // 3) :].mean())


def side_of(joints_m: np.ndarray, skeleton: Skeleton) -> Side:
    """Returns which hand has joints [joints, 3]; empty of a body.

    Fingers bend towards the palm, and so does the thumb. The first joint, the index
    finger's base and the little one's span the palm: a right hand's fingers lie on the
    side that a right-handed screw moves to, turned from the index to the little finger.
    """
    if skeleton.found_as != "hands":
        return ""
    at = dict(zip(skeleton.joints, joints_m, strict=True))
    root = joints_m[0]
    normal = np.cross(at["index_base"] - root, at["little_base"] - root)
    beyond = [
        place - root
        for name, place in at.items()
        if name.endswith(("_1", "_2", "_tip"))
    ]
    return "right" if float(np.mean(beyond, axis=0) @ normal) > 0 else "left"
