"""TFDS builder of ASTAR (Xu & Cheng 2013); README.md says where the files belong."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow_datasets as tfds

from cmbjax.camera import pixels_to_camera
from cmbjax.skeletons import HAND20
from datasets import schema
from datasets.builder import (
    Fact,
    FrameBuilder,
    held_out_blocks,
    held_out_subjects,
    outside_share,
    read_within,
)

WIDTH, HEIGHT = 320, 240  # pixels
FOLDERS = {"train": "Training_Dataset", "test": "Test_Dataset"}
SUBJECTS = {"train": range(16, 31), "test": range(1, 16)}
OFFICIAL_FRAMES = 435  # in either split
MOST_BYTES = 10_000  # of a label file
SATURATED = 32001  # this and what lies above is no distance
SURFACE_MM = 50  # a joint is this near to the surface seen at its pixel, mostly


@dataclasses.dataclass
class AstarConfig(tfds.core.BuilderConfig):
    """Which focal length makes metres of the labels.

    Attributes:
        focal_px: Pixels. The data set states none; 241.42 is that of another hand
            data set's 320x240 time-of-flight camera (I). Part of the config's name.
    """

    name: str = ""
    focal_px: float = 241.42

    def __post_init__(self):
        low, high = schema.LEAST_FOCAL_PX, schema.MOST_FOCAL_PX
        if not low < self.focal_px < high:
            raise ValueError(
                f"focal_px must be between {low:g} and {high:g}, got {self.focal_px}"
            )
        self.name = f"focal_{self.focal_px:g}"


def astar_config(name: str) -> AstarConfig:
    """Returns the config of a name such as focal_224.

    Raises:
        ValueError: The name is not of that form.
    """
    focal = re.fullmatch(r"focal_(\d+(?:\.\d+)?)", name)
    if not focal:
        raise ValueError(f"expected astar/focal_<pixels>, got astar/{name}")
    return AstarConfig(focal_px=float(focal[1]))


class Frame(NamedTuple):
    """A depth file, its label ([20, 2] pixels, [20] mm) and its subject, or ""."""

    depth: Path
    joints_px: np.ndarray
    z_mm: np.ndarray
    subject: str


class Astar(FrameBuilder):
    """20 joints of a hand in 320x240 frames of a time-of-flight camera."""

    BUILDER_CONFIGS = [AstarConfig()]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/astar/README.md."
    skeleton = HAND20

    @classmethod
    def make(cls, config: str, source: Path | None, **options: Any) -> Self:
        """Returns the builder of a focal length, as in astar/focal_224."""
        if config:
            options["config"] = astar_config(config)
        return cls(**options)

    @property
    def findable(self) -> bool:
        """Hands are found by a network that no frame of this camera was shown to."""
        return False

    def files(self) -> list[str]:
        """Returns what the source folder holds."""
        return list(FOLDERS.values())

    def splits(self, source: Path) -> dict[str, list[Frame]]:
        """Reads the labels; subjects are held out, or blocks if names tell none."""
        frames = {s: _read_folder(source / f, SUBJECTS[s]) for s, f in FOLDERS.items()}
        self.summarise([f for s in FOLDERS for f in _facts(s, frames[s])])
        subjects = [frame.subject for frame in frames["train"]]
        validation = (
            np.isin(subjects, held_out_subjects(subjects))
            if all(subjects)
            else held_out_blocks(len(subjects))
        )
        return {
            "train": [frames["train"][i] for i in np.flatnonzero(~validation)],
            "validation": [frames["train"][i] for i in np.flatnonzero(validation)],
            "test": frames["test"],
        }

    def examples(self, items: Sequence[Frame]) -> Iterator[dict[str, object]]:
        """Yields the frames; a joint whose z is not positive has no place in metres."""
        focal = self.builder_config.focal_px
        camera = np.array([focal, focal, WIDTH / 2, HEIGHT / 2], np.float32)
        for frame in items:
            z_m = np.where(frame.z_mm > 0, frame.z_mm / 1000, np.nan)
            yield schema.example(
                depth=read_depth(frame.depth),
                joints_px=frame.joints_px,
                joints_m=pixels_to_camera(frame.joints_px, z_m, camera),
                visible=frame.z_mm > 0,
                camera=camera,
                frame=f"{frame.depth.parent.name}/{frame.depth.name}",
                subject=frame.subject,
            )


def read_depth(path: Path) -> np.ndarray:
    """Reads a headerless frame.

    Returns:
        [240, 320] uint16 millimetres; 0 where saturated or negative.

    Raises:
        ValueError: The file has another size.
    """
    size = path.stat().st_size
    if size != 2 * WIDTH * HEIGHT:
        raise ValueError(
            f"{path}: expected {2 * WIDTH * HEIGHT} bytes ({WIDTH}x{HEIGHT} 16-bit "
            f"integers), got {size}"
        )
    depth_mm = np.frombuffer(path.read_bytes(), "<i2").reshape(HEIGHT, WIDTH)
    has_reading = (depth_mm > 0) & (depth_mm < SATURATED)
    return np.where(has_reading, depth_mm, 0).astype(np.uint16)


def read_label(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a line of 20 triplets z, x, y: mm, and pixels from the image centre.

    Returns:
        [20, 2] pixels, and z of each, mm.

    Raises:
        ValueError: The file holds something else.
    """
    text = read_within(path, MOST_BYTES).decode("ascii", errors="replace")
    try:
        numbers = [float(n) for n in text.strip().rstrip(",").split(",")]
        with np.errstate(over="ignore"):
            zxy = np.array(numbers, np.float32).reshape(HAND20.num_joints, 3)
    except ValueError:
        zxy = np.full((1, 3), np.nan)
    if not np.isfinite(zxy).all():
        raise ValueError(
            f"{path}: expected one line of 60 comma-separated numbers, "
            f"got {text[:60]!r}"
        )
    schema.check_within(str(path), "x and y", zxy[:, 1:], schema.MOST_PX)
    schema.check_within(str(path), "z", zxy[:, 0], 1000 * schema.MOST_M)
    return zxy[:, 1:] + np.array([WIDTH / 2, HEIGHT / 2], np.float32), zxy[:, 0]


