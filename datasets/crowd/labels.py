"""What whole frames say of each person in them, or of each hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmbjax.camera import camera_to_pixels
from datasets.people.frames import Camera

Fields = Mapping[str, tuple[tuple[int, ...], type]]


def fields(joints: int) -> Fields:
    """Returns shape and type of what `label` tells of one person."""
    return {
        "boxes": ((4,), np.float32),
        "depths_m": ((), np.float32),
        "joints_px": ((joints, 2), np.float32),
        "joints_m": ((joints, 3), np.float32),
        "inside": ((joints,), np.bool_),
        "hidden": ((joints,), np.bool_),
    }


def label(
    mask: np.ndarray,
    exact: np.ndarray,
    joints_m: np.ndarray,
    camera: Camera,
    *,
    nearest_m: float,
    behind_m: float,
    on_itself: bool,
) -> dict[str, Any]:
    """Returns the labels of one person or hand.

    Args:
        mask: [height, width] bool, where it is seen: somewhere.
        exact: [height, width] depth, metres.
        joints_m: [joints, 3] metres, camera frame.
        camera: That sees it.
        nearest_m: Joints that are not further away have no place in the picture.
        behind_m: Joints that are so far behind what is seen there are hidden.
        on_itself: Whether joints are hidden, too, where it is not seen itself.

    Returns:
        box, median depth, joints in pixels (NaN: no place) and metres, which of them
        lie inside the picture, and which are hidden.
    """
    size = np.array([camera.width, camera.height])
    rows, columns = np.nonzero(mask)
    ahead = np.where(joints_m[:, 2:] > nearest_m, joints_m, np.nan)
    joints_px = camera_to_pixels(ahead, camera.intrinsics)
    with np.errstate(invalid="ignore"):
        inside = ((joints_px >= 0) & (joints_px < size)).all(axis=1)
    x, y = np.clip(np.nan_to_num(joints_px), 0, size - 1).astype(int).T
    hidden = ~inside | (joints_m[:, 2] - exact[y, x] > behind_m)
    return {
        "boxes": (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1),
        "depths_m": float(np.median(exact[mask])),
        "joints_px": joints_px,
        "joints_m": joints_m,
        "inside": inside,
        "hidden": hidden | ~mask[y, x] if on_itself else hidden,
    }


def stacked(
    labels: Sequence[Mapping[str, Any]], fields: Fields
) -> dict[str, np.ndarray]:
    """Returns the labels of everyone in a frame, as one array a field."""
    return {
        key: np.array([label[key] for label in labels])
        .reshape(len(labels), *shape)
        .astype(kind)
        for key, (shape, kind) in fields.items()
    }
