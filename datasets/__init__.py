"""TFDS builders of labelled depth frames, one folder each, and how to load one."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cmbjax.data.examples import DepthFrames, Example
from cmbjax.registry import pick
from datasets.astar.astar import Astar
from datasets.builder import DescribedFrames
from datasets.crowd.crowd import Crowd
from datasets.folder.folder import Folder
from datasets.hands.hands import Hands
from datasets.itop.itop import Itop
from datasets.k2hpd.k2hpd import K2hpd
from datasets.mannequin.mannequin import Mannequin
from datasets.people.people import People
from datasets.utd_mhad.utd_mhad import UtdMhad

DATASETS: dict[str, type[DescribedFrames]] = {
    "mannequin": Mannequin,
    "people": People,
    "crowd": Crowd,
    "hands": Hands,
    "k2hpd": K2hpd,
    "itop": Itop,
    "astar": Astar,
    "utd_mhad": UtdMhad,
    "folder": Folder,
}


def load(
    name: str,
    data_dir: Path | None = None,
    tfds_dir: Path | None = None,
    *,
    split: str,
    limit: int | None = None,
) -> DepthFrames:
    """Returns a split of a data set, prepared the first time that it is asked for.

    Args:
        name: A name in `DATASETS`; a slash adds one of its configs, as in itop/top or
            astar/focal_224 (pixels). Names joined by + are mixed, frame by frame.
        data_dir: Folder of the data set's own files; mannequin has none.
        tfds_dir: Folder of prepared data sets; by default that of TFDS.
        split: train, validation or test.
        limit: At most so many frames, evenly spaced.

    Raises:
        ValueError: An unknown data set, config or split, or a file that is not as it
            should be.
        FileNotFoundError: Files are missing; says which belong where.
    """
    if "+" in name:
        parts = [
            load(part, data_dir, tfds_dir, split=split) for part in name.split("+")
        ]
        return _thin(_mix(parts), limit)
    builder = prepared(name, data_dir, tfds_dir)
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        raise ValueError(f"{builder.name} has no {split} split; it has: {there}")
    made_of = f" of {builder.made_of}" if builder.made_of else ""
    frames = DepthFrames(
        source=builder.examples_of(split),
        skeleton=builder.skeleton,
        metric=builder.depth_unit == "mm",
        name=f"{builder.info.full_name}{made_of}, {split}",
        depth_range=builder.depth_range,
        findable=builder.findable,
        recorded=builder.recorded,
    )
    return _thin(frames, limit)


def prepared(
    name: str, data_dir: Path | None = None, tfds_dir: Path | None = None
) -> DescribedFrames:
    """Returns the builder of one data set, which is prepared if it is not; see `load`.

    Raises:
        ValueError: An unknown data set or config, or a file that is not as it should
            be.
        FileNotFoundError: Files are missing; says which belong where.
    """
    name, _, config = name.partition("/")
    kind = pick(DATASETS, "dataset", name)
    builder = kind.make(config, data_dir, data_dir=tfds_dir, file_format="array_record")
    manual = tfds.download.DownloadConfig(manual_dir=data_dir)
    builder.download_and_prepare(download_config=manual)
    return builder


def _mix(parts: Sequence[DepthFrames]) -> DepthFrames:
    """Returns the frames of several data sets as those of one.

    Raises:
        ValueError: Joints or depth are not of one kind.
    """
    alike = ("skeleton", "metric", "depth_range", "findable", "recorded")
    for field in alike:
        values = {getattr(part, field) for part in parts}
        if len(values) > 1:
            names = " and ".join(part.name for part in parts)
            raise ValueError(f"{names} cannot be mixed: they differ in {field}")
    sources = [part.source for part in parts]
    name = " + ".join(part.name for part in parts)
    return dataclasses.replace(parts[0], source=Chained(sources), name=name)


def _thin(frames: DepthFrames, limit: int | None) -> DepthFrames:
    """Returns at most so many of the frames, evenly spaced."""
    source, number = frames.source, len(frames.source)
    if limit is None or limit >= number:
        return frames
    chosen = [source[i * number // limit] for i in range(limit)]
    return dataclasses.replace(frames, source=chosen)


class Chained(Sequence[Example]):
    """Sources one after the other."""

    def __init__(self, sources: Sequence[Sequence[Example]]) -> None:
        self.sources = sources
        self.ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        part = bisect.bisect_right(self.ends, index)
        start = self.ends[part - 1] if part else 0
        return self.sources[part][index - start]
