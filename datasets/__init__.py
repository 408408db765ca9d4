"""TFDS builders of labelled depth frames, one folder each, and how to load one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from cmbjax.pipeline import DepthFrames, Example
from cmbjax.registry import pick
from cmbjax.skeletons import SKELETONS
from datasets.astar.astar import Astar
from datasets.folder.folder import Folder
from datasets.itop.itop import Itop
from datasets.k2hpd.k2hpd import K2hpd
from datasets.mannequin.mannequin import Mannequin

DATASETS: dict[str, type[tfds.core.DatasetBuilder]] = {
    "mannequin": Mannequin,
    "k2hpd": K2hpd,
    "itop": Itop,
    "astar": Astar,
    "folder": Folder,
}

# Hands, and people seen from above: `detection.find_people` is not made for them.
NOT_DETECTABLE = {("astar", ""), ("itop", "top")}


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
        name: A name in `DATASETS`; a slash adds one of its configs, as in itop/top.
        data_dir: Folder of the data set's own files; mannequin has none.
        tfds_dir: Folder of prepared data sets; by default that of TFDS.
        split: train, validation or test.
        limit: At most so many frames, evenly spaced.

    Raises:
        ValueError: An unknown data set, config or split, or a file that is not as it
            should be.
        FileNotFoundError: Files are missing; says which belong where.
    """
    name, _, config = name.partition("/")
    make = pick(DATASETS, "dataset", name)
    options: dict[str, Any] = {"data_dir": tfds_dir, "file_format": "array_record"}
    if name == "folder":
        if data_dir is None:
            raise ValueError("--dataset=folder needs --data_dir, the folder of frames")
        builder: tfds.core.DatasetBuilder = Folder(source_dir=data_dir, **options)
    else:
        if config:
            pick(make.builder_configs, f"config of {name}", config)
        builder = make(config=config or None, **options)
    manual = tfds.download.DownloadConfig(manual_dir=data_dir)
    builder.download_and_prepare(download_config=manual)
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        raise ValueError(f"{name} has no {split} split; it has: {there}")
    images = {
        feature: tfds.decode.SkipDecoding()
        for feature in ("depth", "parts")
        if feature in builder.info.features
    }
    source: Sequence[Example] = builder.as_data_source(split, decoders=images)
    if limit is not None and limit < len(source):
        source = [source[i * len(source) // limit] for i in range(limit)]
    return DepthFrames(
        source=source,
        skeleton=SKELETONS[builder.info.metadata["skeleton"]],
        metric=builder.info.metadata["depth_unit"] == "mm",
        detectable=(name, config) not in NOT_DETECTABLE,
    )
