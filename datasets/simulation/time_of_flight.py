"""A time-of-flight depth camera (Kinect v2): what it measures of a scene known exactly.

Images are [height, width]; depth is along the optical axis, metres, 0 = no reading.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, UInt16

from datasets.simulation import Depth

FAR_M = 8.0
GRAZING = 0.12  # the cosine from which on a surface gets no noisier


@dataclasses.dataclass(frozen=True)
class Noise:
    """How bad one sensor is.

    Attributes:
        deviation_m: Standard deviation of a reading at 1 m; it grows with distance.
        flying: Share of the pixels at an edge that lie between near and far.
        edges: Share of the pixels at an edge without a reading.
        dark: Share of dark surfaces without a reading.
        blur_px: Over which a reading is averaged with its own surface.
        near_m: Nearest reading.
        edge_m: Surfaces further apart than this mix into flying pixels.
    """

    deviation_m: float = 0.0015
    flying: float = 0.5
    edges: float = 0.2
    dark: float = 0.3
    blur_px: float = 0.6
    near_m: float = 0.3
    edge_m: float = 0.1


def sample_noise(rng: np.random.Generator) -> Noise:
    """Draws a sensor."""
    return Noise(
        deviation_m=float(rng.uniform(0.0005, 0.003)),
        flying=float(rng.uniform(0.1, 0.8)),
        edges=float(rng.uniform(0.0, 0.5)),
        dark=float(rng.beta(0.7, 0.7)),
        blur_px=float(rng.uniform(0.3, 0.9)),
    )


def measure(
    depth_m: Depth,
    dark: Bool[np.ndarray, "height width"],
    noise: Noise,
    focal_px: float,
    rng: np.random.Generator,
) -> UInt16[np.ndarray, "height width"]:
    """Returns what this sensor reads; see `Sensor`."""
    shape = depth_m.shape
    exact = np.where(depth_m > 0, depth_m, 2 * FAR_M).astype(np.float32)
    window = np.ones((3, 3), np.uint8)
    near, far = cv2.erode(exact, window), cv2.dilate(exact, window)
    edge = far - near > noise.edge_m
    # Within a surface light scatters to the neighbours, over an edge it mixes.
    blurred = cv2.GaussianBlur(exact, (0, 0), noise.blur_px)
    measured = np.where(edge, exact, blurred)
    flying = edge & (rng.random(shape) < noise.flying)
    measured = np.where(
        flying, near + rng.random(shape) * np.minimum(far - near, 1.5), measured
    )
    slope_y, slope_x = np.gradient(measured)
    facing = 1 / np.sqrt(1 + (focal_px / measured) ** 2 * (slope_x**2 + slope_y**2))
    grain = cv2.GaussianBlur(rng.standard_normal(shape, np.float32), (0, 0), 2.0)
    holes = dark & (grain < np.quantile(grain, noise.dark))
    holes |= edge & (rng.random(shape) < noise.edges)
    # The fewer photons come back, the noisier: with distance, and where light grazes.
    deviation = noise.deviation_m * measured**2 / np.sqrt(np.maximum(facing, GRAZING))
    measured = measured + deviation * rng.standard_normal(shape)
    valid = ~holes & (measured > noise.near_m) & (measured <= FAR_M)
    return np.where(valid, np.rint(1000 * measured), 0).astype(np.uint16)
