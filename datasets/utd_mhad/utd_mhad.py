"""TFDS builder of UTD-MHAD (Chen et al. 2015); see README.md for its files."""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from cmbjax.camera import camera_to_pixels
from cmbjax.skeletons import BODY20
from datasets import schema
from datasets.builder import Fact, FrameBuilder, outside_share, read_within

WIDTH, HEIGHT = 320, 240  # pixels (C)
# fx, fy, cx, cy of the picture as it is turned here (C): the files count pixels from
# the first one's centre, and their picture is mirrored.
CAMERA = np.array([285.63, 285.63, 159.5, 120.5], np.float32)
NEAREST_M = 0.4  # nothing that the camera measures is nearer
LAG = 2  # frames by which the skeleton's are ahead of the depth's (C)
MOST_FRAMES = 500  # of a recording: four times as many as the longest has
MOST_BYTES = 2**27  # of a file, unpacked too: nearly twice the longest, of doubles
COMPRESSED = 15  # the kind of a piece that is packed by zlib
DEPTH, SKELETON = "Depth", "Skeleton"
NAME = re.compile(r"a(\d+)_s(\d+)_t(\d+)_depth\.mat")
SUBJECTS = {"train": (1, 3, 5, 7), "test": (2, 4, 6, 8)}  # (C)
OFFICIAL_RECORDINGS = 861  # (C)


class Recording(NamedTuple):
    """The files of a recording, and what its name says.

    Attributes:
        depth: The depth file.
        action: From 1.
        subject: From 1.
        trial: From 1.
    """

    depth: Path
    action: int
    subject: int
    trial: int

    @property
    def name(self) -> str:
        """Sorts by subject, action and trial."""
        return f"s{self.subject}_a{self.action:02d}_t{self.trial}"

    @property
    def skeleton(self) -> Path:
        """Returns the skeleton file."""
        name = self.depth.name.replace("_depth", "_skeleton")
        return self.depth.parents[1] / SKELETON / name


class UtdMhad(FrameBuilder):
    """20 joints of eight people who do 27 actions, frame after frame."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "See datasets/utd_mhad/README.md."
    skeleton = BODY20

    def files(self) -> list[str]:
        """Returns what the source folder holds."""
        return [DEPTH, SKELETON]

    def splits(self, source: Path) -> dict[str, list[tuple[Recording, int]]]:
        """Finds the recordings; the last training subject there is for validation.

        Returns:
            For each split, recording and number of each frame.
        """
        recordings = find_recordings(source)
        there = {recording.subject for recording in recordings}
        training = sorted(there.intersection(SUBJECTS["train"]))
        if len(training) < 2:
            raise ValueError(
                f"{source / DEPTH}: expected recordings of at least two of the "
                f"subjects {', '.join(map(str, SUBJECTS['train']))}, got those of "
                f"{', '.join(map(str, training)) or 'none'}"
            )
        subjects = {
            "train": training[:-1],
            "validation": training[-1:],
            "test": sorted(there.intersection(SUBJECTS["test"])),
        }
        everyone = sorted(subject for both in SUBJECTS.values() for subject in both)
        absent = [subject for subject in everyone if subject not in there]
        frames: dict[str, list[tuple[Recording, int]]] = {}
        facts: list[Fact] = [
            ("recordings", len(recordings), OFFICIAL_RECORDINGS, 0),
            ("subjects", len(there), len(everyone), 0),
        ]
        for split, numbers in subjects.items():
            chosen = [r for r in recordings if r.subject in numbers]
            frames[split] = [(r, i) for r in chosen for i in range(num_frames(r))]
            facts.append((f"{split} frames", len(frames[split]), None, 0))
        _, joints_m = read_recording(recordings[0])
        joints_px = camera_to_pixels(joints_m, CAMERA)
        outside = outside_share(joints_px, WIDTH, HEIGHT)
        facts.append(("joints outside the first recording's picture, %", outside, 0, 1))
        self.summarise(facts)
        if absent:
            print(f"  no recording of the subjects {', '.join(map(str, absent))}")
        return frames

    def examples(
        self, items: Sequence[tuple[Recording, int]]
    ) -> Iterator[dict[str, object]]:
        """Yields the frames, each recording read once; every joint counts."""
        last = None
        for recording, number in items:
            if recording != last:
                depth_mm, joints_m = read_recording(recording)
                joints_px = camera_to_pixels(joints_m, CAMERA)
                last = recording
            yield schema.example(
                depth=depth_mm[number],
                joints_px=joints_px[number],
                joints_m=joints_m[number],
                camera=CAMERA,
                frame=f"{recording.name}_{number:03d}",
                subject=f"s{recording.subject}",
            )


def find_recordings(source: Path) -> list[Recording]:
    """Returns the recordings of which both files are there, sorted by their names.

    Raises:
        FileNotFoundError: There is none, or a skeleton is missing.
    """
    found = []
    for path in (source / DEPTH).iterdir():
        if match := NAME.fullmatch(path.name):
            found.append(Recording(path, *map(int, match.groups())))
    if not found:
        raise FileNotFoundError(
            f"{source / DEPTH}: holds no recording a*_s*_t*_depth.mat"
        )
    for recording in found:
        if not recording.skeleton.is_file():
            raise FileNotFoundError(
                f"{recording.depth}: its skeleton {recording.skeleton} is missing"
            )
    return sorted(found, key=lambda recording: recording.name)


def num_frames(recording: Recording) -> int:
    """Returns how many frames `read_recording` gives, reading the shapes alone."""
    length = _length(recording.depth, "d_depth") - LAG
    return max(0, min(length, _length(recording.skeleton, "d_skel")))


def _length(path: Path, name: str) -> int:
    shapes = {key: shape for key, shape, _ in _loaded(scipy.io.whosmat, path)}
    if len(shapes.get(name, ())) != 3:
        raise ValueError(
            f"{path}: expected an array {name} of three axes, got "
            f"{', '.join(f'{k} {list(v)}' for k, v in shapes.items()) or 'nothing'}"
        )
    length = int(shapes[name][-1])
    if length > MOST_FRAMES:
        raise ValueError(
            f"{path}: {name} must have at most {MOST_FRAMES} frames, got {length}"
        )
    return length


def read_recording(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Reads a recording, its picture and joints mirrored back.

    Returns:
        Depth [frames, 240, 320] uint16 millimetres, and joints [frames, 20, 3] metres,
        x right, y down, z forward; left and right are the person's own.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or holds something else.
    """
    depth = read_matrix(recording.depth, "d_depth", (HEIGHT, WIDTH))
    joints = read_matrix(recording.skeleton, "d_skel", (BODY20.num_joints, 3))
    schema.check_within(str(recording.skeleton), "d_skel", joints, schema.MOST_M)
    if joints[:, 2].min() < NEAREST_M:
        raise ValueError(
            f"{recording.skeleton}: d_skel must have z of at least {NEAREST_M} m, got "
            f"{joints[:, 2].min():g}"
        )
    if depth.min() < 0 or depth.max() > np.iinfo(np.uint16).max:
        raise ValueError(
            f"{recording.depth}: d_depth must be 0 to 65535 mm, got {depth.min()} to "
            f"{depth.max()}"
        )
    depth_mm = np.moveaxis(depth, -1, 0)[LAG:, :, ::-1].astype(np.uint16)
    joints_m = np.moveaxis(joints, -1, 0) * (-1, -1, 1)
    number = min(len(depth_mm), len(joints_m))
    return np.ascontiguousarray(depth_mm[:number]), joints_m[:number].astype(np.float32)


