"""Annotation files in COCO keypoint form: reading and checking.

Keypoints are pixels; the centre of the top-left pixel is (0.5, 0.5). Beside the
standard: `annotations[i].joints_m`, `annotations[i].subject`, `info.camera` and
`info.depth_unit`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmbjax.skeletons import SKELETONS, Skeleton
from datasets.schema import DEPTH_UNITS


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


@dataclasses.dataclass(frozen=True)
class AnnotationFile:
    """The content of one annotation file.

    Attributes:
        skeleton: That of the joint names.
        depth_unit: One of `schema.DEPTH_UNITS`.
        camera: [fx, fy, cx, cy] pixels, NaN where not given.
        persons: One for each annotation.
        num_images: Images listed, annotated or not.
    """

    skeleton: Skeleton
    depth_unit: str
    camera: np.ndarray
    persons: tuple[Person, ...]
    num_images: int


def read(path: Path) -> AnnotationFile:
    """Reads an annotation file.

    Raises:
        ValueError: It is malformed; the message names the file and the annotation.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    for key in ("categories", "images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path}: expected an object with a list `{key}`")
        if not content[key]:
            raise ValueError(f"{path}: `{key}` is empty")
        if not all(isinstance(item, dict) for item in content[key]):
            raise ValueError(f"{path}: every item of `{key}` must be an object")
    skeleton, order = _skeleton(path, content["categories"])
    info = content.get("info") or {}
    if not isinstance(info, dict):
        raise ValueError(f"{path}: `info` must be an object, got {info!r}")
    unit = info.get("depth_unit", "mm")
    if unit not in DEPTH_UNITS:
        allowed = " or ".join(DEPTH_UNITS)
        raise ValueError(f"{path}: info.depth_unit must be {allowed}, got {unit!r}")
    images = {}
    for i, image in enumerate(content["images"]):
        if "id" not in image or "file_name" not in image:
            raise ValueError(f"{path}: images[{i}] lacks `id` or `file_name`")
        images[image["id"]] = image
    persons = tuple(
        _person(f"{path}, annotations[{i}]", annotation, images, order)
        for i, annotation in enumerate(content["annotations"])
    )
    return AnnotationFile(
        skeleton, unit, _camera(path, info.get("camera")), persons, len(images)
    )


def _skeleton(
    path: Path, categories: Sequence[Mapping[str, Any]]
) -> tuple[Skeleton, list[int]]:
    """Returns the skeleton, and for each of its joints the place in the file."""
    if len(categories) != 1:
        raise ValueError(f"{path}: expected one category, got {len(categories)}")
    names = list(categories[0].get("keypoints", ()))
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


def _camera(path: Path, camera: Mapping[str, Any] | None) -> np.ndarray:
    if camera is None:
        return np.full(4, np.nan, np.float32)
    try:
        values = np.array([camera[key] for key in ("fx", "fy", "cx", "cy")], np.float32)
    except (KeyError, TypeError, ValueError):
        values = np.full(4, np.nan)
    if not np.isfinite(values).all() or (values[:2] <= 0).any():
        raise ValueError(
            f"{path}: info.camera must be numbers fx, fy, cx, cy in pixels, "
            f"got {camera}"
        )
    return values


def _person(
    where: str,
    annotation: Mapping[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    order: Sequence[int],
) -> Person:
    image = images.get(annotation.get("image_id"))
    if image is None:
        raise ValueError(
            f"{where}: image_id {annotation.get('image_id')!r} is not in `images`"
        )
    keypoints = _rows(where, "keypoints", annotation.get("keypoints"), order)
    visible = keypoints[:, 2] > 0
    joints_px = np.where(visible[:, None], keypoints[:, :2], np.nan)
    if not np.isfinite(joints_px[visible]).all():
        raise ValueError(f"{where}: a keypoint with v > 0 has no finite position")
    joints_m = np.full((len(order), 3), np.nan)
    if annotation.get("joints_m") is not None:
        joints_m = _rows(where, "joints_m", annotation["joints_m"], order)
    size = None
    if "width" in image or "height" in image:
        try:
            size = (int(image["width"]), int(image["height"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{where}: width and height of {image['file_name']} must be integers, "
                f"got {image.get('width')!r} and {image.get('height')!r}"
            ) from None
    subject = str(annotation.get("subject", ""))
    return Person(str(image["file_name"]), size, joints_px, joints_m, visible, subject)


def _rows(where: str, what: str, values: object, order: Sequence[int]) -> np.ndarray:
    """Returns [joints, 3] numbers, given flat or in rows, in the skeleton's order."""
    try:
        rows = np.array(values, np.float32).reshape(len(order), 3)
    except (TypeError, ValueError):
        count = np.size(np.array(values, object)) if values is not None else 0
        raise ValueError(
            f"{where}: `{what}` must be {len(order)} x 3 numbers, got {count} values"
        ) from None
    return rows[list(order)]
