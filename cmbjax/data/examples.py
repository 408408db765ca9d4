"""Labelled frames of a data set: one split, and what an example of it holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmbjax.depth.crops import CropMode
from cmbjax.depth.images import unpacked_png
from cmbjax.skeletons import Skeleton

Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DepthFrames:
    """One split of a data set.

    Attributes:
        source: Random access to the examples of datasets/schema.py, images as PNG.
        skeleton: The labelled joints.
        metric: Whether depth is in millimetres.
        name: Tells this data set, in this version and state, from all others.
        depth_range: How far before and behind the whole its parts may be, millimetres
            or raw; None where that is not known.
        recorded: Whether frames whose names follow on each other do so in time.
        findable: Whether `depth.detector` serves to find what is labelled.
    """

    source: Sequence[Example]
    skeleton: Skeleton
    metric: bool
    name: str
    depth_range: float | None
    findable: bool
    recorded: bool = True

    def __len__(self) -> int:
        return len(self.source)

    @property
    def crop(self) -> CropMode:
        """What methods see of these frames, unless told otherwise."""
        return "person" if self.findable else "label_box"

    @property
    def have_depths(self) -> bool:
        """Whether there are joints in metres: in some of a hundred frames."""
        step = 1 + len(self) // 100
        looked_at = (self.source[i] for i in range(0, len(self), step))
        return self.metric and any(
            np.isfinite(example["joints_m"]).any() for example in looked_at
        )


def decode_depth(example: Example) -> np.ndarray:
    """Returns the depth image [height, width] uint16 of an example.

    Raises:
        ValueError: The PNG is truncated or of another type; names the frame.
    """
    depth = unpacked_png(example["depth"])
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        actual = "no image" if depth is None else f"{list(depth.shape)} {depth.dtype}"
        raise ValueError(
            f"frame {frame_name(example)}: the depth must be a [height, width] 16-bit "
            f"PNG, got {actual}"
        )
    return depth


def frame_name(example: Example) -> str:
    """Returns the name that finds a frame in its source."""
    name = example["frame"]
    return name.decode() if isinstance(name, bytes) else str(name)
