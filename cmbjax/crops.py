"""Which square of a frame the network sees, how its depth is scaled, and the way back.

A box is [x0, y0, x1, y1] in pixels. A transform is a [2, 3] affine matrix between
frame pixels and crop pixels; both count the centre of the top-left pixel (0.5, 0.5).
"""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, Shaped

CropMode = Literal["full", "person", "label_box"]

# Joints lie inside the body: the outline is this much of the joints' box further out.
OUTLINE = 0.08
# A crop's side as a multiple of the longer side of the body's box.
MARGIN = 1.15


def body_box(
    joints_px: Float[np.ndarray, "joints xy=2"], visible: Bool[np.ndarray, " joints"]
) -> Float[np.ndarray, "box=4"]:
    """Returns the box of the visible joints, grown to the outline of the body.

    Raises:
        ValueError: No joint is visible.
    """
    if not visible.any():
        raise ValueError("a box needs at least one visible joint, got none")
    low, high = joints_px[visible].min(axis=0), joints_px[visible].max(axis=0)
    pad = OUTLINE * max(*(high - low), 1.0)
    return np.concatenate([low - pad, high + pad]).astype(np.float32)


def crop_transform(
    box: Float[np.ndarray, "box=4"],
    side: int,
    *,
    margin: float = MARGIN,
    shift: tuple[float, float] = (0.0, 0.0),
    angle_deg: float = 0.0,
    flip: bool = False,
) -> Float[np.ndarray, "2 3"]:
    """Maps frame pixels to the pixels of a square crop around a box.

    Args:
        box: What the crop is to show.
        side: The crop's side, pixels.
        margin: The square's side as a multiple of the longer side of the box.
        shift: Moves the square's centre, in sides of the square.
        angle_deg: Turns what is seen, clockwise on the screen.
        flip: Mirrors the crop's columns, after the turn.
    """
    extent = margin * max(box[2] - box[0], box[3] - box[1])
    centre = (box[:2] + box[2:]) / 2 + np.multiply(shift, extent)
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.diag([-1.0 if flip else 1.0, 1.0])
    linear = side / extent * mirror @ turn
    offset = side / 2 - linear @ centre
    return np.column_stack([linear, offset]).astype(np.float32)


def invert(transform: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
    """Returns the transform that leads back."""
    linear = np.linalg.inv(transform[:, :2].astype(np.float64))
    offset = -linear @ transform[:, 2]
    return np.column_stack([linear, offset]).astype(np.float32)


def transform_points(
    transform: Float[np.ndarray, "2 3"], points: Float[np.ndarray, "*points xy=2"]
) -> Float[np.ndarray, "*points xy=2"]:
    """Applies a transform to pixels."""
    return points @ transform[:, :2].T + transform[:, 2]


def cut(
    depth: Shaped[np.ndarray, "height width"],
    transform: Float[np.ndarray, "2 3"],
    side: int,
) -> Shaped[np.ndarray, "side side"]:
    """Samples a crop by nearest neighbour, 0 outside the frame.

    Nearest, because a mean of a near and a far surface is a depth where nothing is.
    """
    back = invert(transform).astype(np.float64)
    back[:, 2] += 0.5 * back[:, :2].sum(axis=1) - 0.5  # OpenCV's centres are integers
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(depth, back, (side, side), flags=flags, borderValue=0)


def person_depth(crop: Shaped[np.ndarray, "side side"], reach: float) -> float:
    """Returns the depth of whoever stands in the middle of a crop, 0 if all is holes.

    The nearest quarter of the middle finds the person, the median around it the depth.
    Neither asks for a label, so that training and prediction agree.

    Args:
        crop: Millimetres or raw, 0 = no reading.
        reach: How far around the first guess the median goes, in the same unit.
    """
    side = len(crop)
    middle = crop[side // 4 : side - side // 4, side * 3 // 8 : side - side * 3 // 8]
    valid = middle[middle > 0]
    if not valid.size:
        valid = crop[crop > 0]
    if not valid.size:
        return 0.0
    first = float(np.percentile(valid, 25, method="nearest"))
    return float(np.median(valid[np.abs(valid - first) <= reach]))


def normalise(
    crop: Shaped[np.ndarray, "side side"], reference: float, depth_range: float
) -> Float[np.ndarray, "side side 1"]:
    """Returns depth relative to the person's own, in [-1, 1].

    Args:
        crop: Depth, millimetres or raw, 0 where there is no reading.
        reference: The person's depth, in the same unit.
        depth_range: What becomes 1, in the same unit. What lies farther is clipped,
            and holes count as far: Kinect loses the background first.
    """
    relative = (crop.astype(np.float32) - reference) / depth_range
    return np.where(crop > 0, np.clip(relative, -1, 1), 1.0).astype(np.float32)[
        ..., None
    ]
