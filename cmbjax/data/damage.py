"""Depth as worse cameras and fuller rooms give it: readings that are missing or hidden.

Every function returns a changed copy of a depth image [height, width], millimetres or
raw, 0 = no reading. Boxes are [x0, y0, x1, y1] in pixels.
"""

from typing import NamedTuple

import cv2
import numpy as np

LARGEST_PATCH = 0.08  # of the image's width: an ellipse's longer half axis
EDGE = 0.05  # of the depth: a larger jump is an edge
NEAREST_MM = 300.0  # nothing is put closer to the camera


def without_single_readings(
    rng: np.random.Generator, depth: np.ndarray, share: float
) -> np.ndarray:
    """Returns depth without a share of its readings, at random."""
    return np.where(rng.random(depth.shape, np.float32) < share, 0, depth)


def without_clouds_of_readings(
    rng: np.random.Generator, depth: np.ndarray
) -> np.ndarray:
    """Returns depth without most readings in some regions, as in sunlight or far away.

    How many are missing changes smoothly over the image.
    """
    coarse = rng.random((int(rng.integers(2, 9)), int(rng.integers(2, 9))), np.float32)
    smooth = cv2.resize(coarse, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    share = np.clip(2 * (smooth - rng.uniform(0.45, 0.85)), 0, 0.9)
    return np.where(rng.random(depth.shape, np.float32) < share, 0, depth)


def without_edges(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Returns depth without most readings beside jumps of the depth."""
    values = depth.astype(np.float32)
    three = np.ones((3, 3), np.uint8)
    jump = cv2.dilate(values, three) - cv2.erode(values, three)
    is_edge = (jump > EDGE * values).astype(np.uint8)
    reach = 1 + 2 * int(rng.integers(0, 3))
    near_edge = cv2.dilate(is_edge, np.ones((reach, reach), np.uint8)) > 0
    lost = rng.random(depth.shape, np.float32) < rng.uniform(0.3, 1.0)
    return np.where(near_edge & lost, 0, depth)


def as_stereo_sees_it(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Returns depth as a pair of cameras gives it, beside an exact one's.

    What is near grows by the window that is compared, what is far has no reading where
    only one of the cameras sees it, and errors change smoothly and grow with distance.
    """
    farthest = np.iinfo(np.uint16).max
    values = np.where(depth > 0, depth, farthest).astype(np.uint16)
    window = 1 + 2 * int(rng.integers(0, 4))
    near = cv2.erode(values, np.ones((window, window), np.uint8))
    values = np.where(values - near.astype(np.float32) > EDGE * near, near, values)
    shadow = 1 + int(rng.integers(0, 7))
    left = np.zeros((1, 2 * shadow + 1), np.uint8)
    left[0, shadow:] = 1  # what is nearer in the next columns hides this one
    before = cv2.erode(values, left).astype(np.float32)
    lost = (values - before > EDGE * before) | (values == farthest)
    coarse = rng.standard_normal([1 + size // 6 for size in depth.shape])
    smooth = cv2.resize(coarse, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    error = rng.uniform(0, 0.004) * smooth * values * (values / 2000)
    noisy = np.clip(values + error, 1, farthest - 1)
    return np.where(lost, 0, noisy).astype(np.uint16)


def without_patches(
    rng: np.random.Generator, depth: np.ndarray, number: int
) -> np.ndarray:
    """Returns depth without readings in some ellipses."""
    depth = depth.copy()
    height, width = depth.shape
    for _ in range(number):
        at = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        axes = [int(v) for v in rng.uniform(1, LARGEST_PATCH * width + 1, 2)]
        cv2.ellipse(depth, at, axes, rng.uniform(0, 180), 0, 360, 0, cv2.FILLED)
    return depth


def without_blobs(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """Returns depth without readings in blobs: of dark, shining or far surfaces.

    They are a tenth to two fifths of the image, and of a size that is drawn.
    """
    coarse = rng.standard_normal(rng.integers(4, 17, 2), np.float32)
    smooth = cv2.resize(coarse, depth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.where(smooth > np.quantile(smooth, rng.uniform(0.6, 0.9)), 0, depth)


def without_hair(
    rng: np.random.Generator, depth: np.ndarray, head_px: np.ndarray, size: float
) -> np.ndarray:
    """Returns depth without readings on a head, as dark hair gives none.

    Args:
        rng: Draws how much of the head.
        depth: The image.
        head_px: [2] its middle.
        size: Of the body in the image, pixels.
    """
    depth = depth.copy()
    if np.isfinite(head_px).all():
        x, y = np.clip(head_px, -1000, 10_000).astype(int).tolist()
        radius = 1 + int(rng.uniform(0.05, 0.1) * size)
        cv2.circle(depth, (x, y), radius, 0, cv2.FILLED)
    return depth


def without_background(
    depth: np.ndarray,
    boxes: np.ndarray,
    distances: np.ndarray,
    reach: float,
) -> np.ndarray:
    """Returns depth in boxes [people, 4] alone, near their distances [people]."""
    kept = np.zeros(depth.shape, bool)
    for box, distance in zip(boxes, distances, strict=True):
        x0, y0, x1, y1 = box.astype(int)
        inside = depth[y0:y1, x0:x1].astype(np.float32)
        kept[y0:y1, x0:x1] |= np.abs(inside - distance) < reach
    return np.where(kept, depth, 0)


class Cover(NamedTuple):
    """Something before the lower part of a person: a table, a board, a bed.

    Attributes:
        left: Its first column.
        right: The column after its last.
        top: Its first row.
        distance: Of its upper edge.
    """

    left: int
    right: int
    top: int
    distance: float


def covered_below(
    rng: np.random.Generator, depth: np.ndarray, box: np.ndarray, distance: float
) -> tuple[np.ndarray, Cover]:
    """Returns depth with something before the lower part of what is in a box.

    Args:
        rng: Draws what.
        depth: The image, millimetres.
        box: Of a person.
        distance: Of the person.
    """
    x0, y0, x1, y1 = box
    top = int(y0 + rng.uniform(0.35, 0.8) * (y1 - y0))
    wide = rng.uniform(0.6, 3) * (x1 - x0)
    middle = (x0 + x1) / 2 + rng.normal(0, 0.2) * wide
    left, right = int(max(0, middle - wide)), int(max(1, middle + wide))
    near = max(NEAREST_MM, distance - rng.uniform(150, 900))
    depth = depth.copy()
    covered = depth[top:, left:right]
    slope = np.linspace(0, rng.uniform(-0.3, 0.1), len(covered))[:, None] * near
    surface = np.clip(near + slope, NEAREST_MM / 2, np.iinfo(np.uint16).max)
    is_before = (covered == 0) | (covered > surface)
    depth[top:, left:right] = np.where(is_before, surface, covered)
    return depth, Cover(left, right, top, near)
