"""2-D joints and the depth image they were found in -> 3-D joints."""

import numpy as np

from cmbjax.camera import pixels_to_camera
from cmbjax.depth import crops

# Of the readings around a joint: near the front, as a limb's edge shows what is behind.
PERCENTILE = 25
AROUND = np.indices((3, 3)).reshape(2, 9) - 1  # rows and columns of a pixel and others


def surface_depth(
    depth_mm: np.ndarray,
    joints_px: np.ndarray,
    reference_mm: float,
    focal_px: float,
    *,
    reach_mm: float,
    limb_m: float,
) -> np.ndarray:
    """Returns how far the visible surface is at each joint: [joints], metres.

    Args:
        depth_mm: [height, width], 0 = no reading.
        joints_px: [joints, 2] pixels; may lie outside the image.
        reference_mm: The person's depth; stands in where there is no reading.
        focal_px: Focal length, pixels.
        reach_mm: Readings further from the person belong to something else.
        limb_m: The surface at a joint is looked for this far around it.
    """
    height, width = depth_mm.shape
    radius = max(1.0, limb_m * focal_px * 1000 / max(reference_mm, 1.0))
    surface = np.full(len(joints_px), reference_mm / 1000, np.float32)
    centres = np.nan_to_num(joints_px, nan=-np.inf)  # a joint nowhere has no reading
    corners = np.floor(np.stack([centres - radius, centres + radius], axis=1))
    limits = np.array([width, height])
    for joint, (low, high) in enumerate(np.clip(corners, -1, limits).astype(int)):
        low = np.maximum(low, 0)
        patch = depth_mm[low[1] : high[1] + 1, low[0] : high[0] + 1].astype(np.float32)
        near = patch[(patch > 0) & (np.abs(patch - reference_mm) <= reach_mm)]
        if near.size:
            surface[joint] = _percentile(near, PERCENTILE) / 1000
    return surface


def _percentile(values: np.ndarray, percent: float) -> float:
    """Returns what NumPy's percentile does of a vector, at a tenth of its cost.

    An evaluation asks for it some hundred times a frame, of a few readings each.
    """
    at = percent / 100 * (values.size - 1)
    below = int(at)
    above = min(below + 1, values.size - 1)
    low, high = np.partition(values, (below, above))[[below, above]].tolist()
    return low + (high - low) * (at - below)


def lift(
    depth_mm: np.ndarray,
    joints_px: np.ndarray,
    reference_mm: float,
    camera: np.ndarray,
    offsets_m: np.ndarray,
    *,
    reach_mm: float,
    limb_m: float,
) -> np.ndarray:
    """Back-projects joints from the surface, and moves each behind it.

    Args:
        depth_mm: [height, width], 0 = no reading.
        joints_px: [joints, 2] pixels.
        reference_mm: The person's depth.
        camera: [fx, fy, cx, cy], pixels.
        offsets_m: [joints] how far each joint lies behind the surface; see `offsets`.
        reach_mm: See `surface_depth`.
        limb_m: See `surface_depth`.

    Returns:
        [joints, 3] metres, camera frame.
    """
    surface = surface_depth(
        depth_mm,
        joints_px,
        reference_mm,
        float(camera[0]),
        reach_mm=reach_mm,
        limb_m=limb_m,
    )
    return pixels_to_camera(joints_px, surface + offsets_m, camera)


def hidden(
    depth_mm: np.ndarray, joints_px: np.ndarray, depths_m: np.ndarray, thick_m: float
) -> np.ndarray:
    """Returns which joints [joints] are behind a surface, of others or of the body.

    Where there is no reading, nothing is known to be in front.

    Args:
        depth_mm: [height, width], 0 = no reading.
        joints_px: [joints, 2] pixels; outside the image nothing is hidden.
        depths_m: [joints] metres.
        thick_m: A joint that is no further behind the surface is not hidden.
    """
    height, width = depth_mm.shape
    is_inside = ((joints_px >= 0) & (joints_px < (width, height))).all(axis=1)
    column, row = joints_px[is_inside].astype(int).T
    rows, columns = row[:, None] + AROUND[0], column[:, None] + AROUND[1]
    is_there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    around = depth_mm[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    # Sorted, no readings come first; the median is the middle of what follows.
    readings = np.sort(np.where(is_there, around, 0), axis=1).astype(np.float32)
    missing = (readings == 0).sum(axis=1)
    middle = np.stack([8 + missing, 9 + missing], axis=1) // 2
    both = readings[np.arange(len(readings))[:, None], middle.clip(0, 8)]
    surface_m = both.mean(axis=1) / 1000
    is_hidden = np.zeros(len(joints_px), bool)
    is_behind = depths_m[is_inside] - surface_m > thick_m
    is_hidden[is_inside] = is_behind & (missing < 9)
    return is_hidden


def regressed_to_camera(
    joints: np.ndarray,
    frame_from_crop: np.ndarray,
    reference_mm: float,
    camera: np.ndarray,
    *,
    side: int,
    depth_range: float,
) -> np.ndarray:
    """Returns the joints [joints, 3] of a 3-D head in metres, camera frame.

    Args:
        joints: [joints, 3] x and y as fractions of the crop from its centre, z in
            normalised depth.
        frame_from_crop: [2, 3] transform.
        reference_mm: The person's depth.
        camera: [fx, fy, cx, cy], pixels.
        side: Of the crop, pixels.
        depth_range: See `crops.normalise`, millimetres.
    """
    inside = (joints[:, :2] + 0.5) * side
    joints_px = crops.transform_points(frame_from_crop, inside)
    depth_m = (reference_mm + joints[:, 2] * depth_range) / 1000
    return pixels_to_camera(joints_px, depth_m, camera)


def offsets(
    joints_z_m: np.ndarray,
    surfaces_m: np.ndarray,
) -> np.ndarray:
    """Returns the median distance [joints] behind the surface, 0 where unlabelled.

    Args:
        joints_z_m: [frames, joints] labelled depth, metres; NaN where there is none.
        surfaces_m: [frames, joints] as `surface_depth` gives it.
    """
    behind = joints_z_m - surfaces_m
    unlabelled = np.isnan(behind).all(axis=0)
    return np.nanmedian(np.where(unlabelled, 0, behind), axis=0).astype(np.float32)
