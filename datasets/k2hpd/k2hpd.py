"""TFDS builder of K2HPD (Wang et al. 2016); README.md says where the files belong."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmbjax.depth.images import read_png
from cmbjax.skeletons import BODY19
from datasets import schema
from datasets.builder import (
    Fact,
    FrameBuilder,
    held_out_blocks,
    outside_share,
    read_within,
)

WIDTH, HEIGHT = 256, 212  # pixels (C)
IMAGES = "depth_data/depth_images"
LABELS = {"train": "train_annos.txt", "test": "test_annos.txt"}
OFFICIAL_FRAMES = {"train": 55943, "test": 39732}  # (C)
MOST_BYTES = 2**26  # of a label file: some four times as long as the longest (C)
WITHOUT_LAST = 15  # joints of lines that lack the last four
TORSO_PX = {"train": 41.05, "test": 44.68}  # median neck to mid-hip of all labels (C)


class Frame(NamedTuple):
    """A label line: the image, and [19, 2] pixels, NaN where unlabelled."""

    image: Path
    joints_px: np.ndarray


class K2hpd(FrameBuilder):
    """19 joints in 256x212 frames of raw 8-bit depth; no camera, no metric scale."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/k2hpd/README.md."
    skeleton = BODY19
    depth_unit = "raw"
    depth_range = 128.0  # half of what the 8-bit images can hold

    def files(self) -> list[str]:
        """Returns what the source folder holds: the test frames alone will do."""
        source = self._source
        if source is None:
            return [IMAGES, *LABELS.values()]
        there = {split: (source / name).exists() for split, name in LABELS.items()}
        if there["test"] and not there["train"]:
            return [IMAGES, LABELS["test"]]
        return [IMAGES, *LABELS.values()]

    def splits(self, source: Path) -> dict[str, list[Frame]]:
        """Reads both label files; blocks of the training frames are for validation."""
        images = {path.name for path in (source / IMAGES).iterdir()}
        if not images:
            raise FileNotFoundError(f"{source / IMAGES}: the folder is empty")
        frames = {
            split: _read_labels(source / name, source / IMAGES, images)
            for split, name in LABELS.items()
            if name in self.files()
        }
        self.summarise([fact for split in frames for fact in _facts(split, frames)])
        if "train" not in frames:
            return frames
        validation = held_out_blocks(len(frames["train"]))
        return {
            "train": [frames["train"][i] for i in np.flatnonzero(~validation)],
            "validation": [frames["train"][i] for i in np.flatnonzero(validation)],
            "test": frames["test"],
        }

    def examples(self, items: Sequence[Frame]) -> Iterator[dict[str, object]]:
        """Yields the frames; every labelled joint counts, also outside the image."""
        for frame in items:
            depth = read_png(frame.image, np.uint8)
            if depth.shape != (HEIGHT, WIDTH):
                raise ValueError(
                    f"{frame.image}: expected {WIDTH}x{HEIGHT} pixels, "
                    f"got {depth.shape[1]}x{depth.shape[0]}"
                )
            yield schema.example(
                depth=depth,
                joints_px=frame.joints_px,
                visible=np.isfinite(frame.joints_px).all(axis=1),
                frame=frame.image.name,
            )


def _read_labels(path: Path, folder: Path, images: set[str]) -> list[Frame]:
    frames = []
    lines = read_within(path, MOST_BYTES).split(b"\n")
    for number, line in enumerate(lines, start=1):
        line = line.strip(b"\x00 \t\r")  # NULs stand before some lines (C)
        if not line:
            continue
        name, joints = parse_label(line, f"{path}, line {number}")
        if name not in images:
            raise FileNotFoundError(f"{path}, line {number}: no image {folder / name}")
        frames.append(Frame(folder / name, joints))
    if not frames:
        raise ValueError(f"{path}: holds no label lines")
    return frames


def parse_label(line: bytes, where: str) -> tuple[str, np.ndarray]:
    """Returns the image name and joints of a line `name.png x0,y0,x1,y1,...`.

    Args:
        line: Without surrounding white space.
        where: File and line, for the message.

    Returns:
        The name, and [19, 2] pixels: label 117 is the pixel whose centre is 117.5. Of
        the 15 joints that some copies have alone the last four are NaN.

    Raises:
        ValueError: The line is of another form, or a joint is far from every image.
    """
    try:
        name, numbers = line.decode("ascii").split()
        labels = np.array([int(number) for number in numbers.split(",")], np.float32)
        joints = np.full((BODY19.num_joints, 2), np.nan, np.float32)
        count = WITHOUT_LAST if len(labels) == 2 * WITHOUT_LAST else BODY19.num_joints
        joints[:count] = labels.reshape(count, 2)
    except (OverflowError, ValueError):
        raise ValueError(
            f"{where}: expected `NNNNNNNN.png` and 38 comma-separated integers (or the "
            f"30 of the first {WITHOUT_LAST} joints), got {line[:60]!r}"
        ) from None
    schema.check_within(where, "joints", joints, schema.MOST_PX)
    return name, joints + 0.5


def _facts(split: str, frames: dict[str, list[Frame]]) -> list[Fact]:
    joints = np.stack([frame.joints_px for frame in frames[split]])
    hips = joints[:, [9, 12]].mean(1)
    torso = float(np.median(np.linalg.norm(joints[:, 1] - hips, axis=-1)))
    return [
        (f"{split} frames", len(joints), OFFICIAL_FRAMES[split], 0),
        (f"{split} median torso, px", torso, TORSO_PX[split], 0.1),
        (
            f"{split} joints outside the image, %",
            outside_share(joints, WIDTH, HEIGHT),
            None,
            0,
        ),
    ]
