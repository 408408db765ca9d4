"""A trained network over a whole split: predictions, floor and ceiling."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from cmbjax import checkpoints, crops, heatmaps, lifting, metrics
from cmbjax.camera import pixels_to_camera
from cmbjax.models.posenet import STRIDE
from cmbjax.pipeline import (
    REFERENCE_SIDE,
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
ROLLING_SEED = 0


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
    def load(cls, run_dir: Path) -> "Statistics":
        """Reads a run's statistics.json."""
        fields = checkpoints.read_json(run_dir / STATISTICS_FILE)
        arrays = {
            k: np.array(fields[k], np.float32) for k in ("mean_pose", "offsets_m")
        }
        return cls(frames=fields["frames"], skeleton=fields["skeleton"], **arrays)


def run_statistics(run_dir: Path, frames: DepthFrames) -> Statistics:
    """Returns the statistics of a run, taken from its training split the first time.

    Raises:
        ValueError: They are those of other frames.
    """
    path = run_dir / STATISTICS_FILE
    if not path.exists():
        statistics = training_statistics(frames)
        fields = {
            "frames": statistics.frames,
            "skeleton": statistics.skeleton,
            "mean_pose": statistics.mean_pose.tolist(),
            "offsets_m": statistics.offsets_m.tolist(),
        }
        checkpoints.write_json(path, fields)
    stored = Statistics.load(run_dir)
    if stored.frames != frames.name:
        raise ValueError(
            f"--run_dir={run_dir} holds a run on {stored.frames}, but the data set is "
            f"now {frames.name}; choose another folder"
        )
    return stored


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
    transform = crops.crop_transform(label_box(example, depth), REFERENCE_SIDE)
    crop = crops.cut(depth, transform, REFERENCE_SIDE)
    return lifting.surface_depth(
        depth,
        example["joints_px"],
        crops.person_depth(crop, reach / 2),
        float(camera[0]),
        reach_mm=reach,
        limb_m=frames.skeleton.limb_m,
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


class Predictions(NamedTuple):
    """One batch: its examples, what was read of them, what the network says.

    Attributes:
        examples: Of the split, in order.
        views: See `pipeline.prepare_evaluation`.
        joints_px: [batch, joints, 2] crop pixels.
        scores: [batch, joints] height of each heat map's peak.
        joints: [batch, joints, 3] of the 3-D head, if there is one.
    """

    examples: list[Example]
    views: dict[str, np.ndarray]
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
    order: Sequence[int] | None = None,
    network: Callable[[np.ndarray], Any] | None = None,
) -> Iterator[Predictions]:
    """Yields each frame of a split once, in batches.

    Args:
        variables: Parameters, memory and statistics of BN.
        frames: The split.
        model: The network.
        r: Of Eq. 2, as it was in training.
        preparation: How a frame becomes an input.
        memory: "frozen", or "rolling" to write it from batch to batch.
        decode: A name in `heatmaps.DECODES`.
        batch_size: Frames a batch; a rolling per_sample memory sets its own.
        order: Of the frames; by default that of the split.
        network: Answers in place of the model, with frozen memory, to full batches.
    """
    stored = jax.tree.leaves(variables["memory"])
    rolling = memory == "rolling" and bool(stored)
    slots = [len(value) for value in stored if value.ndim == 4]
    if rolling and slots:
        batch_size = slots[0]
    batches = evaluation_batches(
        frames, preparation=preparation, batch_size=batch_size, order=order
    )
    for examples, views in batches:
        size = len(examples)
        # A shared memory takes the batch's mean, which must not see what only fills up.
        fill = 0 if rolling and not slots else batch_size - size
        depth = np.pad(views["depth"], ((0, fill), (0, 0), (0, 0), (0, 0)))
        real = np.arange(size + fill) < size
        if network is not None:
            outputs = network(depth)
        else:
            outputs, written = eval_step(
                variables, depth, real, model=model, r=r, rolling=rolling
            )
            variables = {**variables, "memory": written}
        decoded = decode_outputs(outputs, side=preparation.side, decode=decode)
        joints_px, scores = (value[:size] for value in decoded[:2])
        joints = None if decoded[2] is None else decoded[2][:size]
        yield Predictions(examples, views, joints_px, scores, joints)


