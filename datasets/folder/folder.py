"""TFDS builder of the user's own frames: COCO keypoints and 16-bit depth PNGs."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cmbjax.skeletons import SKELETONS, Skeleton
from datasets import schema
from datasets.builder import FrameBuilder

SPLITS = ("train", "validation", "test")
ALONE = "annotations.json"  # one file: one split, test


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """Which folder; `name` changes whenever its content does.

    Attributes:
        source_dir: The folder of the user's files.
    """

    name: str = ""
    source_dir: str = ""


class Annotation(NamedTuple):
    """One labelled person: the image's entry, the person's, and the camera or None."""

    image: dict[str, Any]
    person: dict[str, Any]
    camera: np.ndarray | None
    where: str  # file and annotation, for messages


class Folder(FrameBuilder):
    """A folder of depth frames; its joint names decide which skeleton it has.

    Args:
        source_dir: Holds `annotations.json` (one split, test), or any of `train.json`,
            `validation.json` and `test.json`, and the images that they name.
        config: Instead of `source_dir`, for copies made by pickling.
        **options: `data_dir` and `file_format`, as of every TFDS builder.

    Raises:
        FileNotFoundError: There is no such folder, annotation file or image.
        ValueError: An annotation file is malformed.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/folder/README.md."
    skeleton: Skeleton = SKELETONS["body15"]  # replaced by that of the joint names

    def __init__(
        self,
        *,
        source_dir: str | Path | None = None,
        config: FolderConfig | None = None,
        **options: Any,
    ):
        if source_dir is None:
            if config is None:
                raise ValueError("source_dir: name the folder that holds the frames")
            source_dir = config.source_dir
        self._source = Path(source_dir).expanduser()
        self._files = _annotation_files(self._source)
        contents = {split: _load(path) for split, path in self._files.items()}
        self._annotations = {
            split: _annotations(self._files[split], content)
            for split, content in contents.items()
        }
        self.skeleton, self.depth_unit = _same(
            {
                self._files[split]: (_skeleton(self._files[split], content), _unit(content))
                for split, content in contents.items()
            }
        )
        digest = _digest(self._source, self._files, self._annotations)
        name = re.sub(r"\W+", "_", self._source.resolve().name) or "root"
        super().__init__(
            config=FolderConfig(f"{name}_{digest}", source_dir=str(self._source)),
            **options,
        )
