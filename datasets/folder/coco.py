"""Annotation files in COCO keypoint form: reading and checking.

Keypoints are pixels; the centre of the top-left pixel is (0.5, 0.5). Beside the
standard: `annotations[i].joints_m`, `annotations[i].subject`, `info.camera` and
`info.depth_unit`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import msgspec
import numpy as np

from cmbjax.files import read_json
from cmbjax.skeletons import SKELETONS, Skeleton
from datasets import schema

Size = Annotated[int, msgspec.Meta(ge=1, le=2**16)]
Number = float | None  # of what is not known
Focal = Annotated[
    float, msgspec.Meta(gt=schema.LEAST_FOCAL_PX, lt=schema.MOST_FOCAL_PX)
]
Centre = Annotated[float, msgspec.Meta(ge=-schema.MOST_PX, le=schema.MOST_PX)]


@dataclasses.dataclass(frozen=True)
class Person:
    """One annotation, its joints in the skeleton's order.

    Attributes:
        file_name: The image, relative to the folder.
        size: (width, height) of the image, pixels, or None where not given.
        joints_px: [joints, 2], NaN where not visible.
        joints_m: [joints, 3] metres, NaN where not given.
        visible: [joints] bool.
        subject: Who is seen, or "".
    """

    file_name: str
    size: tuple[int, int] | None
    joints_px: np.ndarray
    joints_m: np.ndarray
    visible: np.ndarray
    subject: str


class _Image(msgspec.Struct):
    id: int | str
    file_name: Annotated[str, msgspec.Meta(min_length=1)]
    width: Size | None = None
    height: Size | None = None


class _Category(msgspec.Struct):
    keypoints: list[str] = []


class _Camera(msgspec.Struct):
    fx: Focal
    fy: Focal
    cx: Centre
    cy: Centre


class _Info(msgspec.Struct):
    camera: _Camera | None = None
    depth_unit: Literal["mm", "raw"] = "mm"


class _Content(msgspec.Struct):
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1, max_length=1)]
    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    # Unread until one is asked for: a million of them, read, would take gigabytes.
    annotations: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]
    info: _Info | None = None


class _Annotation(msgspec.Struct):
    image_id: int | str
    keypoints: list[Number | list[Number]]
    joints_m: list[Number | list[Number]] | None = None
    subject: str | int | None = None


class _Kind(msgspec.Struct):
    iscrowd: bool | int | None = 0


class Persons(Sequence[Person]):
    """The annotations of a file, each read when it is asked for."""

    def __init__(
        self,
        path: Path,
        annotations: Sequence[tuple[int, msgspec.Raw]],
        images: Mapping[int | str, _Image],
        order: Sequence[int],
    ) -> None:
        """Takes annotations with their numbers in the file; see `read`."""
        self._path, self._annotations = path, annotations
        self._images, self._order = images, order

    def __len__(self) -> int:
        return len(self._annotations)

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: slice) -> "Persons": ...
    def __getitem__(self, index: int | slice) -> "Person | Persons":
        if isinstance(index, slice):
            chosen = self._annotations[index]
            return Persons(self._path, chosen, self._images, self._order)
        number, raw = self._annotations[index]
        return _person(
            f"{self._path}, annotations[{number}]", raw, self._images, self._order
        )


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """The content of one annotation file.

    Attributes:
        skeleton: That of the joint names.
        depth_unit: One of `schema.DEPTH_UNITS`.
        camera: [fx, fy, cx, cy] pixels, NaN where not given.
        persons: One for each annotation, but for those of crowds (`iscrowd`).
        num_images: Images listed, annotated or not.
        num_annotated: Images that somebody is annotated in.
        hidden: Share of joints that are not visible.
    """

    skeleton: Skeleton
    depth_unit: str
    camera: np.ndarray
    persons: Persons
    num_images: int
    num_annotated: int
    hidden: float

    @property
    def file_names(self) -> Iterator[str]:
        """Yields the names of the annotated images, each once, in order."""
        last = None
        for name in sorted(person.file_name for person in self.persons):
            if name != last:
                yield name
            last = name


def read(path: Path) -> AnnotationFile:
    """Reads an annotation file, and checks it whole.

    Raises:
        ValueError: It is malformed; the message names the file and the annotation.
    """
    content = read_json(path, _Content)
    skeleton, order = _skeleton(path, content.categories[0].keypoints)
    info = content.info or _Info()
    images: dict[int | str, _Image] = {}
    for number, image in enumerate(content.images):
        if image.id in images:
            raise ValueError(
                f"{path}: images[{number}] has the id {image.id!r} of an earlier one, "
                f"{images[image.id].file_name}"
            )
        images[image.id] = image
    people = [
        (number, raw)
        for number, raw in enumerate(content.annotations)
        if not _decoded(f"{path}, annotations[{number}]", raw, _Kind).iscrowd
    ]
    if not people:
        raise ValueError(f"{path}: every annotation is of a crowd (`iscrowd`)")
    persons = Persons(path, people, images, order)
    names, hidden = set(), 0
    for person in persons:
        names.add(person.file_name)
        hidden += int((~person.visible).sum())
    camera = np.full(4, np.nan, np.float32)
    if info.camera is not None:
        camera = np.array(msgspec.structs.astuple(info.camera), np.float32)
    return AnnotationFile(
        skeleton,
        info.depth_unit,
        camera,
        persons,
        len(images),
        len(names),
        hidden / (len(persons) * len(order)),
    )


def _decoded(where: str, raw: msgspec.Raw, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _skeleton(path: Path, names: list[str]) -> tuple[Skeleton, list[int]]:
    """Returns the skeleton, and for each of its joints the place in the file."""
    for skeleton in SKELETONS.values():
        if sorted(names) == sorted(skeleton.joints):
            return skeleton, [names.index(joint) for joint in skeleton.joints]
    joints = {joint for skeleton in SKELETONS.values() for joint in skeleton.joints}
    unknown = [name for name in names if name not in joints]
    problem = (
        f"unknown joint {', '.join(map(repr, unknown))}"
        if unknown
        else f"{len(names)} joints that are no whole skeleton: {', '.join(names)}"
    )
    raise ValueError(
        "\n".join(
            [f"{path}: {problem}. In any order, expected all joints of one of:"]
            + [f"  {s.name}: {', '.join(s.joints)}" for s in SKELETONS.values()]
        )
    )


def _person(
    where: str,
    raw: msgspec.Raw,
    images: Mapping[int | str, _Image],
    order: Sequence[int],
) -> Person:
    annotation: _Annotation = _decoded(where, raw, _Annotation)
    image = images.get(annotation.image_id)
    if image is None:
        raise ValueError(
            f"{where}: image_id {annotation.image_id!r} is not in `images`"
        )
    keypoints = _rows(where, "keypoints", annotation.keypoints, order)
    visible = keypoints[:, 2] > 0
    joints_px = np.where(visible[:, None], keypoints[:, :2], np.nan)
    if not np.isfinite(joints_px[visible]).all():
        raise ValueError(f"{where}: a keypoint with v > 0 has no finite position")
    schema.check_within(where, "keypoints", joints_px, schema.MOST_PX)
    joints_m = np.full((len(order), 3), np.nan, np.float32)
    if annotation.joints_m is not None:
        joints_m = _rows(where, "joints_m", annotation.joints_m, order)
    schema.check_within(where, "joints_m", joints_m, schema.MOST_M)
    if (image.width is None) != (image.height is None):
        raise ValueError(
            f"{where}: {image.file_name} has one of width and height, expected both"
        )
    size = None
    if image.width is not None and image.height is not None:
        size = (image.width, image.height)
    subject = "" if annotation.subject is None else str(annotation.subject)
    return Person(image.file_name, size, joints_px, joints_m, visible, subject)


def _rows(
    where: str, what: str, values: Sequence[Any], order: Sequence[int]
) -> np.ndarray:
    """Returns [joints, 3] numbers, given flat or in rows, in the skeleton's order."""
    try:
        with np.errstate(over="ignore"):
            rows = np.array(values, np.float32).reshape(len(order), 3)
    except (TypeError, ValueError):
        lengths = (len(value) if isinstance(value, list) else 1 for value in values)
        raise ValueError(
            f"{where}: `{what}` must be {len(order)} x 3 numbers, got {sum(lengths)} "
            "values"
        ) from None
    return rows[list(order)]
