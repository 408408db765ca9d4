"""What synthetic data sets share: bodies, poses, rooms and depth sensors."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, UInt16

Depth = Float[np.ndarray, "height width"]


class Sensor(Protocol):
    """A module that knows how one kind of depth camera measures.

    Its `Noise` says how bad one camera of the kind is.
    """

    def sample_noise(self, rng: np.random.Generator) -> Any:
        """Draws a camera: a `Noise`."""

    def measure(
        self,
        depth_m: Depth,
        dark: Bool[np.ndarray, "height width"],
        noise: Any,
        focal_px: float,
        rng: np.random.Generator,
    ) -> UInt16[np.ndarray, "height width"]:
        """Turns exact depth into a camera's reading.

        Args:
            depth_m: Exact depth; 0 or less where there is nothing.
            dark: Surfaces that may swallow the light, such as hair.
            noise: The camera, of `sample_noise`.
            focal_px: Focal length, pixels.
            rng: Source of the noise.

        Returns:
            Millimetres, 0 = no reading.
        """
