"""Batches of views, in an order that a checkpoint can go on with."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from cmbjax.data.augment import Augmentation
from cmbjax.data.examples import DepthFrames, Example, decode_depth
from cmbjax.data.recordings import (
    EPOCHS,
    InStream,
    Streams,
    clips,
    pieces,
    recordings,
)
from cmbjax.data.views import Preparation, View, evaluation_view, training_view

PREFETCHED_BATCHES = 8
READING_THREADS = 2
UNSHARED = grain.sharding.NoSharding()


def training_batches(
    frames: DepthFrames,
    *,
    preparation: Preparation,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    share: float = 1.0,
    sequential: bool = False,
    stream_frames: int = 1,
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
            `recordings.Streams`. All frames of a recording, or of its piece where it is
            longer than a stream, are then seen in one view, and batches say `starts`,
            where one begins.
        stream_frames: Frames of each stream a batch, one after the other.
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
    in_order = sequential or (preparation.num_frames > 1 and frames.recorded)
    if in_order:
        units = recordings(frames.source)
        asked = round(share * len(frames))
        if max(map(len, units)) > asked:
            whole = asked // batch_size * stream_frames  # of a stream, in whole batches
            units = pieces(units, max(stream_frames, whole))
    available = len(units) if in_order else len(frames)
    number = max(1, round(share * available))
    chosen = np.random.default_rng(seed).permutation(available)[:number]
    clip_of: dict[int, list[int]] = {}
    singles = chosen  # an array, as a list of 10^7 stills would take 2 GB
    if in_order:
        sequences = [units[i] for i in chosen]
        singles = np.concatenate(sequences)
        if preparation.num_frames > 1:
            clip_of = clips(sequences, preparation.num_frames)
    elif preparation.num_frames > 1:
        clip_of = clips(chosen[:, None].tolist(), preparation.num_frames)

    def load(place: InStream | np.integer, rng: np.random.Generator) -> View:
        place = place if isinstance(place, InStream) else InStream(int(place))
        view = training_view(
            frames.source[place.frame],
            rng,
            preparation=preparation,
            augmentation=augmentation,
            skeleton=frames.skeleton,
            clip=[frames.source[i] for i in clip_of.get(place.frame, ())],
            view_rng=np.random.default_rng([seed, *place.sequence])
            if sequential
            else None,
        )
        return view | ({"starts": np.array(place.starts)} if sequential else {})

    if sequential:
        streams = Streams(sequences, batch_size, seed, steps=stream_frames)
        order = grain.MapDataset.source(streams).seed(seed)
    else:
        order = grain.MapDataset.source(singles).seed(seed).shuffle().repeat(EPOCHS)
    parts = order.random_map(load).batch(size)
    batches = parts[processes.shard_index :: processes.shard_count]
    return iter(_prefetched(batches))


class LoadedBatch(NamedTuple):
    """Frames of a split to predict.

    Attributes:
        indices: Of the frames in the split.
        examples: The frames.
        depths: [height, width] uint16 each, as they are in the frames.
        views: See `views.evaluation_view`; stacked.
    """

    indices: Sequence[int]
    examples: list[Example]
    depths: list[np.ndarray]
    views: View


def evaluation_batches(
    frames: DepthFrames,
    *,
    preparation: Preparation,
    batches: Sequence[Sequence[int]],
) -> Iterator[LoadedBatch]:
    """Yields batches as they are to be predicted.

    Args:
        frames: The split.
        preparation: How a frame becomes an input.
        batches: Frames of each, as indices.
    """
    clip_of: dict[int, list[int]] = {}
    if preparation.num_frames > 1:
        if frames.recorded:
            units = recordings(frames.source)
        else:  # of a still a clip is the same frame again and again
            units = [[i] for i in range(len(frames))]
        clip_of = clips(units, preparation.num_frames)

    def load(index: int) -> tuple[Example, np.ndarray, View]:
        example = frames.source[index]
        depth = decode_depth(example)
        view = evaluation_view(
            example,
            depth,
            preparation=preparation,
            skeleton=frames.skeleton,
            metric=frames.metric,
            clip=[decode_depth(frames.source[i]) for i in clip_of.get(index, ())],
        )
        return example, depth, view

    indices = [index for batch in batches for index in batch]
    loaded = iter(_prefetched(grain.MapDataset.source(indices).map(load)))
    for batch in batches:
        of_batch = itertools.islice(loaded, len(batch))
        examples, depths, views = map(list, zip(*of_batch, strict=True))
        stacked = {name: np.stack([view[name] for view in views]) for name in views[0]}
        yield LoadedBatch(batch, examples, depths, stacked)


def _prefetched(dataset: grain.MapDataset) -> grain.IterDataset:
    options = grain.ReadOptions(
        num_threads=READING_THREADS, prefetch_buffer_size=PREFETCHED_BATCHES
    )
    return dataset.to_iter_dataset(options)
