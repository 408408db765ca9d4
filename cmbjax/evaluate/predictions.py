"""A trained network over a whole split: predictions, floor and ceiling."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from cmbjax import heatmaps, metrics
from cmbjax.data.batches import LoadedBatch, evaluation_batches
from cmbjax.data.examples import DepthFrames, frame_name
from cmbjax.data.recordings import in_streams, recordings
from cmbjax.data.views import Preparation
from cmbjax.depth import crops, lifting
from cmbjax.heatmaps import Decoded
from cmbjax.models import memory as memories
from cmbjax.models.losses import AnyArray, joints_to_heatmaps
from cmbjax.models.network import Network, Outputs
from cmbjax.train.statistics import Statistics

FLOOR_IN_CROP = "floor: mean pose in the crop"
ORDERS = ("shuffled", "sorted", "reversed")
Variables = dict[str, Any]


class Result(NamedTuple):
    """Predictions of a whole split, and what they are to be compared with.

    Attributes:
        poses: Of the network.
        floor: The mean training pose in the label's box.
        ceiling: The labels, put through the grid of the heat maps.
        others: By the name of their row, what stands beside these in a table: the mean
            training pose in the crop that the network saw, the network's maps decoded
            in another way, and the ceiling of that.
        scores: [frames, joints] height of each heat map's peak.
        is_found: [frames] whether there was a person to look at.
        names: Of the frames.
    """

    poses: metrics.Poses
    floor: metrics.Poses
    ceiling: metrics.Poses
    scores: np.ndarray
    is_found: np.ndarray
    names: list[str]
    others: dict[str, metrics.Poses]


class Predictions(NamedTuple):
    """What a network says of a batch.

    Attributes:
        loaded: The batch's frames, and what was read of them.
        decoded: What the network says, by the decode.
    """

    loaded: LoadedBatch
    decoded: dict[str, Decoded]


def with_other(model: Network, decode: str) -> list[str]:
    """Returns a decode, and beside it the paper's, or else the method's own.

    It is alone where there are no maps, or both are one.
    """
    other = "argmax" if decode != "argmax" else model.default_decode
    return [decode] if model.stride is None else list(dict.fromkeys([decode, other]))


@functools.partial(jax.jit, static_argnames=("model", "r", "mirror"))
def apply_frozen(
    variables: Variables,
    depth: Float[AnyArray, "batch side side frames"],
    *,
    model: Network,
    r: float,
    mirror: tuple[int, ...] | None = None,
) -> Outputs:
    """Returns what the network gives for a batch, its memory frozen.

    Args:
        variables: Parameters, memory and statistics.
        depth: Normalised depth.
        model: The network.
        r: Of Eq. 2.
        mirror: Joints' places in the mirrored image, to average with what is seen
            there.
    """
    apply: Any = functools.partial(
        model.apply, variables, train=False, r=r, method="outputs"
    )
    outputs = apply(depth)
    if mirror is None:
        return outputs
    of_mirrored = apply(depth[:, :, ::-1]).mirrored(mirror)
    return jax.tree.map(lambda a, b: (a + b) / 2, outputs, of_mirrored)


@functools.partial(jax.jit, static_argnames=("model", "r"))
def apply_rolling(
    variables: Variables,
    depth: Float[AnyArray, "batch side side frames"],
    is_real: Bool[AnyArray, " batch"],
    *,
    model: Network,
    r: float,
) -> tuple[Outputs, Variables]:
    """Returns what the network gives for a batch, and the memory after it.

    Args:
        variables: Parameters, memory and statistics.
        depth: Normalised depth.
        is_real: False for samples that only fill the batch up: they leave no trace in
            the memory.
        model: The network.
        r: Of Eq. 2.
    """
    outputs, new = model.apply(
        variables, depth, train=False, r=r, method="outputs", mutable=["memory"]
    )
    return outputs, memories.keep(variables["memory"], new["memory"], is_real)


def predict(
    variables: Variables,
    frames: DepthFrames,
    *,
    model: Network,
    r: float,
    preparation: Preparation,
    memory: str = "frozen",
    decodes: Sequence[str] = ("dark",),
    batch_size: int = 16,
    stream_frames: int = 1,
    order: str = "shuffled",
    order_seed: int = 0,
    flip: bool = False,
    network: Callable[[np.ndarray], Outputs] | None = None,
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
        decodes: Names in `heatmaps.DECODES`.
        batch_size: Frames a batch; a rolling per_sample memory sets its own.
        stream_frames: Of each stream a batch, where the memory is shared by streams.
        order: Of frames with rolling memory: shuffled, sorted by subject and name, or
            reversed, the same backwards.
        order_seed: Of the shuffled order.
        flip: Whether to average with what is seen in the mirrored image; frozen alone.
        network: Answers in place of the model, with frozen memory, to full batches.

    Raises:
        ValueError: A batch has no whole number of streams, or there is no such order or
            use of the memory.
    """
    if memory not in ("frozen", "rolling"):
        raise ValueError(f"memory must be frozen or rolling, got {memory!r}")
    rolling = memory == "rolling" and bool(jax.tree.leaves(variables["memory"]))
    slots = memories.num_slots(variables["memory"])
    if rolling and slots is not None:
        batch_size = slots
    indices = np.arange(len(frames))
    starts_of_recordings: set[int] = set()
    if rolling and model.sequential:
        # Slots are streams, of a frame each; else a batch is as training has them.
        steps = stream_frames if slots is None else 1
        if batch_size % steps:
            raise ValueError(
                f"--batch_size must be a multiple of {steps}, the run's "
                f"--stream_frames, got {batch_size}"
            )
        batches, starts_of_recordings = in_streams(
            recordings(frames.source), batch_size // steps
        )
        batches = [
            list(itertools.chain(*batches[i : i + steps]))
            for i in range(0, len(batches), steps)
        ]
    else:
        if rolling:
            indices = _ordered(frames, order, order_seed)
        edges = range(batch_size, len(indices), batch_size)
        batches = [part.tolist() for part in np.split(indices, edges)]
    mirror = frames.skeleton.mirror if flip else None
    for loaded in evaluation_batches(frames, preparation=preparation, batches=batches):
        size = len(loaded.indices)
        # A shared memory takes the batch's mean, which must not see what only fills up.
        fill = 0 if rolling and slots is None else batch_size - size
        depth = np.pad(loaded.views["depth"], ((0, fill), (0, 0), (0, 0), (0, 0)))
        if network is not None:
            outputs = network(depth)
        elif not rolling:
            outputs = apply_frozen(variables, depth, model=model, r=r, mirror=mirror)
        else:
            if model.resets_memory:
                starts = [i in starts_of_recordings for i in loaded.indices]
                starts += [False] * fill
                reset = memories.reset(variables["memory"], jnp.array(starts))
                variables = {**variables, "memory": reset}
            is_real = np.arange(size + fill) < size
            outputs, written = apply_rolling(
                variables, depth, is_real, model=model, r=r
            )
            variables = {**variables, "memory": written}
        # What only fills up is not read.
        outputs = jax.tree.map(operator.itemgetter(slice(size)), outputs)
        yield Predictions(
            loaded,
            {
                decode: model.decode(outputs, side=preparation.side, decode=decode)
                for decode in decodes
            },
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
    model: Network,
    preparation: Preparation,
    sigma: float,
    decode: str = "dark",
    **options: Any,
) -> Result:
    """Predicts a split, and places the floor and the ceiling in the same frames.

    Args:
        variables: See `predict`.
        frames: The split.
        statistics: Of the training split.
        model: The network.
        preparation: See `predict`.
        sigma: Of the heat maps, in cells, for the ceiling.
        decode: A name in `heatmaps.DECODES`; see `with_other`.
        **options: See `predict`.

    Returns:
        Everything in the order of the split.

    Raises:
        ValueError: There are no frames.
    """
    if not len(frames.source):
        raise ValueError("the split has no frames")
    decodes = with_other(model, decode)
    parts: list[dict[str, np.ndarray]] = []
    names: list[str] = []
    order: list[int] = []
    batches = predict(
        variables,
        frames,
        model=model,
        preparation=preparation,
        decodes=decodes,
        **options,
    )
    with tqdm(total=len(frames.source), desc="evaluating", unit="frame") as progress:
        for predictions in batches:
            loaded = predictions.loaded
            parts.append(
                _compare(
                    predictions,
                    frames,
                    statistics=statistics,
                    sigma=sigma,
                    model=model,
                    preparation=preparation,
                )
            )
            order += loaded.indices
            names += map(frame_name, loaded.examples)
            progress.update(len(loaded.indices))
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

    kinds = {FLOOR_IN_CROP: "floor_in_crop"}
    for other in decodes[1:]:
        kinds[f"all joints, {other}"] = f"network, {other}"
        kinds[f"ceiling: labels on the grid, {other}"] = f"ceiling, {other}"
    return Result(
        poses=poses("network"),
        floor=poses("floor"),
        ceiling=poses("ceiling"),
        others={
            row: poses(kind) for row, kind in kinds.items() if f"{kind}_px" in whole
        },
        scores=whole["scores"],
        is_found=whole["is_found"],
        names=[names[i] for i in back],
    )


