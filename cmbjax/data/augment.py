"""Random views and sensor noise of training frames (Sec. 5: flipping, rotation)."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt16

from cmbjax.data.flags import check_ranges
from cmbjax.depth import crops

# Scales of Laplace distributions, by the worst boxes of the data set crowd, validation:
# how far a crop is moved along an axis, in its sides; the logarithm of how much too
# large it is, and that distribution's median. Farther than the last ones none is wrong.
MISS_SHIFT, MISS_SCALE, MISS_GROWTH = 0.08, 0.15, 0.05
MOST_SHIFT, MOST_SHRUNK, MOST_GROWN = 0.3, -0.4, 0.7

# With more of one, nobody is to be seen in a view.
RANGES: dict[str, tuple[float, float]] = {
    "rotation_deg": (0, 180),
    "scale": (0, 0.99),
    "shift": (0, 1),
    "reference": (0, 10),
    "noise": (0, 10),
    "holes": (0, 100),
    "damage": (0, 1),
    "misses": (0, 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a training frame may be changed.

    Attributes:
        flip: Whether half of the frames are mirrored, joints swapped with them.
        rotation_deg: Largest turn in the image plane, degrees.
        scale: Largest relative change of the crop's side.
        shift: Largest move of the crop, in sides of the crop.
        reference: Deviation of the person's depth, in parts of the depth range.
        noise: Deviation of each reading, in parts of the depth range.
        holes: Largest number of holes.
        damage: Share of the frames that each kind of `views.damaged` befalls.
        misses: Share of the frames of which a box is seen that are cropped around one
            as wrong as the worst that the detector finds.
    """

    flip: bool = True
    rotation_deg: float = 20.0
    scale: float = 0.15
    shift: float = 0.06
    reference: float = 0.05
    noise: float = 0.01
    holes: int = 3
    damage: float = 0.0
    misses: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, RANGES, "augmentation.")


def random_transform(
    rng: np.random.Generator,
    box: Float[np.ndarray, "box=4"],
    side: int,
    augmentation: Augmentation,
    *,
    roll_deg: float = 0.0,
) -> tuple[Float[np.ndarray, "2 3"], bool]:
    """Returns a random crop around a box, and whether it is mirrored.

    Args:
        rng: Draws the crop.
        box: [x0, y0, x1, y1] pixels.
        side: Of the crop, pixels.
        augmentation: How far it may differ from the plain one.
        roll_deg: By how much the plain one is turned, clockwise.
    """
    flip = bool(augmentation.flip and rng.random() < 0.5)
    angle = roll_deg + rng.uniform(-1, 1) * augmentation.rotation_deg
    shift = rng.uniform(-1, 1, 2) * augmentation.shift
    margin = crops.MARGIN * (1 + rng.uniform(-1, 1) * augmentation.scale)
    if augmentation.misses and rng.random() < augmentation.misses:
        shift += np.clip(rng.laplace(0, MISS_SHIFT, 2), -MOST_SHIFT, MOST_SHIFT)
        growth = rng.laplace(MISS_GROWTH, MISS_SCALE)
        margin *= np.exp(np.clip(growth, MOST_SHRUNK, MOST_GROWN))
    transform = crops.crop_transform(
        box, side, margin=margin, shift=tuple(shift), angle_deg=angle, flip=flip
    )
    return transform, flip


def sensor_noise(
    rng: np.random.Generator,
    crop: UInt16[np.ndarray, "side side"],
    depth_range: float,
    augmentation: Augmentation,
) -> UInt16[np.ndarray, "side side"]:
    """Returns a crop with noisy readings and elliptic holes.

    Args:
        rng: Draws the noise.
        crop: Millimetres or raw, 0 = no reading.
        depth_range: Unit of `augmentation.noise`, in the unit of `crop`.
        augmentation: How much.
    """
    noise = rng.normal(0, augmentation.noise * depth_range, crop.shape)
    noisy = np.clip(np.rint(crop + noise), 1, np.iinfo(np.uint16).max)
    noisy = np.where(crop > 0, noisy, 0).astype(np.uint16)
    for _ in range(rng.integers(augmentation.holes + 1)):
        centre = rng.integers(len(crop), size=2).tolist()
        axes = np.rint(rng.uniform(0.01, 0.07, 2) * len(crop)).astype(int).tolist()
        cv2.ellipse(noisy, centre, axes, rng.uniform(0, 180), 0, 360, 0, -1)
    return noisy
