"""Labelled frames -> what the network reads: decoded, cropped, augmented, batched."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from cmbjax import crops, detection
from cmbjax.augment import Augmentation, random_transform, sensor_noise
from cmbjax.skeletons import Skeleton

Example = Mapping[str, Any]
Batch = dict[str, np.ndarray]

PREFETCHED_BATCHES = 8
READING_THREADS = 2
LEAST_EXTENT = 0.1  # of the frame's longer side: no labelled box is smaller
REFERENCE_SIDE = 64  # pixels; enough to tell a person's depth from
EPOCHS = 100_000  # more than any run has
UNSHARED = grain.sharding.NoSharding()


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
        detectable: Whether these are people whom `detection.find_people` serves, and
            not hands, or people seen from above.
    """

    source: Sequence[Example]
    skeleton: Skeleton
    metric: bool
    name: str
    depth_range: float | None
    detectable: bool

    def __len__(self) -> int:
        return len(self.source)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a frame becomes the network's input.

    Attributes:
        side: Side of the input, pixels.
        crop: "full" (the frame, letterboxed), "label_box" (around the labels), or
            "person": around the labels in training, around the person found in the
            depth image in evaluation; the whole frame where nobody is found.
        depth_range: See `crops.normalise`; millimetres or raw.
        clip: Frames of a recording that are seen at once, in the middle the one whose
            joints are asked for; where it begins or ends, its first or last again.
    """

    side: int
    crop: crops.CropMode
    depth_range: float
    clip: int = 1


def decode_depth(example: Example) -> np.ndarray:
    """Returns the depth image [height, width] uint16 of an example.

    Raises:
        ValueError: The PNG is truncated or of another type; names the frame.
    """
    depth = cv2.imdecode(
        np.frombuffer(example["depth"], np.uint8), cv2.IMREAD_UNCHANGED
    )
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        came = "no image" if depth is None else f"{list(depth.shape)} {depth.dtype}"
        raise ValueError(
            f"frame {frame_name(example)}: the depth must be a [height, width] 16-bit "
            f"PNG, got {came}"
        )
    return depth


def frame_name(example: Example) -> str:
    """Returns the name that finds a frame in its source."""
    name = example["frame"]
    return name.decode() if isinstance(name, bytes) else str(name)


def frame_box(depth: np.ndarray) -> np.ndarray:
    """Returns the box of a whole frame, shrunk so that its crop has no margin."""
    height, width = depth.shape
    centre = np.array([width, height, width, height]) / 2
    corners = np.array([0, 0, width, height])
    return (centre + (corners - centre) / crops.MARGIN).astype(np.float32)


def label_box(example: Example, depth: np.ndarray) -> np.ndarray:
    """Returns the box of the labelled body, as far as it is in the frame."""
    box = crops.body_box(example["joints_px"], example["visible"])
    height, width = depth.shape
    clipped = np.clip(box, 0, np.array([width, height, width, height], np.float32))
    if (clipped[2:] - clipped[:2]).min() > 1:
        box = clipped
    # One joint alone, or all in one place, say little of how large the body is.
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = np.maximum(half, max(height, width) * LEAST_EXTENT / 2)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def evaluation_boxes(
    example: Example, depth: np.ndarray, crop: crops.CropMode, metric: bool
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the box to show, the one to take the depth from, and if one was found."""
    if crop == "label_box" and example["visible"].any():
        box = label_box(example, depth)
        return box, box, True
    whole = frame_box(depth)
    if crop == "label_box":
        return whole, whole, False
    people = detection.find_people(depth, example["camera"], metric=metric)
    if not people:
        return whole, whole, False
    box = people[0].box
    return (whole if crop == "full" else box), box, True


