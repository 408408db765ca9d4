"""Poses drawn over depth, by OpenCV: near is light, holes are blue."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from cmbjax.files import whole_file
from cmbjax.skeletons import Skeleton, joint_colours

ENLARGED = 640  # pixels of a picture's longer side, at most, where it is enlarged
HOLE = (74, 52, 35)  # blue, green, red
EDGE = (0, 0, 0)
SHIFT = 4  # fractional bits of OpenCV's coordinates


def draw(
    depth: np.ndarray, poses_px: Sequence[np.ndarray], skeleton: Skeleton
) -> np.ndarray:
    """Returns a picture [height, width, 3] uint8 of a frame with all poses in it.

    Args:
        depth: [height, width] any unit, 0 = no reading.
        poses_px: [joints, 2] pixels each. A joint that is not a number is left out,
            with its bones.
        skeleton: Whose bones.
    """
    scale = max(1, ENLARGED // max(depth.shape))
    picture = _shaded(depth).repeat(scale, axis=0).repeat(scale, axis=1)
    width = max(2, round(min(picture.shape[:2]) / 160))
    colours = [_blue_green_red(colour) for colour in joint_colours(skeleton)]
    for joints_px in poses_px:
        points = _points(scale * joints_px)
        for edge in (True, False):  # all edges lie under all bones
            for parent, joint in skeleton.bones:
                start, end = points[parent], points[joint]
                if start is None or end is None:
                    continue
                colour, thickness = colours[joint], width
                if edge:
                    colour, thickness = EDGE, width + 2
                cv2.line(
                    picture,
                    start,
                    end,
                    colour,
                    thickness,
                    cv2.LINE_AA,
                    SHIFT,
                )
        for point, colour in zip(points, colours, strict=True):
            if point is not None:
                radius = (width + 1) << SHIFT
                cv2.circle(
                    picture, point, radius, colour, cv2.FILLED, cv2.LINE_AA, SHIFT
                )
    return picture


def save(
    path: Path, depth: np.ndarray, poses_px: Sequence[np.ndarray], skeleton: Skeleton
) -> None:
    """Saves what `draw` returns as a PNG, whole or not at all.

    Raises:
        ValueError: A PNG cannot have that shape.
    """
    good, png = cv2.imencode(".png", draw(depth, poses_px, skeleton))
    if not good:
        raise ValueError(f"{path}: a picture of {depth.shape} cannot be written as PNG")
    with whole_file(path) as file:
        file.write(png.tobytes())


def _shaded(depth: np.ndarray) -> np.ndarray:
    """Returns depth as grey values, from its first to its last hundredth."""
    is_hole = depth == 0
    valid = depth[~is_hole]
    near, far = np.percentile(valid, [1, 99]) if valid.size else (0.0, 1.0)
    grey = 255 * (far - depth.astype(np.float32)) / max(far - near, 1e-6)
    picture = np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    picture[is_hole] = HOLE
    return picture


def _points(joints_px: np.ndarray) -> list[tuple[int, int] | None]:
    """Returns joints in OpenCV's coordinates, whose pixels have integer centres."""
    far = 1 << 20  # beyond any picture, and within OpenCV's integers
    is_number = np.isfinite(joints_px).all(axis=1)
    near = np.where(is_number[:, None], joints_px, 0).clip(-far, far)
    points = np.rint((near - 0.5) * (1 << SHIFT)).astype(int).tolist()
    return [
        (x, y) if good else None for (x, y), good in zip(points, is_number, strict=True)
    ]


def _blue_green_red(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red
