"""TFDS builder of ITOP (Haque et al. 2016); README.md says where the files belong."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import tensorflow_datasets as tfds

from cmbjax.camera import ITOP_CAMERA, camera_to_pixels
from cmbjax.skeletons import BODY15
from datasets import schema
from datasets.builder import Fact, FrameBuilder, held_out_subjects, outside_share
from datasets.schema import MOST_M, MOST_PX

WIDTH, HEIGHT = 320, 240  # pixels (C)
OFFICIAL_FRAMES = {"train": 39795, "test": 10501}  # (C)
OFFICIAL_VALID = {"train": 17991, "test": 4863}  # (C)
OFFICIAL_PERSONS = {"train": 16, "test": 4}  # (I)
# What h5py raises of damaged files, as far as is known: it documents none.
DAMAGED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
MOST_FRAMES = 200_000  # of a file: five times as many as the longest has
MOST_BYTES = 2**28  # to be read at once
IMAGES = ("data", "segmentation")  # are read frame by frame
CHUNK_CACHE = {"rdcc_nbytes": 64 << 20, "rdcc_nslots": 100_003}  # frame by frame reads


class Labels(NamedTuple):
    """The label file of one split, without the segmentation.

    Attributes:
        names: `PP_FFFFF`: person and frame.
        valid: [frames] bool.
        joints_px: [frames, 15, 2] pixels.
        joints_m: [frames, 15, 3] metres, camera frame.
    """

    names: list[str]
    valid: np.ndarray
    joints_px: np.ndarray
    joints_m: np.ndarray

    def persons(self) -> list[str]:
        """Returns the persons of the valid frames."""
        return sorted({self.names[i][:2] for i in np.flatnonzero(self.valid)})


class Itop(FrameBuilder):
    """15 joints and body parts in 320x240 frames, seen from the side or the top."""

    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="side", description="Camera in front."),
        tfds.core.BuilderConfig(name="top", description="Camera at the ceiling."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/itop/README.md."
    skeleton = BODY15
    parts = True

    @property
    def depth_range(self) -> float:
        """Millimetres; from above as far as from the head down to the feet."""
        return 1000 * self.skeleton.reach_m if self.findable else 2000.0

    @property
    def findable(self) -> bool:
        """Whether people are seen from the side."""
        return self.builder_config.name == "side"

    def files(self) -> list[str]:
        """Returns what the source folder holds for this view."""
        return [
            f"ITOP_{self.builder_config.name}_{split}_{what}.h5"
            for split in ("train", "test")
            for what in ("depth_map", "labels")
        ]

    def _paths(self, split: str) -> tuple[Path, Path]:
        assert self._source is not None
        stem = f"ITOP_{self.builder_config.name}_{split}"
        return self._source / f"{stem}_depth_map.h5", self._source / f"{stem}_labels.h5"

    def splits(self, source: Path) -> dict[str, list[tuple[str, int]]]:
        """Reads the labels; whole persons of the training set are for validation.

        Returns:
            For each split, (file's split, index in the file) of its valid frames.
        """
        self._labels = {s: _read_labels(*self._paths(s)) for s in ("train", "test")}
        self.summarise(
            [f for s, labels in self._labels.items() for f in _facts(s, labels)]
        )
        train = self._labels["train"]
        held_out = held_out_subjects(train.persons())
        frames: dict[str, list[tuple[str, int]]] = {"train": [], "validation": []}
        for i in np.flatnonzero(train.valid):
            split = "validation" if train.names[i][:2] in held_out else "train"
            frames[split].append(("train", int(i)))
        test = np.flatnonzero(self._labels["test"].valid)
        return {**frames, "test": [("test", int(i)) for i in test]}

    def examples(self, items: Sequence[tuple[str, int]]) -> Iterator[dict[str, object]]:
        """Yields frames one read at a time; all joints count, as in the 10 cm rule."""
        split = items[0][0]
        labels = self._labels[split]
        depth_path, labels_path = self._paths(split)
        with (
            _open(depth_path, **CHUNK_CACHE) as depth_file,
            _open(labels_path, **CHUNK_CACHE) as labels_file,
        ):
            # HDF5's chunk cache lives as long as these handles.
            data, segmentation = depth_file["data"], labels_file["segmentation"]
            for _, i in items:
                depth_m = _values(depth_path, data, i)
                parts = _values(labels_path, segmentation, i)
                yield schema.example(
                    depth=metres_to_mm(depth_m, f"{depth_path}, frame {i}"),
                    parts=part_labels(parts, f"{labels_path}, frame {i}"),
                    joints_px=labels.joints_px[i],
                    joints_m=labels.joints_m[i],
                    camera=ITOP_CAMERA,
                    frame=labels.names[i],
                    subject=labels.names[i][:2],
                )


def metres_to_mm(depth_m: np.ndarray, where: str) -> np.ndarray:
    """Converts a frame in metres, 0 = hole, to uint16 millimetres.

    Raises:
        ValueError: A pixel is not a number, negative, or too far for 16 bits.
    """
    with np.errstate(over="ignore"):
        depth_mm = np.rint(depth_m.astype(np.float32) * 1000)
    if not ((depth_mm >= 0) & (depth_mm <= 65535)).all():  # False for NaN
        raise ValueError(
            f"{where}: depth must be 0 (no reading) to 65.535 m, "
            f"got {np.min(depth_m)} to {np.max(depth_m)}"
        )
    return depth_mm.astype(np.uint16)


def part_labels(segmentation: np.ndarray, where: str) -> np.ndarray:
    """Converts ITOP's parts, -1 = background, to 1 + joint, 0 = background."""
    parts = segmentation.astype(np.int32) + 1
    if parts.min() < 0 or parts.max() > BODY15.num_joints:
        raise ValueError(
            f"{where}: segmentation must be -1 to {BODY15.num_joints - 1}, "
            f"got {parts.min() - 1} to {parts.max() - 1}"
        )
    return parts.astype(np.uint8)


def _read_labels(depth_path: Path, labels_path: Path) -> Labels:
    with _open(depth_path) as depth, _open(labels_path) as labels:
        names = _names(labels_path, labels)
        n, joints = len(names), BODY15.num_joints
        _check(depth_path, depth, "data", (n, HEIGHT, WIDTH), "f")
        _check(labels_path, labels, "segmentation", (n, HEIGHT, WIDTH), "iu")
        _check(labels_path, labels, "is_valid", (n,), "biu")
        _check(labels_path, labels, "image_coordinates", (n, joints, 2), "iuf")
        _check(labels_path, labels, "real_world_coordinates", (n, joints, 3), "f")
        if _names(depth_path, depth) != names:
            raise ValueError(f"{depth_path}: its `id` differ from those of labels")
        valid = _values(labels_path, labels["is_valid"]) == 1
        joints_px = _labelled(labels_path, labels, "image_coordinates", valid, MOST_PX)
        joints_m = _labelled(
            labels_path, labels, "real_world_coordinates", valid, MOST_M
        )
    # An index names a pixel, whose centre is half a pixel further.
    joints_px += 0.5
    joints_m *= np.array([1, -1, 1], np.float32)  # their y points up
    return Labels(names, valid, joints_px, joints_m)


def _labelled(
    path: Path, labels: h5py.File, key: str, valid: np.ndarray, most: float
) -> np.ndarray:
    """Reads positions, which must be known of valid frames; those of others are 0."""
    values = _values(path, labels[key])
    bad = valid & ~(np.abs(values.astype(np.float64)) <= most).all((1, 2))
    if bad.any():
        raise ValueError(
            f"{path}, frame {np.argmax(bad)}: is_valid, but its {key} are not all from "
            f"{-most:g} to {most:g}"
        )
    return np.where(valid[:, None, None], values, 0).astype(np.float32)


@contextlib.contextmanager
def _open(path: Path, **options: int) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, **options)
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error})") from None
    with file:
        yield file


