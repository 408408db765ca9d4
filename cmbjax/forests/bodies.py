"""A person cut out of a frame, as the forests see it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cmbjax.camera import camera_to_pixels, pixels_to_camera
from cmbjax.data.examples import DepthFrames, Example, decode_depth, frame_name
from cmbjax.data.views import found_target, labelled_target
from cmbjax.depth import crops
from cmbjax.depth.images import unpacked_png
from cmbjax.forests.trees import FAR_M

LEAST_PIXELS = 30
WITHIN = 0.8  # of how far parts may be before and behind the whole


class Body(NamedTuple):
    """The person of a frame.

    Attributes:
        depth_m: [height, width] metres, `FAR_M` but for the person.
        pixels: [points, 2] centres of the person's pixels.
        points_m: [points, 3] of these, camera frame.
        camera: [fx, fy, cx, cy] pixels.
    """

    depth_m: np.ndarray
    pixels: np.ndarray
    points_m: np.ndarray
    camera: np.ndarray


def cut_out(example: Example, frames: DepthFrames, *, labelled: bool) -> Body | None:
    """Returns the person of a frame; None where nobody is found.

    What is in the box and within `reach_mm` of the person's depth.

    Args:
        example: One of the frames.
        frames: In millimetres.
        labelled: Whether to take the label's box and depth, or to find the person.
    """
    depth, skeleton = decode_depth(example), frames.skeleton
    if labelled:
        target = labelled_target(example, depth, skeleton)
    else:
        target = found_target(example, depth, skeleton, metric=True)
    if target is None:
        return None
    reach = reach_mm(frames)
    box = target.box
    if target.distance is None:
        distance = crops.reference_depth(depth, box, reach)
    else:
        distance = target.distance
    height, width = depth.shape
    margin = 0.1 * (box[2:] - box[:2])
    low = np.clip(np.floor(box[:2] - margin), 0, [width, height]).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), 0, [width, height]).astype(int)
    near = np.zeros(depth.shape, bool)
    part = depth[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    near[low[1] : high[1], low[0] : high[0]] = (part > 0) & (
        np.abs(part - distance) < WITHIN * reach
    )
    rows, columns = np.nonzero(near)
    if len(rows) < LEAST_PIXELS:
        return None
    depth_m = np.where(near, depth / np.float32(1000), np.float32(FAR_M))
    pixels = np.stack([columns, rows], axis=1).astype(np.float32) + 0.5
    camera = np.asarray(example["camera"], np.float32)
    points_m = pixels_to_camera(pixels, depth_m[rows, columns], camera)
    return Body(depth_m, pixels, points_m.astype(np.float32), camera)


def reach_mm(frames: DepthFrames) -> float:
    """Returns how far before and behind the whole its parts may be, as networks see it.

    Where the data set does not say it, as the joints' kind has it.
    """
    return frames.depth_range or 1000 * frames.skeleton.reach_m


def labelled_bodies(frames: DepthFrames, title: str) -> Iterator[tuple[Example, Body]]:
    """Yields each frame whose labelled person is to be seen, with that cut out.

    Args:
        frames: Labelled, in millimetres.
        title: Of the progress bar.

    Raises:
        ValueError: There is no such frame.
    """
    is_empty = True
    for example in tqdm(frames.source, desc=title, mininterval=5):
        body = cut_out(example, frames, labelled=True)
        if body is not None:
            is_empty = False
            yield example, body
    if is_empty:
        what = frames.skeleton.found_as
        raise ValueError(f"no frame shows {what} to learn from")


def body_parts(body: Body, example: Example) -> np.ndarray:
    """Returns the joint [points] whose part each of a body's points is.

    As the data set labels it; where it does not, or says background, the nearest joint
    in space.

    Raises:
        ValueError: The labels are damaged; names the frame.
    """
    joints_m = np.asarray(example["joints_m"])
    known = np.isfinite(joints_m).all(axis=1)
    places = np.where(known[:, None], joints_m, 1e3)
    gaps = np.linalg.norm(body.points_m[:, None] - places[None], axis=-1)
    nearest = gaps.argmin(axis=1)
    if "parts" not in example:
        return nearest
    labels = unpacked_png(example["parts"])
    if labels is None:
        raise ValueError(f"frame {frame_name(example)}: its parts are no whole PNG")
    columns, rows = body.pixels.astype(int).T
    of_pixels = labels[rows, columns].astype(int) - 1
    return np.where(of_pixels >= 0, of_pixels, nearest)


def to_pixels(points_m: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Returns pixels [..., 2] of points in front of the camera."""
    safe = points_m.copy()
    safe[..., 2] = np.maximum(safe[..., 2], 0.05)
    return camera_to_pixels(safe, camera)
