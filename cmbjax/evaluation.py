"""A trained network over a whole split: predictions, floor, ceiling, results folder."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from cmbjax import checkpoints, crops, heatmaps, lifting, metrics
from cmbjax.camera import pixels_to_camera
from cmbjax.models.posenet import STRIDE
from cmbjax.pipeline import (
    DepthFrames,
    Example,
    Preparation,
    decode_depth,
    evaluation_batches,
    frame_name,
    label_box,
)
from cmbjax.training import eval_step

STATISTICS_FILE = "statistics.json"
STATISTICS_FRAMES = 2000


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What evaluation knows of the training split.

    Attributes:
        skeleton: Name of the joint set.
        mean_pose: [joints, 2] in units of the label's box.
        offsets_m: [joints] distance of each joint behind the surface, metres.
    """

    skeleton: str
    mean_pose: np.ndarray
    offsets_m: np.ndarray

    @classmethod
    def load(cls, run_dir: Path) -> "Statistics":
        """Reads a run's statistics.json."""
        fields = checkpoints.read_json(run_dir / STATISTICS_FILE)
        arrays = {
            k: np.array(fields[k], np.float32) for k in ("mean_pose", "offsets_m")
        }
        return cls(skeleton=fields["skeleton"], **arrays)


def run_statistics(run_dir: Path, frames: DepthFrames) -> Statistics:
    """Returns the statistics of a run, taken from its training split the first time."""
    path = run_dir / STATISTICS_FILE
    if not path.exists():
        statistics = training_statistics(frames)
        fields = {
            "skeleton": statistics.skeleton,
            "mean_pose": statistics.mean_pose.tolist(),
            "offsets_m": statistics.offsets_m.tolist(),
        }
        checkpoints.write_json(path, fields)
    return Statistics.load(run_dir)


