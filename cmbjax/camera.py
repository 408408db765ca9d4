"""Pinhole camera: pixels <-> metres.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres. A camera is [fx, fy, cx, cy] in pixels, NaN where unknown.
"""

import numpy as np

# ITOP (both views) projects with X = (u - 160) z 0.0035 for 0-based pixel indices u;
# our pixel coordinates are half a pixel larger.
ITOP_CAMERA = np.array([1 / 0.0035, 1 / 0.0035, 160.5, 120.5], np.float32)

# Of the shorter side, where nothing is known; Kinect v1 has 1.19, v2 0.86.
DEFAULT_FOCAL = 1.07


def default_camera(shape: tuple[int, ...]) -> np.ndarray:
    """Returns [fx, fy, cx, cy] to assume of an image of shape [height, width]."""
    height, width = shape
    focal = DEFAULT_FOCAL * min(height, width)
    return np.array([focal, focal, width / 2, height / 2], np.float32)


def pixels_to_camera(
    joints_px: np.ndarray,
    depth_m: np.ndarray,
    camera: np.ndarray,
) -> np.ndarray:
    """Back-projects pixels whose distance along the optical axis is known.

    Args:
        joints_px: [..., 2] pixels.
        depth_m: [...] z of each of them, metres.
        camera: [fx, fy, cx, cy], pixels.

    Returns:
        [..., 3] metres, in the camera frame.
    """
    xy = (joints_px - camera[2:]) / camera[:2] * depth_m[..., None]
    return np.concatenate([xy, depth_m[..., None]], axis=-1)


def camera_to_pixels(
    joints_m: np.ndarray,
    camera: np.ndarray,
) -> np.ndarray:
    """Projects points in front of the camera.

    Args:
        joints_m: [..., 3] metres, in the camera frame, z > 0.
        camera: [fx, fy, cx, cy], pixels.

    Returns:
        [..., 2] pixels.
    """
    return joints_m[..., :2] / joints_m[..., 2:] * camera[:2] + camera[2:]
