"""What is taken from the training split beside the network's weights."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from cmbjax import metrics
from cmbjax.data.examples import DepthFrames, Example, decode_depth
from cmbjax.data.views import label_box, labelled_target
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
        mean_in_crop: [joints, 3] the same in the crop of a person: x and y as fractions
            of it from its centre, z in metres from the person's depth; None of runs
            before there was any.
    """

    frames: str
    skeleton: str
    mean_pose: np.ndarray
    offsets_m: np.ndarray
    mean_in_crop: np.ndarray | None = None

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
            mean_in_crop=None
            if stored.mean_in_crop is None
            else np.array(stored.mean_in_crop, np.float32),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {
            "frames": self.frames,
            "skeleton": self.skeleton,
            "mean_pose": self.mean_pose.tolist(),
            "offsets_m": self.offsets_m.tolist(),
            "mean_in_crop": None
            if self.mean_in_crop is None
            else self.mean_in_crop.tolist(),
        }


class _Stored(msgspec.Struct):
    frames: str
    skeleton: Literal[tuple(SKELETONS)]  # type: ignore[valid-type]
    mean_pose: list[tuple[Finite | None, Finite | None]]  # None: not measured
    offsets_m: list[Finite | None]
    mean_in_crop: list[tuple[Finite | None, Finite | None, Finite | None]] | None = None


def training_statistics(frames: DepthFrames) -> Statistics:
    """Returns mean poses and surface offsets of at most 2000 training frames."""
    step = -(-len(frames.source) // STATISTICS_FRAMES)
    examples = [frames.source[i] for i in range(0, len(frames.source), step)]
    joints_px = np.stack([example["joints_px"] for example in examples])
    visible = np.stack([example["visible"] for example in examples])
    boxes = metrics.label_boxes(joints_px, visible)
    measured = [_measured(example, frames) for example in examples]
    surfaces, in_crops = map(np.stack, zip(*measured, strict=True))
    return Statistics(
        frames=frames.name,
        skeleton=frames.skeleton.name,
        mean_pose=np.asarray(metrics.mean_pose(joints_px, visible, boxes)),
        offsets_m=lifting.offsets(
            np.stack([example["joints_m"][:, 2] for example in examples]),
            surfaces,
        ),
        mean_in_crop=_mean_in_crop(in_crops),
    )


def _measured(example: Example, frames: DepthFrames) -> tuple[np.ndarray, np.ndarray]:
    """Returns `_surfaces` and `_in_crop` of an example, whose depth is decoded once."""
    depth = decode_depth(example)
    surfaces = _surfaces(example, depth, frames)
    return surfaces, _in_crop(example, depth, frames)


def _mean_in_crop(joints: np.ndarray) -> np.ndarray:
    """Returns what a network that sees nothing would best say of every crop."""
    counts = np.isfinite(joints).sum(axis=0)
    sums = np.nansum(joints, axis=0)
    mean = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return mean.astype(np.float32)


def _in_crop(example: Example, depth: np.ndarray, frames: DepthFrames) -> np.ndarray:
    """Returns an example's joints [joints, 3] in its crop; NaN where unlabelled.

    Depth is metres from the crop's reference, as the network sees it.
    """
    skeleton = frames.skeleton
    target = labelled_target(example, depth, skeleton)
    if target is None:
        return np.full((skeleton.num_joints, 3), np.nan)
    roll_deg = crops.quarter_turns_deg(target.up)
    transform = crops.crop_transform(target.box, 1, angle_deg=roll_deg)
    joints = np.empty((skeleton.num_joints, 3))
    joints[:, :2] = crops.transform_points(transform, example["joints_px"]) - 0.5
    reference = np.nan
    if target.distance is not None and frames.depth_range is not None:
        reference = crops.look(
            depth,
            target.box,
            side=crops.REFERENCE_SIDE,
            depth_range=frames.depth_range,
            distance=target.distance,
            roll_deg=roll_deg,
        ).reference
    joints[:, 2] = example["joints_m"][:, 2] - reference / 1000
    joints[~example["visible"]] = np.nan
    return joints


def _surfaces(example: Example, depth: np.ndarray, frames: DepthFrames) -> np.ndarray:
    camera, visible = example["camera"], example["visible"]
    reach = frames.depth_range
    if reach is None or np.isnan(camera).any() or not visible.any():
        return np.full(len(visible), np.nan, np.float32)
    return lifting.surface_depth(
        depth,
        example["joints_px"],
        crops.reference_depth(depth, label_box(example, depth), reach),
        float(camera[0]),
        reach_mm=reach,
        limb_m=frames.skeleton.limb_m,
    )
