"""Recordings: frames in the order in which a camera saw them."""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmbjax.data.examples import Example, frame_name

LAST_NUMBER = re.compile(r"(\d+)\D*$")
EPOCHS = 100_000  # more than any run has


def recordings(source: Sequence[Example]) -> list[list[int]]:
    """Returns the frames of each recording, in order of the last number in their names.

    Of one recording are frames of one subject whose names differ in the last number
    alone.
    """
    names = []
    for index in range(len(source)):
        example = source[index]
        subject = example["subject"]
        subject = subject.decode() if isinstance(subject, bytes) else subject
        name = frame_name(example)
        number = LAST_NUMBER.search(name)
        at = int(number[1]) if number else 0
        names.append(((subject, LAST_NUMBER.sub("", name)), at, name, index))
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


class InStream(NamedTuple):
    """A frame's place in a stream.

    Attributes:
        frame: Its index in the split.
        starts: Whether a sequence starts with it.
        sequence: Epoch and number of the recording, or of its piece: what its views
            have in common.
    """

    frame: int
    starts: bool = False
    sequence: tuple[int, int] = (0, 0)


class Streams(Sequence[InStream]):
    """Recordings as an endless row of batches of streams.

    A batch has `steps` frames of each stream, one after the other, and those of the
    next batch follow on them. In each epoch the recordings come in another order, one
    after the other, and this row is cut into as many streams of one length; what is
    left over stays away, as does the end of a recording that is no multiple of `steps`,
    so that a sequence starts with the first of them alone. A recording longer than a
    stream is cut into pieces of that length, each a sequence of its own.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        batch_size: int,
        seed: int,
        *,
        steps: int = 1,
    ) -> None:
        """Takes the frames of each recording.

        Raises:
            ValueError: There are too few frames for a batch.
        """
        whole = [s[: len(s) // steps * steps] for s in sequences]
        self._seed, self._steps, self._streams = seed, steps, batch_size // steps
        total = sum(map(len, whole))
        self._length = total // (self._streams * steps) * steps
        if not self._length:
            raise ValueError(
                f"--batch_size must be at most {total}, the frames of the recordings "
                f"in parts of {steps}, got {batch_size}"
            )
        self._sequences = pieces(whole, self._length)
        self._epoch = functools.lru_cache(4)(self._shuffled)

    def __len__(self) -> int:
        return EPOCHS * self._length * self._streams

    def __getitem__(self, index: Any) -> Any:
        """Returns an `InStream`."""
        epoch, rest = divmod(int(index), self._length * self._streams)
        batch, rest = divmod(rest, self._streams * self._steps)
        stream, step = divmod(rest, self._steps)
        at = batch * self._steps + step
        frame, first, sequence = self._epoch(epoch)[stream * self._length + at]
        return InStream(frame, first or at == 0, (epoch, sequence))

    def _shuffled(self, epoch: int) -> list[tuple[int, bool, int]]:
        order = np.random.default_rng([self._seed, epoch]).permutation(
            len(self._sequences)
        )
        return [
            (frame, i == 0, int(sequence))
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