def read_matrix(path: Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns an array [*shape, frames] of a MATLAB file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    file = unpacked(path)
    values = np.asarray(_loaded(scipy.io.loadmat, path, file).get(name))
    fits = values.shape[:-1] == shape and values.shape[-1] <= MOST_FRAMES
    if not fits or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: {name} must be numbers [{shape[0]}, {shape[1]}, frames], at most "
            f"{MOST_FRAMES} frames, got {list(values.shape)} {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} has values that are no finite numbers")
    return values


def unpacked(path: Path) -> io.BytesIO:
    """Reads a MATLAB file of version 5, and unpacks what is compressed in it.

    SciPy takes as much memory as a compressed array says that it needs.

    Raises:
        ValueError: It is no such file, or needs more than `MOST_BYTES`.
    """
    content = read_within(path, MOST_BYTES)
    if content[124:128] != b"\x00\x01IM":
        raise ValueError(f"{path}: not a whole MATLAB file of version 5")
    pieces, at, left = [content[:128]], 128, MOST_BYTES
    while tag := content[at : at + 8]:
        kind, size = (
            int.from_bytes(tag[:4], "little"),
            int.from_bytes(tag[4:], "little"),
        )
        piece = content[at + 8 : at + 8 + size]
        if kind == COMPRESSED:
            stream = zlib.decompressobj()
            tag = b""
            piece = _loaded(stream.decompress, path, piece, left)
            if stream.unconsumed_tail:
                raise ValueError(
                    f"{path}: expected at most {MOST_BYTES} bytes, unpacked, got more"
                )
        pieces += [tag, piece]
        at, left = at + 8 + size, left - len(piece)
    return io.BytesIO(b"".join(pieces))


def _loaded(load: Callable[..., Any], path: Path, *arguments: Any) -> Any:
    try:
        return load(*(arguments or (path,)))
    # SciPy documents no errors of damaged files: among others are zlib.error, TypeError
    # and IndexError.
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole MATLAB file ({type(error).__name__}: {error})"
        ) from None