def prepare_training(
    example: Example,
    rng: np.random.Generator,
    *,
    preparation: Preparation,
    augmentation: Augmentation,
    skeleton: Skeleton,
    clip: Sequence[Example] = (),
) -> Batch:
    """Returns a random view of a frame and its labels, in crop pixels.

    Args:
        example: The frame.
        rng: Draws the view.
        preparation: How it becomes an input.
        augmentation: How it may be changed.
        skeleton: Of its joints.
        clip: The frames around it and itself in the middle, to be seen in the same way.

    Returns:
        depth [side, side, 1 or clip] in [-1, 1], joints_px [joints, 2], joints_z
        [joints] in normalised depth (NaN where unlabelled), visible [joints]; of a clip
        also clip_joints_px [clip, joints, 2], clip_joints_z, clip_visible.
    """
    depth = decode_depth(example)
    box = around = frame_box(depth)
    if example["visible"].any():
        around = label_box(example, depth)
        box = box if preparation.crop == "full" else around
    transform, flip = random_transform(rng, box, preparation.side, augmentation)
    crop = crops.cut(depth, transform, preparation.side)
    scale = preparation.depth_range
    crop = sensor_noise(rng, crop, scale, augmentation)
    reference = _reference(depth, crop, box, around, scale)
    moved = reference + scale * rng.normal(0, augmentation.reference)
    order = list(skeleton.mirror) if flip else list(range(skeleton.num_joints))

    def labels(example: Example) -> Batch:
        joints_px = crops.transform_points(transform, example["joints_px"])[order]
        joints_z = (1000 * example["joints_m"][order, 2] - moved) / scale
        return {
            "joints_px": joints_px.astype(np.float32),
            "joints_z": joints_z.astype(np.float32),
            "visible": example["visible"][order],
        }

    own = labels(example)
    view = {"depth": crops.normalise(crop, moved, scale), **own}
    if clip:
        seen = [crops.cut(decode_depth(x), transform, preparation.side) for x in clip]
        noisy = [sensor_noise(rng, one, scale, augmentation) for one in seen]
        normal = [crops.normalise(one, moved, scale) for one in noisy]
        view["depth"] = np.concatenate(normal, axis=-1)
        of_clip = [labels(x) for x in clip]
        for name in own:
            view[f"clip_{name}"] = np.stack([one[name] for one in of_clip])
    return view


def prepare_evaluation(
    example: Example,
    *,
    preparation: Preparation,
    metric: bool,
    clip: Sequence[Example] = (),
) -> Batch:
    """Returns a frame as `crop` says, with what leads back from the crop to the frame.

    Args:
        example: The frame.
        preparation: How it becomes an input.
        metric: See `DepthFrames`.
        clip: See `prepare_training`.

    Returns:
        depth [side, side, 1 or clip], frame_from_crop [2, 3], reference [] (the
        person's depth, millimetres or raw), found [] (whether there was a person to
        look at).
    """
    depth = decode_depth(example)
    box, around, found = evaluation_boxes(example, depth, preparation.crop, metric)
    seen = view(depth, box, around, preparation)
    if clip:
        transform, reference = crops.invert(seen["frame_from_crop"]), seen["reference"]
        cuts = [crops.cut(decode_depth(x), transform, preparation.side) for x in clip]
        normal = [
            crops.normalise(one, float(reference), preparation.depth_range)
            for one in cuts
        ]
        seen["depth"] = np.concatenate(normal, axis=-1)
    return seen | {"found": np.array(found)}


def view(
    depth: np.ndarray, box: np.ndarray, around: np.ndarray, preparation: Preparation
) -> Batch:
    """Returns what the network sees of a depth image, without augmentation.

    Args:
        depth: [height, width], millimetres or raw, 0 = no reading.
        box: What to show, pixels.
        around: The person whose depth is the reference, pixels.
        preparation: How it becomes an input.

    Returns:
        depth [side, side, 1], frame_from_crop [2, 3], reference [] (the person's depth,
        millimetres or raw).
    """
    transform = crops.crop_transform(box, preparation.side)
    crop = crops.cut(depth, transform, preparation.side)
    reference = _reference(depth, crop, box, around, preparation.depth_range)
    return {
        "depth": crops.normalise(crop, reference, preparation.depth_range),
        "frame_from_crop": crops.invert(transform),
        "reference": np.array(reference, np.float32),
    }