def _values(path: Path, dataset: h5py.Dataset, part: Any = ...) -> np.ndarray:
    """Reads a part of a file, whose errors do not say which file it is."""
    try:
        return np.asarray(dataset[part])
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error})") from None


def _names(path: Path, file: h5py.File) -> list[str]:
    _check(path, file, "id", None, "SO")
    names = [
        n.decode(errors="replace") if isinstance(n, bytes) else str(n)
        for n in _values(path, file["id"]).reshape(-1)
    ]
    for i, name in enumerate(names):
        if not re.fullmatch(r"\d\d_\d+", name):
            raise ValueError(f"{path}, frame {i}: id must be PP_FFFFF, got {name!r}")
    return names


def _check(
    path: Path, file: h5py.File, key: str, shape: tuple[int, ...] | None, kinds: str
) -> None:
    try:
        dataset, there = file.get(key), list(file)
        is_array = isinstance(dataset, h5py.Dataset)
        if is_array:
            got, dtype, chunk = dataset.shape or (), dataset.dtype, dataset.chunks or ()
    except DAMAGED as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error})") from None
    if not is_array:
        raise ValueError(
            f"{path}: has no `{key}`, only {', '.join(there) or 'nothing'}"
        )
    if (shape is not None and got != shape) or dtype.kind not in kinds:
        raise ValueError(
            f"{path}: `{key}` must be {list(shape or ('frames',))} of numpy kind "
            f"{' or '.join(kinds)}, got {list(got)} {dtype}"
        )
    # Chunks are unpacked whole, and what is no image is read whole.
    at_once = max(math.prod(chunk), 0 if key in IMAGES else math.prod(got))
    if got[:1] > (MOST_FRAMES,) or at_once * dtype.itemsize > MOST_BYTES:
        raise ValueError(
            f"{path}: `{key}` must have at most {MOST_FRAMES} frames and {MOST_BYTES} "
            f"bytes to be read at once, got {list(got)} {dtype} in chunks of "
            f"{list(chunk)}"
        )


def _facts(split: str, labels: Labels) -> list[Fact]:
    joints_px, joints_m = labels.joints_px[labels.valid], labels.joints_m[labels.valid]
    ahead = joints_m[..., 2] > 0
    error = camera_to_pixels(joints_m[ahead], ITOP_CAMERA) - joints_px[ahead]
    error_px = float(np.median(np.linalg.norm(error, axis=-1))) if ahead.any() else 0.0
    outside = outside_share(joints_px, WIDTH, HEIGHT) if len(joints_px) else 0.0
    return [
        (f"{split} frames", len(labels.names), OFFICIAL_FRAMES[split], 0),
        (f"{split} valid frames", len(joints_px), OFFICIAL_VALID[split], 0),
        (f"{split} persons", len(labels.persons()), OFFICIAL_PERSONS[split], 0),
        (f"{split} joints outside the image, %", outside, None, 0),
        (f"{split} median projection error, px", error_px, 0, 1),
    ]
