"""What is taken from the training split beside the network's weights."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from cmbjax import metrics
from cmbjax.data.examples import DepthFrames, Example, decode_depth
from cmbjax.data.views import label_box
from cmbjax.depth import crops, lifting
from cmbjax.files import Finite, read_json
from cmbjax.skeletons import SKELETONS

STATISTICS_FRAMES = 2000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What evaluation knows of the training split.

    Attributes:
        frames: `DepthFrames.name` of the split.
        skeleton: Name of the joint set.
        mean_pose: [joints, 2] in units of the label's box.
        offsets_m: [joints] distance of each joint behind the surface, metres.
    """

    frames: str
    skeleton: str
    mean_pose: np.ndarray
    offsets_m: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        """Reads what `to_json` gave.

        Raises:
            ValueError: It is not that.
        """
        stored: _Stored = read_json(path, _Stored)
        return cls(
            frames=stored.frames,
            skeleton=stored.skeleton,
            mean_pose=np.array(stored.mean_pose, np.float32),
            offsets_m=np.array(stored.offsets_m, np.float32),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {
            "frames": self.frames,
            "skeleton": self.skeleton,
            "mean_pose": self.mean_pose.tolist(),
            "offsets_m": self.offsets_m.tolist(),
        }


class _Stored(msgspec.Struct):
    frames: str
    skeleton: Literal[tuple(SKELETONS)]  # type: ignore[valid-type]
    mean_pose: list[tuple[Finite | None, Finite | None]]  # None: not measured
    offsets_m: list[Finite | None]


def training_statistics(frames: DepthFrames) -> Statistics:
    """Returns the mean pose and the surface offsets of at most 2000 training frames."""
    step = -(-len(frames.source) // STATISTICS_FRAMES)
    examples = [frames.source[i] for i in range(0, len(frames.source), step)]
    joints_px = np.stack([example["joints_px"] for example in examples])
    visible = np.stack([example["visible"] for example in examples])
    boxes = metrics.label_boxes(joints_px, visible)
    return Statistics(
        frames=frames.name,
        skeleton=frames.skeleton.name,
        mean_pose=np.asarray(metrics.mean_pose(joints_px, visible, boxes)),
        offsets_m=lifting.offsets(
            np.stack([example["joints_m"][:, 2] for example in examples]),
            np.stack([_surfaces(example, frames) for example in examples]),
        ),
    )


def _surfaces(example: Example, frames: DepthFrames) -> np.ndarray:
    camera, visible = example["camera"], example["visible"]
    reach = frames.depth_range
    if reach is None or np.isnan(camera).any() or not visible.any():
        return np.full(len(visible), np.nan, np.float32)
    depth = decode_depth(example)
    return lifting.surface_depth(
        depth,
        example["joints_px"],
        crops.reference_depth(depth, label_box(example, depth), reach),
        float(camera[0]),
        reach_mm=reach,
        limb_m=frames.skeleton.limb_m,
    )