def decode_outputs(
    outputs: Any, *, side: int, decode: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns joints and scores of what a network gave, whatever its head.

    Args:
        outputs: Heat maps; with a 3-D head a sequence of them and what that gives.
        side: Of the network's input, pixels.
        decode: A name in `heatmaps.DECODES`.

    Returns:
        [batch, joints, 2] crop pixels, [batch, joints] height of each heat map's peak,
        and [batch, joints, 3] of the 3-D head: x and y as fractions of the crop from
        its centre, z in normalised depth.
    """
    maps, *heads = outputs if isinstance(outputs, tuple | list) else (outputs,)
    maps = jnp.asarray(maps)
    found = heatmaps.heatmaps_to_joints(maps, stride=STRIDE, decode=decode)
    joints_px, scores = map(np.asarray, found)
    if not heads:
        return joints_px, scores, None
    if heads[0].ndim == 3:
        return joints_px, scores, np.asarray(heads[0])
    depths = np.asarray(heatmaps.read_maps(jnp.asarray(heads[0]), maps))
    joints = np.concatenate([joints_px / side - 0.5, depths[..., None]], axis=-1)
    return joints_px, scores, joints


def evaluate(
    variables: dict[str, Any],
    frames: DepthFrames,
    statistics: Statistics,
    *,
    sigma: float,
    preparation: Preparation,
    memory: str = "frozen",
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
        memory: See `predict`. Rolling, frames come shuffled, always in the same way
            (Sec. 3.4: "the data for both training and testing are randomly shuffled").
        decode: See `predict`.
        **options: See `predict`.

    Returns:
        Everything in the order of the split.

    Raises:
        ValueError: There are no frames.
    """
    if not len(frames.source):
        raise ValueError("the split has no frames")
    parts: list[dict[str, np.ndarray]] = []
    names: list[str] = []
    order = np.arange(len(frames.source))
    if memory == "rolling":
        order = np.random.default_rng(ROLLING_SEED).permutation(order)
    batches = predict(
        variables,
        frames,
        preparation=preparation,
        memory=memory,
        decode=decode,
        order=order.tolist(),
        **options,
    )
    with tqdm(total=len(frames.source), desc="evaluating", unit="frame") as progress:
        for batch in batches:
            part = _compare(batch, frames, statistics, sigma, preparation, decode)
            parts.append(part)
            names += map(frame_name, batch.examples)
            progress.update(len(batch.examples))
    back = np.argsort(order)
    whole = {
        key: np.concatenate([part[key] for part in parts])[back] for key in parts[0]
    }
    has_metres = (
        frames.metric
        and bool(np.isfinite(whole["camera"]).all())
        and bool(np.isfinite(whole["joints_m"]).any())
    )

    def poses(kind: str) -> metrics.Poses:
        metres = (whole[f"{kind}_m"], whole["joints_m"]) if has_metres else (None, None)
        return metrics.Poses(
            whole[f"{kind}_px"], whole["joints_px"], whole["visible"], *metres
        )

    return Result(
        poses=poses("network"),
        floor=poses("floor"),
        ceiling=poses("ceiling"),
        scores=whole["scores"],
        found=whole["found"],
        names=[names[i] for i in back],
    )


def _compare(
    batch: Predictions,
    frames: DepthFrames,
    statistics: Statistics,
    sigma: float,
    preparation: Preparation,
    decode: str,
) -> dict[str, np.ndarray]:
    """Returns labels, predictions, floor and ceiling of a batch, in frame pixels."""
    labels = {
        key: np.stack([example[key] for example in batch.examples])
        for key in ("joints_px", "joints_m", "visible", "camera")
    }
    backs = batch.views["frame_from_crop"]
    inside = _each(
        crops.transform_points, map(crops.invert, backs), labels["joints_px"]
    )
    on_grid = heatmaps.quantise(
        inside,
        labels["visible"],
        side=preparation.side // STRIDE,
        stride=STRIDE,
        sigma=sigma,
        decode=decode,
    )
    boxes = metrics.label_boxes(labels["joints_px"], labels["visible"])
    found = {
        "network_px": _each(crops.transform_points, backs, batch.joints_px),
        "floor_px": np.asarray(metrics.place(statistics.mean_pose, boxes)),
        "ceiling_px": _each(crops.transform_points, backs, np.asarray(on_grid)),
    }
    depths = list(map(decode_depth, batch.examples))
    references = batch.views["reference"].tolist()

    def lifted(joints_px: np.ndarray) -> np.ndarray:
        def lift(depth, joints, reference, camera):
            return lifting.lift(
                depth,
                joints,
                reference,
                camera,
                statistics.offsets_m,
                reach_mm=frames.depth_range or preparation.depth_range,
                limb_m=frames.skeleton.limb_m,
            )

        return _each(lift, depths, joints_px, references, labels["camera"])

    metres = {key.replace("_px", "_m"): lifted(value) for key, value in found.items()}
    if batch.joints is not None:
        metres["network_m"] = _each(
            functools.partial(head_to_camera, preparation=preparation),
            batch.joints,
            backs,
            references,
            labels["camera"],
        )
    seen = {"scores": batch.scores, "found": batch.views["found"]}
    return {**labels, **found, **metres, **seen}


def _each(function: Callable[..., np.ndarray], *arguments: Iterable[Any]) -> np.ndarray:
    """Stacks a function's values over a batch's samples."""
    return np.stack([function(*one) for one in zip(*arguments, strict=True)])


def head_to_camera(
    joints: np.ndarray,
    frame_from_crop: np.ndarray,
    reference_mm: float,
    camera: np.ndarray,
    *,
    preparation: Preparation,
) -> np.ndarray:
    """Returns the joints [joints, 3] of a 3-D head in metres, camera frame.

    Args:
        joints: x and y as fractions of the crop from its centre, z in normalised depth.
        frame_from_crop: [2, 3] transform.
        reference_mm: The person's depth.
        camera: [fx, fy, cx, cy], pixels.
        preparation: Of the input.
    """
    inside = (joints[:, :2] + 0.5) * preparation.side
    joints_px = crops.transform_points(frame_from_crop, inside)
    depth_m = (reference_mm + joints[:, 2] * preparation.depth_range) / 1000
    return pixels_to_camera(joints_px, depth_m, camera)
