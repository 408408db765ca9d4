"""What a frame looks like in every data set: features, and one checked example."""

import cv2
import numpy as np
import tensorflow_datasets as tfds

from cmbjax.skeletons import Skeleton

DEPTH_UNITS = ("mm", "raw")  # raw: brighter or darker with distance, no known scale
# What is beyond these is no label but an error, and training on it is useless.
MOST_PX, MOST_M = 1e5, 100.0  # from the picture's corner, from the camera
LEAST_FOCAL_PX, MOST_FOCAL_PX = 1.0, 1e6


def features(skeleton: Skeleton, *, parts: bool = False) -> tfds.features.FeaturesDict:
    """Returns the features of a data set of labelled depth frames.

    Args:
        skeleton: Whose joints are labelled.
        parts: Whether there is a body-part label image: 0 background, 1 + i for a
            pixel that belongs to joint i.

    Returns:
        depth [height, width, 1] uint16 (millimetres or raw, 0 = no reading),
        joints_px [joints, 2] and joints_m [joints, 3] float32 (metres, camera frame,
        NaN where unlabelled), visible [joints] bool (labelled and counted), camera
        [fx, fy, cx, cy] float32 (pixels, NaN where unknown), frame and subject names.
    """
    joints = skeleton.num_joints
    fields = {
        "depth": tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint16, encoding_format="png"
        ),
        "joints_px": tfds.features.Tensor(shape=(joints, 2), dtype=np.float32),
        "joints_m": tfds.features.Tensor(shape=(joints, 3), dtype=np.float32),
        "visible": tfds.features.Tensor(shape=(joints,), dtype=np.bool_),
        "camera": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        "frame": tfds.features.Text(),
        "subject": tfds.features.Text(),
    }
    if parts:
        fields["parts"] = tfds.features.Image(
            shape=(None, None, 1), dtype=np.uint8, encoding_format="png"
        )
    return tfds.features.FeaturesDict(fields)


def example(
    *,
    depth: np.ndarray,
    joints_px: np.ndarray,
    frame: str,
    joints_m: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    camera: np.ndarray | None = None,
    subject: str = "",
    parts: np.ndarray | None = None,
) -> dict[str, object]:
    """Returns one example in the form of `features`, images encoded as PNG bytes.

    Args:
        depth: [height, width] uint16, 0 = no reading.
        joints_px: [joints, 2] pixels.
        frame: Name that finds the frame in its source.
        joints_m: [joints, 3] metres; NaN where absent.
        visible: [joints] bool; by default every joint counts.
        camera: [fx, fy, cx, cy] pixels.
        subject: Who is seen.
        parts: [height, width] uint8 body-part labels.

    Raises:
        ValueError: An array has another dtype or shape, a counted joint is not a
            number, or a number is beyond what a camera sees; the message names the
            frame.
    """
    joints = len(joints_px)
    if depth.dtype != np.uint16 or depth.ndim != 2:
        raise ValueError(
            f"{frame}: depth must be [height, width] uint16, "
            f"got {list(depth.shape)} {depth.dtype}"
        )
    if visible is None:
        visible = np.ones(joints, bool)
    if not np.isfinite(joints_px[visible]).all():
        raise ValueError(f"{frame}: a visible joint has no finite pixel position")
    check_within(frame, "joints_px", joints_px, MOST_PX)
    if joints_m is not None:
        check_within(frame, "joints_m", joints_m, MOST_M)
    if camera is not None:
        check_camera(frame, camera)
    fields: dict[str, object] = {
        "depth": encode_png(depth),
        "joints_px": np.asarray(joints_px, np.float32),
        "joints_m": np.full((joints, 3), np.nan, np.float32)
        if joints_m is None
        else np.asarray(joints_m, np.float32),
        "visible": np.asarray(visible, bool),
        "camera": np.full(4, np.nan, np.float32)
        if camera is None
        else np.asarray(camera, np.float32),
        "frame": frame,
        "subject": subject,
    }
    if parts is not None:
        fields["parts"] = encode_png(parts)
    return fields


def check_within(where: str, name: str, values: np.ndarray, most: float) -> None:
    """Refuses numbers beyond a limit; NaN, what is not known, passes.

    Args:
        where: File or frame, for the error.
        name: Of the numbers.
        values: Of any shape.
        most: Pixels or metres, in either direction.

    Raises:
        ValueError: A number is beyond the limit.
    """
    beyond = values[np.abs(values) > most]
    if beyond.size:
        raise ValueError(
            f"{where}: {name} must be from {-most:g} to {most:g}, got {beyond[0]:g}"
        )


def check_camera(where: str, camera: np.ndarray) -> None:
    """Refuses [fx, fy, cx, cy] that no camera has; NaN, what is not known, passes.

    Raises:
        ValueError: A number is beyond its limits.
    """
    focal = camera[:2]
    if ((focal <= LEAST_FOCAL_PX) | (focal >= MOST_FOCAL_PX)).any():
        raise ValueError(
            f"{where}: fx and fy must be between {LEAST_FOCAL_PX:g} and "
            f"{MOST_FOCAL_PX:g} pixels, got {focal[0]:g} and {focal[1]:g}"
        )
    check_within(where, "cx and cy", camera[2:], MOST_PX)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes a one-channel uint8 or uint16 image."""
    done, png = cv2.imencode(".png", image)
    assert done, "OpenCV encodes every uint8 and uint16 image"
    return png.tobytes()