def _reference(
    depth: np.ndarray,
    crop: np.ndarray,
    box: np.ndarray,
    around: np.ndarray,
    depth_range: float,
) -> float:
    """Returns the person's depth: from the crop, if it is the one around the person."""
    if around is not box:
        transform = crops.crop_transform(around, REFERENCE_SIDE)
        crop = crops.cut(depth, transform, REFERENCE_SIDE)
    return crops.person_depth(crop, depth_range / 2)


def recordings(source: Sequence[Example]) -> list[list[int]]:
    """Returns the frames of each recording, in order: a subject's, by their names."""
    names = []
    for index in range(len(source)):
        example = source[index]
        subject = example["subject"]
        subject = subject.decode() if isinstance(subject, bytes) else subject
        names.append((subject, frame_name(example), index))
    grouped = itertools.groupby(sorted(names), key=lambda name: name[0])
    return [[index for *_, index in group] for _, group in grouped]


def pieces(sequences: Sequence[Sequence[int]], longest: int) -> list[list[int]]:
    """Cuts sequences into contiguous ones, none of them longer than that."""
    return [
        list(sequence[start : start + longest])
        for sequence in sequences
        for start in range(0, len(sequence), longest)
    ]


def clips(sequences: Sequence[Sequence[int]], length: int) -> dict[int, list[int]]:
    """Returns the frames of the clip around each frame; see `Preparation.clip`."""
    around = range(-(length // 2), length // 2 + 1)
    return {
        index: [sequence[min(max(i + d, 0), len(sequence) - 1)] for d in around]
        for sequence in sequences
        for i, index in enumerate(sequence)
    }


class Streams(Sequence[tuple[int, bool]]):
    """Recordings as an endless row of batches, each sample of which is a stream.

    Sample b of a batch follows on sample b of the batch before. In each epoch the
    recordings come in another order, one after the other, and this row is cut into as
    many streams of one length; what is left over stays away.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], batch_size: int, seed: int
    ) -> None:
        """Takes the frames of each recording."""
        self._sequences, self._seed, self._streams = sequences, seed, batch_size
        self._length = sum(map(len, sequences)) // batch_size
        if not self._length:
            raise ValueError(
                f"--batch_size must be at most {sum(map(len, sequences))}, the frames "
                f"of the recordings, got {batch_size}"
            )
        self._epoch = functools.lru_cache(4)(self._shuffled)

    def __len__(self) -> int:
        return EPOCHS * self._length * self._streams

    def __getitem__(self, index: Any) -> Any:
        """Returns a frame, and whether a sequence starts with it."""
        epoch, rest = divmod(int(index), self._length * self._streams)
        step, stream = divmod(rest, self._streams)
        frame, first = self._epoch(epoch)[stream * self._length + step]
        return frame, first or step == 0

    def _shuffled(self, epoch: int) -> list[tuple[int, bool]]:
        order = np.random.default_rng([self._seed, epoch]).permutation(
            len(self._sequences)
        )
        return [
            (frame, i == 0)
            for sequence in order
            for i, frame in enumerate(self._sequences[sequence])
        ]


def in_streams(
    sequences: Sequence[Sequence[int]], streams: int
) -> tuple[list[list[int]], set[int]]:
    """Deals recordings out to streams of much the same length.

    A recording longer than all streams would be at one length is cut; K2HPD's, which
    names no subject, is a single one.

    Returns:
        Batches that hold each frame once: sample b follows on sample b of the batch
        before, and where streams have ended, those that go on stand first. And the
        frames with which a recording or a piece begins.
    """
    sequences = pieces(sequences, -(-sum(map(len, sequences)) // streams))
    rows: list[list[int]] = [[] for _ in range(streams)]
    for sequence in sorted(sequences, key=len, reverse=True):
        min(rows, key=len).extend(sequence)
    rows.sort(key=len, reverse=True)
    batches = [
        [row[i] for row in rows if i < len(row)] for i in range(max(map(len, rows)))
    ]
    return batches, {sequence[0] for sequence in sequences}


def training_batches(
    frames: DepthFrames,
    *,
    preparation: Preparation,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    share: float = 1.0,
    sequential: bool = False,
    processes: grain.sharding.ShardOptions = UNSHARED,
) -> grain.DatasetIterator:
    """Returns an endless, shuffled iterator whose position a checkpoint can hold.

    The position counts batches and the order is that of the batches, so both are the
    same for any number of processes.

    Args:
        frames: The training split.
        preparation: How a frame becomes an input.
        augmentation: How it may be changed.
        batch_size: Frames a batch; the last ones of an epoch join the next epoch's.
        seed: Of the order and of every random view.
        share: Part of the frames to use, the same ones for the same seed; where they
            are sequential or clips, of whole recordings, or of pieces as long as a
            stream, if a recording is longer than all that is asked for.
        sequential: Whether frames come in the order of their recordings: see
            `Streams`. Batches then say `starts`, where a sequence begins.
        processes: How many share a batch, and which this is: it gets its part of every
            batch, in order, and reads no other frame.

    Raises:
        ValueError: There are no frames, or the processes cannot share a batch equally.
    """
    if not len(frames.source):
        raise ValueError("the training split has no frames")
    size, rest = divmod(batch_size, processes.shard_count)
    if rest:
        raise ValueError(
            "--batch_size must be a multiple of the number of processes, "
            f"{processes.shard_count}, got {batch_size}"
        )
    if sequential or preparation.clip > 1:
        units = recordings(frames.source)
        asked = round(share * len(frames))
        if max(map(len, units)) > asked:
            units = pieces(units, max(1, asked // batch_size))
    else:
        units = [[i] for i in range(len(frames))]
    number = max(1, round(share * len(units)))
    chosen = np.random.default_rng(seed).permutation(len(units))[:number]
    sequences = [units[i] for i in chosen]
    around = clips(sequences, preparation.clip) if preparation.clip > 1 else {}

    def load(frame: tuple[int, bool], rng: np.random.Generator) -> Batch:
        index, starts = frame
        batch = prepare_training(
            frames.source[index],
            rng,
            preparation=preparation,
            augmentation=augmentation,
            skeleton=frames.skeleton,
            clip=[frames.source[i] for i in around.get(index, ())],
        )
        return batch | ({"starts": np.array(starts)} if sequential else {})

    if sequential:
        order = grain.MapDataset.source(Streams(sequences, batch_size, seed)).seed(seed)
    else:
        single = [(i, False) for sequence in sequences for i in sequence]
        order = grain.MapDataset.source(single).seed(seed).shuffle().repeat()
    parts = order.random_map(load).batch(size)
    batches = parts[processes.shard_index :: processes.shard_count]
    options = grain.ReadOptions(
        num_threads=READING_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES
    )
    return iter(batches.to_iter_dataset(options))


def evaluation_batches(
    frames: DepthFrames,
    *,
    preparation: Preparation,
    batches: Sequence[Sequence[int]],
) -> Iterator[tuple[list[Example], Batch]]:
    """Yields the examples of each batch, and their inputs as one.

    Args:
        frames: The split.
        preparation: How a frame becomes an input.
        batches: Frames of each, as indices.
    """
    around = {}
    if preparation.clip > 1:
        around = clips(recordings(frames.source), preparation.clip)

    def load(index: int) -> tuple[Example, Batch]:
        example = frames.source[index]
        batch = prepare_evaluation(
            example,
            preparation=preparation,
            metric=frames.metric,
            clip=[frames.source[i] for i in around.get(index, ())],
        )
        return example, batch

    indices = [index for batch in batches for index in batch]
    loaded = grain.MapDataset.source(indices).map(load)
    options = grain.ReadOptions(
        num_threads=READING_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES
    )
    pairs = iter(loaded.to_iter_dataset(options))
    for batch in batches:
        examples, inputs = zip(*itertools.islice(pairs, len(batch)), strict=True)
        stacked = {key: np.stack([x[key] for x in inputs]) for key in inputs[0]}
        yield list(examples), stacked