def _compare(
    predictions: Predictions,
    frames: DepthFrames,
    *,
    statistics: Statistics,
    sigma: float,
    model: Network,
    preparation: Preparation,
) -> dict[str, np.ndarray]:
    """Returns labels, predictions, floor and ceiling of a batch, in frame pixels.

    The network's joints and the ceiling of every decode but the first have its name
    behind their own.
    """
    loaded, side = predictions.loaded, preparation.side
    labels = {
        name: np.stack([example[name] for example in loaded.examples])
        for name in ("joints_px", "joints_m", "visible", "camera")
    }
    transforms = loaded.views["frame_from_crop"]
    references = loaded.views["reference"].tolist()
    labels_in_crop = _each(
        crops.transform_points, map(crops.invert, transforms), labels["joints_px"]
    )
    # Without heat maps there is no grid.
    ceilings = dict.fromkeys(predictions.decoded, labels_in_crop)
    if model.stride is not None:
        ceilings = quantise(
            labels_in_crop,
            labels["visible"],
            side=side // model.stride,
            stride=model.stride,
            sigma=sigma,
            decodes=list(predictions.decoded),
            drawn=model.drawn,
        )
    in_crop: dict[str, np.ndarray] = {}
    regressed: dict[str, np.ndarray | None] = {}
    for decode, decoded in predictions.decoded.items():
        behind = f", {decode}" if in_crop else ""
        in_crop[f"network{behind}"] = decoded.joints_px
        in_crop[f"ceiling{behind}"] = ceilings[decode]
        regressed[f"network{behind}"] = decoded.joints
    if statistics.mean_in_crop is not None and preparation.crop != "full":
        mean = np.stack([statistics.mean_in_crop] * len(transforms))
        mean[..., 2] *= 1000 / preparation.depth_range
        in_crop["floor_in_crop"] = (mean[..., :2] + 0.5) * side
        regressed["floor_in_crop"] = mean
    pixels = {
        kind: _each(crops.transform_points, transforms, joints_px)
        for kind, joints_px in in_crop.items()
    }
    boxes = metrics.label_boxes(labels["joints_px"], labels["visible"])
    pixels["floor"] = np.asarray(metrics.place(statistics.mean_pose, boxes))
    lift = functools.partial(
        lifting.lift,
        offsets_m=statistics.offsets_m,
        reach_mm=frames.depth_range or preparation.depth_range,
        limb_m=frames.skeleton.limb_m,
    )
    to_camera = functools.partial(
        lifting.regressed_to_camera, side=side, depth_range=preparation.depth_range
    )
    cameras = labels["camera"]
    metres = {
        kind: _each(lift, loaded.depths, joints_px, references, cameras)
        if (joints := regressed.get(kind)) is None
        else _each(to_camera, joints, transforms, references, cameras)
        for kind, joints_px in pixels.items()
    }
    return {
        **labels,
        **{f"{kind}_px": joints_px for kind, joints_px in pixels.items()},
        **{f"{kind}_m": joints_m for kind, joints_m in metres.items()},
        "scores": next(iter(predictions.decoded.values())).scores,
        "is_found": loaded.views["is_found"],
    }


def quantise(
    joints_px: np.ndarray,
    visible: np.ndarray,
    *,
    side: int,
    stride: int,
    sigma: float,
    decodes: Sequence[str],
    drawn: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns what a perfect network's heat maps decode to: a result's ceilings.

    Args:
        joints_px: [batch, joints, 2] pixels of the network's input.
        visible: [batch, joints] bool.
        side: Cells along each side of a map.
        stride: Input pixels per cell.
        sigma: Of the maps' Gaussians, in cells.
        decodes: Names in `heatmaps.DECODES`.
        drawn: What becomes of the maps in the network's last layer.
    """
    maps = _jitted_heatmaps(joints_px, visible, side=side, stride=stride, sigma=sigma)
    maps = drawn(np.asarray(maps))
    return {
        decode: heatmaps.heatmaps_to_joints(maps, stride=stride, decode=decode)[0]
        for decode in decodes
    }


_jitted_heatmaps = jax.jit(
    joints_to_heatmaps, static_argnames=("side", "stride", "sigma")
)


def _each(function: Callable[..., np.ndarray], *arguments: Iterable[Any]) -> np.ndarray:
    """Stacks a function's values over a batch's samples."""
    return np.stack([function(*sample) for sample in zip(*arguments, strict=True)])