def training_statistics(frames: DepthFrames) -> Statistics:
    """Returns the mean pose and the surface offsets of at most 2000 training frames."""
    step = -(-len(frames.source) // STATISTICS_FRAMES)
    examples = [frames.source[i] for i in range(0, len(frames.source), step)]
    joints_px = np.stack([example["joints_px"] for example in examples])
    visible = np.stack([example["visible"] for example in examples])
    boxes = metrics.label_boxes(joints_px, visible)
    return Statistics(
        skeleton=frames.skeleton.name,
        mean_pose=np.asarray(metrics.mean_pose(joints_px, visible, boxes)),
        offsets_m=lifting.offsets(
            np.stack([example["joints_m"][:, 2] for example in examples]),
            np.stack([_surfaces(example) for example in examples]),
        ),
    )


def _surfaces(example: Example) -> np.ndarray:
    camera, visible = example["camera"], example["visible"]
    if np.isnan(camera).any() or not visible.any():
        return np.full(len(visible), np.nan, np.float32)
    depth = decode_depth(example)
    transform = crops.crop_transform(label_box(example, depth), 64)
    reference = crops.person_depth(crops.cut(depth, transform, 64), 500)
    return lifting.surface_depth(
        depth, example["joints_px"], reference, float(camera[0])
    )


class Result(NamedTuple):
    """Predictions of a whole split, and what they are to be compared with.

    Attributes:
        poses: Of the network.
        floor: The mean training pose in the label's box.
        ceiling: The labels, put through the grid of the heat maps.
        scores: [frames, joints] height of each heat map's peak.
        found: [frames] whether there was a person to look at.
        names: Of the frames.
    """

    poses: metrics.Poses
    floor: metrics.Poses
    ceiling: metrics.Poses
    scores: np.ndarray
    found: np.ndarray
    names: list[str]


class Prediction(NamedTuple):
    """One frame, what was read of it, and what the network says, in crop pixels."""

    example: Example
    view: dict[str, np.ndarray]
    joints_px: np.ndarray
    scores: np.ndarray
    joints: np.ndarray | None


def predict(
    variables: dict[str, Any],
    frames: DepthFrames,
    *,
    model: nn.Module,
    r: float,
    preparation: Preparation,
    memory: str = "frozen",
    decode: str = "dark",
    batch_size: int = 16,
) -> Iterator[Prediction]:
    """Yields each frame of a split once, in order.

    Args:
        variables: Parameters, memory and statistics of BN.
        frames: The split.
        model: The network.
        r: Of Eq. 2, as it was in training.
        preparation: How a frame becomes an input.
        memory: "frozen", or "rolling" to write it from batch to batch.
        decode: A name in `heatmaps.DECODES`.
        batch_size: Frames a batch; a rolling per_sample memory sets its own.
    """
    stored = jax.tree.leaves(variables["memory"])
    rolling = memory == "rolling" and bool(stored)
    slots = [len(value) for value in stored if value.ndim == 4]
    if rolling and slots:
        batch_size = slots[0]
    batches = evaluation_batches(frames, preparation=preparation, batch_size=batch_size)
    for examples, batch in batches:
        # A shared memory takes the batch's mean, which must not see what only fills up.
        fill = 0 if rolling and not slots else batch_size - len(examples)
        depth = np.pad(batch["depth"], ((0, fill), (0, 0), (0, 0), (0, 0)))
        real = np.arange(len(depth)) < len(examples)
        outputs, written = eval_step(
            variables, depth, real, model=model, r=r, rolling=rolling
        )
        variables = {**variables, "memory": written}
        maps, joints = outputs if isinstance(outputs, tuple) else (outputs, None)
        joints_px, scores = heatmaps.heatmaps_to_joints(
            maps, stride=STRIDE, decode=decode
        )
        for i, example in enumerate(examples):
            yield Prediction(
                example=example,
                view={key: value[i] for key, value in batch.items()},
                joints_px=np.asarray(joints_px[i]),
                scores=np.asarray(scores[i]),
                joints=None if joints is None else np.asarray(joints[i]),
            )


def evaluate(
    variables: dict[str, Any],
    frames: DepthFrames,
    statistics: Statistics,
    *,
    sigma: float,
    preparation: Preparation,
    decode: str = "dark",
    **options: Any,
) -> Result:
    """Predicts a split, and places the floor and the ceiling in the same frames.

    Args:
        variables: See `predict`.
        frames: The split.
        statistics: Of the training split.
        sigma: Of the heat maps, in cells, for the ceiling.
        preparation: See `predict`.
        decode: See `predict`.
        **options: See `predict`.

    Raises:
        ValueError: There are no frames.
    """
    if not len(frames.source):
        raise ValueError("the split has no frames")
    kinds: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
        "network": [],
        "floor": [],
        "ceiling": [],
    }
    seen: list[Prediction] = []
    predictions = predict(
        variables, frames, preparation=preparation, decode=decode, **options
    )
    progress = {"desc": "evaluating", "unit": "frame", "leave": False}
    for prediction in tqdm(predictions, total=len(frames.source), **progress):
        example, view = prediction.example, prediction.view
        depth = decode_depth(example)
        back = view["frame_from_crop"]

        def lifted(
            joints_px: np.ndarray, depth=depth, example=example, view=view
        ) -> tuple[np.ndarray, np.ndarray]:
            reference = float(view["reference"])
            arguments = (reference, example["camera"], statistics.offsets_m)
            metres = lifting.lift(depth, joints_px, *arguments)
            return joints_px, metres

        network = lifted(crops.transform_points(back, prediction.joints_px))
        if prediction.joints is not None:
            metres = _from_head(prediction, preparation)
            network = (network[0], metres)
        kinds["network"].append(network)
        visible = example["visible"][None]
        box = metrics.label_boxes(example["joints_px"][None], visible)
        kinds["floor"].append(
            lifted(np.asarray(metrics.place(statistics.mean_pose, box)[0]))
        )
        inside = crops.transform_points(crops.invert(back), example["joints_px"])
        quantised = heatmaps.quantise(
            inside[None],
            visible,
            side=preparation.side // STRIDE,
            stride=STRIDE,
            sigma=sigma,
            decode=decode,
        )
        kinds["ceiling"].append(
            lifted(crops.transform_points(back, np.asarray(quantised[0])))
        )
        seen.append(prediction)

    targets_px = np.stack([p.example["joints_px"] for p in seen])
    targets_m = np.stack([p.example["joints_m"] for p in seen])
    visible = np.stack([p.example["visible"] for p in seen])
    cameras = np.stack([p.example["camera"] for p in seen])
    has_metres = (
        frames.metric and np.isfinite(cameras).all() and np.isfinite(targets_m).any()
    )

    def poses(kind: str) -> metrics.Poses:
        px, metres = map(np.stack, zip(*kinds[kind], strict=True))
        in_metres = (metres, targets_m) if has_metres else (None, None)
        return metrics.Poses(px, targets_px, visible, *in_metres)

    return Result(
        poses=poses("network"),
        floor=poses("floor"),
        ceiling=poses("ceiling"),
        scores=np.stack([p.scores for p in seen]),
        found=np.stack([p.view["found"] for p in seen]),
        names=[frame_name(p.example) for p in seen],
    )


def _from_head(prediction: Prediction, preparation: Preparation) -> np.ndarray:
    """Metres from the 3-D head's fractions of the crop and normalised depth."""
    assert prediction.joints is not None
    xy, z = prediction.joints[:, :2], prediction.joints[:, 2]
    inside = (xy + 0.5) * preparation.side
    joints_px = crops.transform_points(prediction.view["frame_from_crop"], inside)
    depth_mm = prediction.view["reference"] + z * preparation.depth_range
    return pixels_to_camera(joints_px, depth_mm / 1000, prediction.example["camera"])
