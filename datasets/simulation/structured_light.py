"""A structured-light depth camera: what it measures of a scene known exactly.

Images are [height, width]; depth is along the optical axis, metres, 0 = no reading.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, UInt16

from datasets.simulation import Depth

# Disparity steps: two neighbouring readings at z metres differ by STEP * z^2.
STEP = 2.85e-3
FAR_M = 7.0
STRIPE = 3  # columns at the left that the pattern's window leaves without a reading


def quantise(depth_m: Depth) -> Depth:
    """Rounds to whole steps of disparity; readings beyond `FAR_M` become 0."""
    valid = (depth_m > 0) & (depth_m <= FAR_M)
    step = np.rint(1 / (STEP * np.where(valid, depth_m, 1.0)))
    return np.where(valid, 1 / (STEP * step), 0.0)


def shadow(
    depth_m: Depth, focal_px: float, baseline_m: float
) -> Bool[np.ndarray, "height width"]:
    """Finds the pixels that the projector, to the right of the camera, does not light.

    Args:
        depth_m: Exact depth, everywhere positive.
        focal_px: Focal length, pixels.
        baseline_m: Projector's distance from the camera, metres.

    Returns:
        True where something to the right, seen from the projector, stands before.
    """
    column = np.arange(depth_m.shape[1]) - focal_px * baseline_m / depth_m
    nearest = np.minimum.accumulate(column[:, ::-1], axis=1)[:, ::-1]
    return column > nearest + 1e-6


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], blur_px: float
) -> Depth:
    """Gaussian noise of standard deviation 1 whose grains are `blur_px` wide."""
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), blur_px, borderType=cv2.BORDER_REFLECT)
    return np.asarray(noise / noise.std(), np.float32)


@dataclasses.dataclass(frozen=True)
class Noise:
    """How bad one sensor is.

    Attributes:
        jitter_px: Standard deviation of the silhouettes' displacement.
        grain_px: Size of the matching window, over which noise is alike.
        steps: Standard deviation of the measured disparity, in its steps.
        bloom_px: By how much what is near outgrows its outline.
        baseline_m: Camera to projector.
        bridged_px: Shadows up to this wide are filled from their sides.
        dark: Share of dark surfaces that do not reflect enough.
        patches: Share of the picture lost for no reason modelled here.
        edges: Share of depth edges that stay without a reading.
    """

    jitter_px: float = 0.7
    grain_px: float = 1.3
    steps: float = 0.35
    bloom_px: int = 1
    baseline_m: float = 0.075
    bridged_px: int = 3
    dark: float = 0.3
    patches: float = 0.0
    edges: float = 0.03


def sample_noise(rng: np.random.Generator) -> Noise:
    """Draws a sensor."""
    return Noise(
        jitter_px=float(rng.uniform(0.2, 0.8)),
        grain_px=float(rng.uniform(0.9, 1.8)),
        steps=float(rng.uniform(0.15, 0.6)),
        bloom_px=int(rng.choice(3, p=(0.25, 0.55, 0.2))),
        baseline_m=float(rng.uniform(0.03, 0.09)),
        bridged_px=int(rng.integers(1, 6)),
        dark=float(rng.beta(0.7, 0.7)),
        patches=float(rng.exponential(0.006)) if rng.random() < 0.5 else 0.0,
        edges=float(rng.uniform(0.0, 0.12)),
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
    holes = shadow(exact, focal_px, noise.baseline_m)
    kernel = np.ones((1, noise.bridged_px + 1), np.uint8)
    wide = cv2.morphologyEx(holes.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    holes = wide.astype(bool)
    # The matching window takes the nearer of the surfaces in it.
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * noise.bloom_px + 1,) * 2)
    bloomed = cv2.erode(exact, window)
    grain = smooth_noise(rng, shape, 2.5)
    # Light is lost in patches, not in single pixels.
    holes |= dark & (grain < np.quantile(grain, noise.dark))
    patches = smooth_noise(rng, shape, 4.0)
    holes |= patches < np.quantile(patches, noise.patches)
    moved = np.indices(shape).astype(np.float32)
    moved[0] += noise.jitter_px * smooth_noise(rng, shape, noise.grain_px)
    moved[1] += noise.jitter_px * smooth_noise(rng, shape, noise.grain_px)
    measured = _look_up(bloomed, moved)
    holes = _look_up(holes.astype(np.uint8), moved).astype(bool)
    edge = (
        cv2.morphologyEx(measured, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0.25
    )
    holes |= edge & (rng.random(shape, np.float32) < noise.edges)
    error = noise.steps * smooth_noise(rng, shape, noise.grain_px)
    measured = 1 / np.maximum(1 / measured + STEP * error, 1e-3)
    reading = np.where(holes, 0.0, quantise(measured))
    reading[:, :STRIPE] = 0
    return np.rint(1000 * reading).astype(np.uint16)


def _look_up(image: np.ndarray, moved: np.ndarray) -> np.ndarray:
    rows, columns = moved
    return cv2.remap(
        image, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
    )
