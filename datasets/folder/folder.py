"""TFDS builder of the user's own frames: COCO keypoints and 16-bit depth PNGs."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import tensorflow_datasets as tfds

from cmbjax.data.flags import SPLITS
from cmbjax.depth.images import read_png
from cmbjax.files import expanded
from cmbjax.skeletons import BODY15, Skeleton
from datasets import schema
from datasets.builder import Fact, FrameBuilder, file_key
from datasets.folder import coco

ALONE = "annotations.json"  # stands alone: one split, test
MOST_NAME = 200  # bytes; a folder's name may have 255, and a key follows
Item = tuple[str, int]  # split, and number of a person in its file


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """Which folder; `name` changes whenever the folder's content does."""

    name: str = ""
    source_dir: str = ""


class Folder(FrameBuilder):
    """A folder of depth frames; its joint names decide which skeleton it has.

    Prepared copies are kept by content: editing an annotation file or an image makes
    a new copy.

    Args:
        source_dir: Holds `annotations.json` (one split, test), or any of `train.json`,
            `validation.json` and `test.json`, and the images that they name.
        config: Instead of `source_dir`; TFDS passes it when it copies a builder.
        **options: `data_dir` and `file_format`, as of every TFDS builder.

    Raises:
        FileNotFoundError: The folder, its annotation files or an image is missing.
        ValueError: An annotation file is malformed, or two of them disagree.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/folder/README.md."
    skeleton: Skeleton = BODY15  # an instance has that of its joint names

    def __init__(
        self,
        *,
        source_dir: str | Path | None = None,
        config: FolderConfig | None = None,
        **options: Any,
    ):
        if source_dir is None and config is not None:
            source_dir = config.source_dir
        if source_dir is None:
            raise ValueError("source_dir: name the folder that holds the frames")
        self._source = self._folder = expanded(source_dir)
        self._paths = _annotation_files(self._source)
        self._annotations = {split: coco.read(p) for split, p in self._paths.items()}
        kinds = {(a.skeleton, a.depth_unit) for a in self._annotations.values()}
        if len(kinds) > 1:
            raise ValueError(
                f"{self._source}: its annotation files differ in joints or depth_unit: "
                + "; ".join(
                    f"{path.name} has {annotations.skeleton.name}, "
                    f"{annotations.depth_unit}"
                    for path, annotations in zip(
                        self._paths.values(), self._annotations.values(), strict=True
                    )
                )
            )
        ((self.skeleton, self.depth_unit),) = kinds
        name = re.sub(r"\W+", "_", self._source.resolve().name)
        name = name.encode()[:MOST_NAME].decode(errors="ignore")
        config = FolderConfig(
            name=f"{name}_{self._digest()}", source_dir=str(self._source)
        )
        super().__init__(config=config, **options)

    @classmethod
    def make(cls, config: str, source: Path | None, **options: Any) -> Self:
        """Returns the builder of a folder of frames."""
        if config:
            raise ValueError(f"folder has no configs, got folder/{config}")
        if source is None:
            raise ValueError("--dataset=folder needs --data_dir, the folder of frames")
        return cls(source_dir=source, **options)

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the data set; the name of its copy says what it is made of."""
        super().download_and_prepare(**{**options, "download_config": None})

    def files(self) -> list[str]:
        """Returns the annotation files."""
        return [path.name for path in self._paths.values()]

    def splits(self, source: Path) -> dict[str, Sequence[Item]]:
        """Returns the split and number of each example."""
        facts: list[Fact] = []
        for split, annotations in self._annotations.items():
            num_unannotated = annotations.num_images - annotations.num_annotated
            hidden = 100 * annotations.hidden
            facts += [
                (f"{split} examples", len(annotations.persons), None, 0),
                (f"{split} images", annotations.num_images, None, 0),
                (f"{split} images without annotation", num_unannotated, 0, 0),
                (f"{split} joints that are not visible, %", hidden, None, 0),
            ]
        self.summarise(facts)
        return {
            split: [(split, number) for number in range(len(annotations.persons))]
            for split, annotations in self._annotations.items()
        }

    def examples(self, items: Sequence[Item]) -> Iterator[dict[str, object]]:
        """Yields one example for each annotation."""
        for split, number in items:
            person = self._annotations[split].persons[number]
            path = self._folder / person.file_name
            depth = read_png(path)
            size = depth.shape[::-1]
            if person.size not in (None, size):
                raise ValueError(
                    f"{path}: {size[0]}x{size[1]} pixels, but "
                    f"{self._paths[split].name} says {person.size[0]}x{person.size[1]}"
                )
            yield schema.example(
                depth=depth,
                joints_px=person.joints_px,
                joints_m=person.joints_m,
                visible=person.visible,
                camera=self._annotations[split].camera,
                frame=person.file_name,
                subject=person.subject,
            )

    def _digest(self) -> str:
        """Returns a key of the annotation texts and the images' names, contents."""
        digest = hashlib.sha256()
        for split, path in self._paths.items():
            digest.update(f"{split}\n".encode())
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)  # goes on with it
            for name in self._annotations[split].file_names:
                try:
                    key = file_key(self._folder / name)
                except OSError:
                    raise FileNotFoundError(
                        f"{path}: annotates {name}, but there is no "
                        f"{self._folder / name}"
                    ) from None
                digest.update(f"{name} {key}\n".encode())
        return digest.hexdigest()[:12]


def _annotation_files(folder: Path) -> dict[str, Path]:
    alone = folder / ALONE
    by_split = {split: folder / f"{split}.json" for split in SPLITS}
    paths = {split: path for split, path in by_split.items() if path.is_file()}
    if alone.is_file() and paths:
        raise ValueError(
            f"{folder}: holds {ALONE}, which is one test split, beside "
            f"{', '.join(path.name for path in paths.values())}; keep one or the other"
        )
    if alone.is_file():
        return {"test": alone}
    if not paths:
        what = "holds no annotation file" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(
            f"folder: {folder} {what}; expected {ALONE}, or any of "
            f"{', '.join(path.name for path in by_split.values())}. "
            'See "Get the files" in datasets/folder/README.md.'
        )
    return paths
