"""Poses as records: lines of JSON, and COCO keypoints."""

import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from cmbjax.files import each_line, printable, whole_file
from cmbjax.predict.pose import Pose, Side
from cmbjax.skeletons import Skeleton

Camera = tuple[float, float, float, float]  # fx, fy, cx, cy


class Person(msgspec.Struct):
    """A person in a line of poses.jsonl; see `Pose`."""

    box: tuple[float, float, float, float]
    depth_m: float
    joints_px: list[tuple[float, float]]
    joints_m: list[tuple[float, float, float]]
    confidence: list[float]
    visibility: list[Literal[0, 1, 2]]
    score: float | None = None  # not in lines of earlier versions
    side: Side = ""


class Line(msgspec.Struct):
    """A line of poses.jsonl: a frame.

    Attributes:
        frame: Its file; bytes of the name that are no text as \\xff.
        size: Width and height, pixels.
        camera: fx, fy, cx, cy, pixels.
        joints: Names.
        people: Who is in it.
    """

    frame: Annotated[str, msgspec.Meta(min_length=1)]
    size: tuple[int, int]
    camera: Camera
    joints: Annotated[list[str], msgspec.Meta(min_length=1)]
    people: list[Person]

    def __post_init__(self) -> None:
        """Refuses people of other numbers of joints."""
        for person in self.people:
            lengths = {
                len(person.joints_px),
                len(person.joints_m),
                len(person.confidence),
                len(person.visibility),
            }
            if lengths != {len(self.joints)}:
                raise ValueError(f"expected people of {len(self.joints)} joints")


class Lines:
    """The lines of a poses.jsonl, read anew each time, and never all at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Line]:
        return each_line(self._path, Line)


def line(
    path: Path | str,
    poses: Sequence[Pose],
    camera: np.ndarray,
    skeleton: Skeleton,
    shape: tuple[int, ...],
) -> Line:
    """Returns the record of a frame of shape [height, width].

    Raises:
        ValueError: The network gave what is no number, which JSON does not have.
    """
    for pose in poses:
        numbers = (
            pose.joints_px,
            pose.joints_m,
            pose.confidence,
            pose.box,
            [pose.depth_m, pose.score],
        )
        if not all(np.isfinite(values).all() for values in numbers):
            raise ValueError(f"{path}: a pose has what is not a finite number")
    return Line(
        frame=printable(path),
        size=(shape[1], shape[0]),
        camera=tuple(_rounded(camera, 6)),
        joints=list(skeleton.joints),
        people=[
            Person(
                box=tuple(_rounded(pose.box, 1)),
                depth_m=round(float(pose.depth_m), 3),
                joints_px=_rounded(pose.joints_px, 2),
                joints_m=_rounded(pose.joints_m, 4),
                confidence=_rounded(pose.confidence, 3),
                visibility=pose.visibility.tolist(),
                score=round(float(pose.score), 3),
                side=pose.side,
            )
            for pose in poses
        ],
    )


def coco(
    lines: Iterable[Line], skeleton: Skeleton, out_dir: Path, *, depth_unit: str = "mm"
) -> dict[str, Any]:
    """Returns COCO keypoints, as the data set `folder` reads them.

    Args:
        lines: Of poses.jsonl; passed through several times.
        skeleton: Of the poses.
        out_dir: Where the file will lie: names of frames are relative to it.
        depth_unit: Of integer frames: mm, or raw, which has no metres as `folder` reads
            it.

    Returns:
        The file's content, images and annotations one by one; without a camera where
        frames have several.
    """
    bones = [[parent + 1, joint + 1] for parent, joint in skeleton.bones]
    info: dict[str, Any] = {
        "description": "predicted by cmbjax",
        "depth_unit": depth_unit,
    }
    cameras = cameras_of(lines)
    if len(cameras) == 1:
        (camera,) = cameras
        info["camera"] = dict(zip(("fx", "fy", "cx", "cy"), camera, strict=True))
    return {
        "info": info,
        "categories": [
            {
                "id": 1,
                "name": "person" if skeleton.found_as == "people" else "hand",
                "keypoints": list(skeleton.joints),
                "skeleton": bones,
            }
        ],
        "images": _images(lines, out_dir),
        "annotations": _annotations(lines),
    }


def cameras_of(lines: Iterable[Line]) -> set[Camera]:
    """Returns the cameras that frames have."""
    return {record.camera for record in lines}


def _images(lines: Iterable[Line], out_dir: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(lines):
        width, height = record.size
        yield {
            "id": number,
            "file_name": os.path.relpath(record.frame, out_dir),
            "width": width,
            "height": height,
        }


def _annotations(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    people = (
        (image, person)
        for image, record in enumerate(lines)
        for person in record.people
    )
    for number, (image, person) in enumerate(people):
        joints = zip(person.joints_px, person.visibility, strict=True)
        keypoints = [(x, y, v) if v else (0.0, 0.0, 0) for (x, y), v in joints]
        x0, y0, x1, y1 = person.box
        score = 1.0 if person.score is None else person.score
        yield {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "keypoints": [value for joint in keypoints for value in joint],
            "num_keypoints": sum(v > 0 for v in person.visibility),
            "bbox": [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)],
            "area": round((x1 - x0) * (y1 - y0), 2),
            "iscrowd": 0,
            "score": round(statistics.fmean(person.confidence) * score, 4),
            "joints_m": person.joints_m,
            **({"side": person.side} if person.side else {}),
        }


def write_coco(
    path: Path, lines: Iterable[Line], skeleton: Skeleton, *, depth_unit: str = "mm"
) -> None:
    """Writes what `coco` returns, whole or not at all, and never holds all of it.

    Args:
        path: Of the file.
        lines: Of poses.jsonl.
        skeleton: Of the poses.
        depth_unit: See `coco`.
    """
    folder = path.parent.resolve()
    with whole_file(path) as file:
        start = b"{\n"
        content = coco(lines, skeleton, folder, depth_unit=depth_unit)
        for name, value in content.items():
            file.write(start + msgspec.json.encode(name) + b": ")
            if isinstance(value, Iterator):
                file.write(b"[")
                for number, item in enumerate(value):
                    file.write(b",\n" if number else b"\n")
                    file.write(msgspec.json.encode(item))
                file.write(b"]")
            else:
                file.write(msgspec.json.encode(value))
            start = b",\n"
        file.write(b"\n}\n")


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    return np.round(values.astype(float), digits).tolist()
