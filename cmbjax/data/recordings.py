"""Recordings: frames in the order in which a camera saw them."""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmbjax.data.examples import Example, frame_name

LAST_NUMBER = re.compile(r"\d+\D*$")
EPOCHS = 100_000  # more than any run has


def recordings(source: Sequence[Example]) -> list[list[int]]:
    """Returns the frames of each recording, in order of their names.

    Of one recording are frames of one subject whose names differ in the last number
    alone.
    """
    names = []
    for index in range(len(source)):
        example = source[index]
        subject = example["subject"]
        subject = subject.decode() if isinstance(subject, bytes) else subject
        name = frame_name(example)
        names.append(((subject, LAST_NUMBER.sub("", name)), name, index))
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
    """Returns the frames of the clip around each frame; see `views.Preparation`."""
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