def subjects_of(names: Sequence[str], known: range) -> list[str]:
    """Returns the subject each frame's name tells, or "" for all.

    A number in the names is the subject if in every name it is a known one.
    """
    numbers = [[int(n) for n in re.findall(r"\d+", name)] for name in names]
    for column in zip(*numbers, strict=False):
        if len(set(column)) > 1 and set(column) <= set(known):
            return [f"{subject:02d}" for subject in column]
    return [""] * len(names)


def _read_folder(folder: Path, known_subjects: range) -> list[Frame]:
    labels = sorted(folder.rglob("*shand"))
    if not labels:
        raise FileNotFoundError(f"{folder}: holds no label file named <frame>shand")
    bases = [str(path.relative_to(folder))[: -len("shand")] for path in labels]
    frames = []
    for path, base, subject in zip(
        labels, bases, subjects_of(bases, known_subjects), strict=True
    ):
        depth = folder / f"{base}skdepth"
        if not depth.is_file():
            raise FileNotFoundError(f"{path}: its depth file {depth} is missing")
        frames.append(Frame(depth, *read_label(path), subject))
    return frames


def _facts(split: str, frames: Sequence[Frame]) -> list[Fact]:
    joints_px = np.stack([frame.joints_px for frame in frames])
    subjects = len({frame.subject for frame in frames} - {""})
    near = 100 * float(np.mean([_near_surface(frame) for frame in frames]))
    return [
        (f"{split} frames", len(frames), OFFICIAL_FRAMES, 0),
        (f"{split} subjects told by the names", subjects, len(SUBJECTS[split]), 0),
        (f"{split} joints within {SURFACE_MM} mm of the depth there, %", near, 100, 50),
        (
            f"{split} joints outside the image, %",
            outside_share(joints_px, WIDTH, HEIGHT),
            None,
            0,
        ),
    ]


def _near_surface(frame: Frame) -> float:
    """Returns the share of joints that the depth image confirms."""
    depth_mm = read_depth(frame.depth).astype(np.float32)
    columns, rows = np.clip(frame.joints_px, 0, [WIDTH - 1, HEIGHT - 1]).astype(int).T
    return float(np.mean(np.abs(depth_mm[rows, columns] - frame.z_mm) <= SURFACE_MM))
