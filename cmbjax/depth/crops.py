"""Which square of a frame the network sees, how its depth is scaled, and the way back.

A box is [x0, y0, x1, y1] in pixels. A transform is a [2, 3] affine matrix between
frame pixels and crop pixels; both count the centre of the top-left pixel (0.5, 0.5).
"""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from cmbjax.skeletons import Segment

CropMode = Literal["full", "person", "label_box"]

# Joints lie inside the body: the outline is this much of the joints' box further out.
OUTLINE = 0.08
# A crop's side as a multiple of the longer side of the body's box.
MARGIN = 1.15
LEGS = 2.0  # trunks from the hips to the feet: adults have 1.9 to 2.1
LEAST_AROUND = 5  # readings next to a missing one, for it to be filled
FARTHEST = np.uint16(2**16 - 1)
LEAST_UP = 0.28  # of a trunk's length in the image: shorter, it is seen from an end
REFERENCE_SIDE = 64  # pixels; enough to tell a person's depth from


def body_box(joints_px: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Returns the box [4] of the visible joints, grown to the outline of the body.

    Args:
        joints_px: [joints, 2] pixels.
        visible: bool [joints].

    Raises:
        ValueError: No joint is visible.
    """
    if not visible.any():
        raise ValueError("a box needs at least one visible joint, got none")
    low, high = joints_px[visible].min(axis=0), joints_px[visible].max(axis=0)
    pad = OUTLINE * max(*(high - low), 1.0)
    return np.concatenate([low - pad, high + pad]).astype(np.float32)


def standing_box(
    joints_px: np.ndarray, up: Segment, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns the box [4] of somebody whose legs are not seen, if they are straight.

    Args:
        joints_px: [joints, 2] pixels; those below the hips do not count.
        up: The trunk, see `Skeleton`.
        shape: [height, width] of the picture, pixels, beyond which it does not reach.
    """
    hips, neck = (joints_px[list(joints)].mean(axis=0) for joints in up)
    trunk = neck - hips
    is_above = (joints_px - hips) @ trunk >= -1e-6 * float(trunk @ trunk)
    is_above[list(up[0])] = True
    outline = np.concatenate([joints_px[is_above], [hips - LEGS * trunk]])
    box = body_box(outline, np.ones(len(outline), bool))
    return np.clip(box, 0, np.tile(shape[1::-1], 2)).astype(np.float32)


def crop_transform(
    box: np.ndarray,
    side: int,
    *,
    margin: float = MARGIN,
    shift: tuple[float, float] = (0.0, 0.0),
    angle_deg: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """Returns the [2, 3] transform from frame pixels to those of a crop around a box.

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


def invert(transform: np.ndarray) -> np.ndarray:
    """Returns the [2, 3] transform that leads back."""
    return cv2.invertAffineTransform(transform.astype(np.float64)).astype(np.float32)


def transform_points(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Applies a transform to pixels [..., 2]."""
    return points @ transform[:, :2].T + transform[:, 2]


def cut(depth: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """Samples a crop [side, side] by nearest neighbour, 0 outside the frame.

    Nearest, because a mean of a near and a far surface is a depth where nothing is.
    """
    back = invert(transform).astype(np.float64)
    back[:, 2] += 0.5 * back[:, :2].sum(axis=1) - 0.5  # OpenCV's centres are integers
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(depth, back, (side, side), flags=flags, borderValue=0)


def person_depth(crop: np.ndarray, reach: float) -> float:
    """Returns the depth of whoever stands in the middle of a crop, 0 if all is holes.

    The nearest quarter of the middle finds the person, the median around it the depth.
    Neither asks for a label, so that training and prediction agree.

    Args:
        crop: [side, side], millimetres or raw, 0 = no reading.
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


def near_depth(crop: np.ndarray, distance: float, reach: float) -> float:
    """Returns the median reading of a crop's middle near a distance.

    Where there is none near, the distance was wrong: `person_depth`, or of a crop
    without any reading the distance.

    Args:
        crop: [side, side], millimetres or raw, 0 = no reading.
        distance: In the same unit; may be below 0, as a network may say anything.
        reach: Likewise; what is near.
    """
    side = len(crop)
    middle = crop[side // 4 : side - side // 4, side // 4 : side - side // 4]
    near = middle[(middle > 0) & (np.abs(middle - distance) <= reach)]
    if near.size:
        return float(np.median(near))
    return person_depth(crop, reach) or float(distance)


def filled(crop: np.ndarray) -> np.ndarray:
    """Returns a crop whose single missing readings are those of a near neighbour.

    Larger holes stay: what is behind a body's shadow is not known.
    """
    for _ in range(2):
        valid = (crop > 0).astype(np.uint8)
        around = cv2.boxFilter(valid, cv2.CV_8U, (3, 3), normalize=False)
        holes = (valid == 0) & (around >= LEAST_AROUND)
        if not holes.any():
            break
        nearest = cv2.erode(np.where(valid > 0, crop, FARTHEST), np.ones((3, 3)))
        crop = np.where(holes, nearest, crop)
    return crop


def quarter_turns_deg(up: np.ndarray) -> int:
    """Returns the quarter turns, clockwise on the screen, that set a person upright.

    Args:
        up: [2] from the hips to the neck in the image, in lengths of the trunk: where
            that is short, the person is seen from above or below, and stays.
    """
    if not np.linalg.norm(up) >= LEAST_UP:
        return 0
    angle = np.degrees(np.arctan2(up[0], -up[1]))
    return int(-90 * np.rint(angle / 90)) % 360


def normalise(crop: np.ndarray, reference: float, depth_range: float) -> np.ndarray:
    """Returns depth relative to the person's, in [-1, 1]: float32 [side, side, 1].

    Args:
        crop: [side, side], millimetres or raw, 0 where there is no reading.
        reference: The person's depth, in the same unit.
        depth_range: What becomes 1, in the same unit. What lies farther is clipped,
            and holes count as far: Kinect loses the background first.
    """
    relative = (crop.astype(np.float32) - reference) / depth_range
    far = np.float32(1)
    return np.where(crop > 0, np.clip(relative, -1, 1), far)[..., None]


class Crop(NamedTuple):
    """What the network sees of a depth image.

    Attributes:
        depth: [side, side, 1] normalised.
        frame_from_crop: [2, 3] transform.
        reference: The person's depth, millimetres or raw.
    """

    depth: np.ndarray
    frame_from_crop: np.ndarray
    reference: float


def look(
    depth: np.ndarray,
    box: np.ndarray,
    *,
    side: int,
    depth_range: float,
    around: np.ndarray | None = None,
    distance: float | None = None,
    roll_deg: float = 0.0,
) -> Crop:
    """Returns what the network sees of a depth image, without augmentation.

    Args:
        depth: [height, width], millimetres or raw, 0 = no reading.
        box: What to show, pixels.
        side: Of the crop, pixels.
        depth_range: See `normalise`.
        around: The box of the person whose depth is the reference; by default `box`.
        distance: About how far the person is, in the unit of `depth`, where that is
            known: what stands before the person is then not taken for it.
        roll_deg: Turns what is seen, clockwise, so that the person is upright.
    """
    transform = crop_transform(box, side, angle_deg=roll_deg)
    crop = filled(cut(depth, transform, side))
    if distance is not None:
        reference = near_depth(crop, distance, depth_range / 2)
    elif around is None:
        reference = person_depth(crop, depth_range / 2)
    else:
        reference = reference_depth(depth, around, depth_range)
    return Crop(normalise(crop, reference, depth_range), invert(transform), reference)


def reference_depth(depth: np.ndarray, box: np.ndarray, depth_range: float) -> float:
    """Returns the depth of the person in a box of a frame; see `person_depth`."""
    transform = crop_transform(box, REFERENCE_SIDE)
    return person_depth(cut(depth, transform, REFERENCE_SIDE), depth_range / 2)
