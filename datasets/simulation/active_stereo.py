"""Two infrared cameras and a pattern (RealSense D4xx): what they measure of a scene.

Images are [height, width]; depth is along the optical axis, metres, 0 = no reading.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, UInt16

from datasets.simulation import Depth
from datasets.simulation.structured_light import shadow, smooth_noise

FAR_M = 10.0
NATIVE_WIDTH = 848  # pixels of the cameras, whatever the width of the image
EDGE = 0.04  # of the depth: surfaces that are further apart have an edge


@dataclasses.dataclass(frozen=True)
class Noise:
    """How bad one sensor is.

    Attributes:
        baseline_m: Between the cameras.
        disparity_px: Standard deviation of the disparity, native pixels.
        grain_px: Over which errors are alike.
        window_px: Half the window that is compared: what is near grows by it.
        dark: Share of dark surfaces without a reading.
        unmatched: Share of the picture that is not matched, at 2 m; the pattern grows
            weaker with distance.
        edges: Share of depth edges without a reading.
        near_m: Nearest reading.
    """

    baseline_m: float = 0.05
    disparity_px: float = 0.1
    grain_px: float = 3.0
    window_px: int = 2
    dark: float = 0.3
    unmatched: float = 0.01
    edges: float = 0.1
    near_m: float = 0.25


def sample_noise(rng: np.random.Generator) -> Noise:
    """Draws a sensor."""
    return Noise(
        baseline_m=float(rng.uniform(0.045, 0.1)),
        disparity_px=float(rng.uniform(0.05, 0.3)),
        grain_px=float(rng.uniform(1.5, 5.0)),
        window_px=int(rng.integers(1, 4)),
        dark=float(rng.beta(0.7, 0.7)),
        unmatched=float(rng.uniform(0.0, 0.03)),
        edges=float(rng.uniform(0.0, 0.5)),
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
    window = cv2.getStructuringElement(
        cv2.MORPH_ELLIPSE, (2 * noise.window_px + 1,) * 2
    )
    fattened = cv2.erode(exact, window)
    # The second camera is at the right of the first, which gives the picture: what it
    # cannot see has no reading.
    holes = shadow(fattened, focal_px, noise.baseline_m)
    near = cv2.erode(fattened, np.ones((3, 3), np.uint8))
    holes |= (fattened - near > EDGE * near) & (rng.random(shape) < noise.edges)
    patches = smooth_noise(rng, shape, 3.0)
    holes |= dark & (patches < np.quantile(patches, noise.dark))
    strength = noise.unmatched * (fattened / 2.0) ** 2
    rank = np.argsort(np.argsort(smooth_noise(rng, shape, 2.0), axis=None))
    holes |= rank.reshape(shape) / rank.size < np.minimum(strength, 0.6)
    native_px = focal_px * NATIVE_WIDTH / max(shape)
    error = noise.disparity_px * smooth_noise(rng, shape, noise.grain_px)
    disparity = native_px * noise.baseline_m / fattened + error
    measured = native_px * noise.baseline_m / np.maximum(disparity, 0.1)
    valid = ~holes & (measured > noise.near_m) & (measured <= FAR_M)
    return np.where(valid, np.rint(1000 * measured), 0).astype(np.uint16)
