"""A trained network over a whole split: predictions, floor and ceiling."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cmbjax import checkpoints, crops, heatmaps, lifting, metrics
from cmbjax.camera import pixels_to_camera
from cmbjax.models.network import Decoded, Network
from cmbjax.pipeline import (
    REFERENCE_SIDE,
    DepthFrames,
    Example,
    Preparation,
    decode_depth,
    evaluation_batches,
    frame_name,
    in_streams,
    label_box,
    recordings,
)
from cmbjax.training import eval_step, restart

STATISTICS_FILE = "statistics.json"
STATISTICS_FRAMES = 2000
ORDERS = ("shuffled", "sorted", "reversed")


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
        indices: Of the frames in the split.
        examples: The frames.
        views: See `pipeline.prepare_evaluation`.
        decoded: What the network says.
    """

    indices: Sequence[int]
    examples: list[Example]
    views: dict[str, np.ndarray]
    decoded: Decoded


def predict(
    variables: dict[str, Any],
    frames: DepthFrames,
    *,
    model: Network,
    r: float,
    preparation: Preparation,
    memory: str = "frozen",
    decode: str = "dark",
    batch_size: int = 16,
    order: str = "shuffled",
    order_seed: int = 0,
    flip: bool = False,
    network: Callable[[np.ndarray], Any] | None = None,
) -> Iterator[Predictions]:
    """Yields each frame of a split once, in batches.

    A rolling memory sees them shuffled (Sec. 3.4: "the data for both training and
    testing are randomly shuffled"), unless `order` says otherwise; that of a sequential
    network sees each recording in its order, in as many streams as it has slots.

    Args:
        variables: Parameters, memory and statistics of BN.
        frames: The split.
        model: The network.
        r: Of Eq. 2, as it was in training.
        preparation: How a frame becomes an input.
        memory: "frozen", or "rolling" to write it from batch to batch.
        decode: A name in `heatmaps.DECODES`.
        batch_size: Frames a batch; a rolling per_sample memory sets its own.
        order: Of frames with rolling memory: shuffled, sorted by subject and name, or
            reversed, the same backwards.
        order_seed: Of the shuffled order.
        flip: Whether to average with what is seen in the mirrored image; frozen alone.
        network: Answers in place of the model, with frozen memory, to full batches.
    """
    stored = jax.tree.leaves(variables["memory"])
    rolling = memory == "rolling" and bool(stored)
    slots = [len(value) for value in stored if value.ndim == 4]
    if rolling and slots:
        batch_size = slots[0]
    indices = np.arange(len(frames))
    first: set[int] = set()
    if rolling and model.sequential:
        batches, first = in_streams(recordings(frames.source), batch_size)
    else:
        if rolling:
            indices = _ordered(frames, order, order_seed)
        edges = range(batch_size, len(indices), batch_size)
        batches = [part.tolist() for part in np.split(indices, edges)]
    mirror = frames.skeleton.mirror if flip else None
    loaded = evaluation_batches(frames, preparation=preparation, batches=batches)
    for batch, (examples, views) in zip(batches, loaded, strict=True):
        size = len(examples)
        # A shared memory takes the batch's mean, which must not see what only fills up.
        fill = 0 if rolling and not slots else batch_size - size
        depth = np.pad(views["depth"], ((0, fill), (0, 0), (0, 0), (0, 0)))
        real = np.arange(size + fill) < size
        if network is not None:
            outputs = network(depth)
        else:
            if rolling and model.restarts:
                starts = jnp.array([i in first for i in batch] + [False] * fill)
                variables |= {"memory": restart(variables["memory"], starts)}
            outputs, written = eval_step(
                variables, depth, real, model=model, r=r, rolling=rolling, mirror=mirror
            )
            variables = {**variables, "memory": written}
        decoded = model.decode(outputs, side=preparation.side, decode=decode)
        yield Predictions(batch, examples, views, _first(decoded, size))


def _first(decoded: Decoded, size: int) -> Decoded:
    """Returns the samples that do not only fill a batch up."""
    joints_px, scores, joints = decoded
    return Decoded(
        joints_px[:size], scores[:size], None if joints is None else joints[:size]
    )


def _ordered(frames: DepthFrames, order: str, seed: int) -> np.ndarray:
    """Returns the frames as a rolling memory is to see them."""
    if order == "shuffled":
        return np.random.default_rng(seed).permutation(len(frames))
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    in_order = np.concatenate(recordings(frames.source))
    return in_order if order == "sorted" else in_order[::-1]


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
        memory: See `predict`.
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
    order: list[int] = []
    batches = predict(
        variables,
        frames,
        preparation=preparation,
        memory=memory,
        decode=decode,
        **options,
    )
    with tqdm(total=len(frames.source), desc="evaluating", unit="frame") as progress:
        for batch in batches:
            compare = functools.partial(
                _compare,
                statistics=statistics,
                sigma=sigma,
                stride=options["model"].stride,
                preparation=preparation,
                decode=decode,
            )
            parts.append(compare(batch, frames))
            order += batch.indices
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
    *,
    statistics: Statistics,
    sigma: float,
    stride: int | None,
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
    on_grid = inside  # without heat maps there is no grid
    if stride is not None:
        quantised = heatmaps.quantise(
            inside,
            labels["visible"],
            side=preparation.side // stride,
            stride=stride,
            sigma=sigma,
            decode=decode,
        )
        on_grid = np.asarray(quantised)
    boxes = metrics.label_boxes(labels["joints_px"], labels["visible"])
    found = {
        "network_px": _each(crops.transform_points, backs, batch.decoded.joints_px),
        "floor_px": np.asarray(metrics.place(statistics.mean_pose, boxes)),
        "ceiling_px": _each(crops.transform_points, backs, on_grid),
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
    if batch.decoded.joints is not None:
        metres["network_m"] = _each(
            functools.partial(head_to_camera, preparation=preparation),
            batch.decoded.joints,
            backs,
            references,
            labels["camera"],
        )
    seen = {"scores": batch.decoded.scores, "found": batch.views["found"]}
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
