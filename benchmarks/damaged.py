"""The shipped weights on frames as other cameras and fuller rooms would give them.

`python -m benchmarks.damaged --dataset=folder --data_dir=FOLDER`: labelled frames of
one person each, in millimetres, are changed together with their labels.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.harness import markdown
from benchmarks.own_boxes import PosedFlags
from cmbjax.data import damage
from cmbjax.data.examples import decode_depth
from cmbjax.depth import crops
from cmbjax.predict.pose import SEEN, in_picture
from cmbjax.predict.predictor import Predictor
from cmbjax.registry import pick
from cmbjax.scripts import script
from cmbjax.skeletons import BODY15

LEAST_SIDE = 20  # pixels of what is left of a picture
FAR_MM = 10_000  # what some cameras write for no reading
HEAD = BODY15.joints.index("head"), BODY15.joints.index("neck")


class Shot(NamedTuple):
    """A frame and who is in it.

    Attributes:
        depth: uint16 [height, width] millimetres, 0 = no reading.
        joints_px: [joints, 2] pixels.
        camera: [4] fx, fy, cx, cy.
    """

    depth: np.ndarray
    joints_px: np.ndarray
    camera: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """The body's box [4], also where it is not in the picture."""
        return crops.body_box(self.joints_px, np.ones(len(self.joints_px), bool))

    @property
    def distance(self) -> float:
        """About how far the person is, millimetres."""
        return crops.reference_depth(self.depth, self.box, 1000.0)


Change = Callable[[np.random.Generator, Shot], Shot]


def turned(rng: np.random.Generator, shot: Shot, *, angle_deg: float) -> Shot:
    """Returns what a camera that is turned about its axis sees, as large a picture."""
    height, width = shot.depth.shape
    side, whole = max(height, width), np.array([0, 0, width, height])
    turn = crops.crop_transform(whole, side, margin=1.0, angle_deg=angle_deg)
    fx, fy, *centre = shot.camera
    cx, cy = crops.transform_points(turn, np.array(centre))
    return Shot(
        crops.cut(shot.depth, turn, side),
        crops.transform_points(turn, shot.joints_px),
        np.array([fx, fy, cx, cy]),
    )


def mirrored(rng: np.random.Generator, shot: Shot) -> Shot:
    """Returns a mirrored room, with its left and right."""
    width = shot.depth.shape[1]
    joints_px = shot.joints_px[list(BODY15.mirror)] * (-1, 1) + (width, 0)
    fx, fy, cx, cy = shot.camera
    depth = np.ascontiguousarray(shot.depth[:, ::-1])
    return Shot(depth, joints_px, np.array([fx, fy, width - cx, cy]))


def cut_off(
    rng: np.random.Generator, shot: Shot, *, axis: int, kept: float, at_end: bool
) -> Shot:
    """Returns a picture that ends within the person.

    Args:
        rng: Is not asked.
        shot: The frame.
        axis: 0 where columns are cut off, 1 for rows.
        kept: Share of the joints' extent that is left.
        at_end: Whether the right or lower part goes.
    """
    low, high = shot.joints_px[:, axis].min(), shot.joints_px[:, axis].max()
    size = shot.depth.shape[1 - axis]
    first, last = 0, size
    if at_end:
        last = max(LEAST_SIDE, int(low + kept * (high - low)))
    else:
        first = min(size - LEAST_SIDE, max(0, int(high - kept * (high - low))))
    part = slice(first, last)
    depth = shot.depth[part] if axis else shot.depth[:, part]
    shift = np.where(np.arange(2) == axis, first, 0)
    camera = shot.camera - np.concatenate([[0, 0], shift])
    return Shot(depth.copy(), shot.joints_px - shift, camera)


def without(
    rng: np.random.Generator, shot: Shot, *, share: float, value: int = 0
) -> Shot:
    """Returns a frame of whose readings a share is missing, or is another value."""
    kept = damage.without_single_readings(rng, shot.depth, share)
    is_lost = kept != shot.depth
    return shot._replace(depth=np.where(is_lost, np.uint16(value), kept))


def with_outliers(rng: np.random.Generator, shot: Shot, *, share: float) -> Shot:
    """Returns a frame of whose readings a share is anything from 0.3 to 9 m."""
    is_wrong = rng.random(shot.depth.shape) < share
    anything = rng.integers(300, 9000, shot.depth.shape).astype(np.uint16)
    return shot._replace(depth=np.where(is_wrong, anything, shot.depth))


def with_blobs(rng: np.random.Generator, shot: Shot, *, share: float) -> Shot:
    """Returns a frame of which a share is missing in blobs."""
    noise = rng.standard_normal(shot.depth.shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 0.05 * max(shot.depth.shape))
    is_lost = smooth > np.quantile(smooth, 1 - share)
    return shot._replace(depth=np.where(is_lost, np.uint16(0), shot.depth))


def noisy(rng: np.random.Generator, shot: Shot, *, at_1_m: float) -> Shot:
    """Returns a frame with errors of so many millimetres at 1 m; with its square."""
    metres = shot.depth / 1000
    error = at_1_m * metres**2 * rng.standard_normal(shot.depth.shape)
    depth = np.where(shot.depth > 0, np.clip(shot.depth + error, 1, 65_000), 0)
    return shot._replace(depth=depth.astype(np.uint16))


def stereo(rng: np.random.Generator, shot: Shot) -> Shot:
    """Returns a frame as a pair of cameras gives it."""
    return shot._replace(depth=damage.as_stereo_sees_it(rng, shot.depth))


def covered(
    rng: np.random.Generator, shot: Shot, *, part: tuple[float, float, float, float]
) -> Shot:
    """Returns a frame with a board half a metre before a part of the person.

    Args:
        rng: Is not asked.
        shot: The frame.
        part: x0, y0, x1, y1 as shares of the body's box.
    """
    low, extent = shot.box[:2], shot.box[2:] - shot.box[:2]
    corners = np.concatenate([low + extent * part[:2], low + extent * part[2:]])
    x0, y0, x1, y1 = np.maximum(corners, 0).astype(int)
    depth = shot.depth.copy()
    depth[y0:y1, x0:x1] = max(damage.NEAREST_MM, shot.distance - 500)
    return shot._replace(depth=depth)


def dark(rng: np.random.Generator, shot: Shot, *, names: tuple[str, ...]) -> Shot:
    """Returns a frame without readings on the clothes that some joints span."""
    joints = [BODY15.joints.index(name) for name in names]
    depth = shot.depth.copy()
    hull = cv2.convexHull(shot.joints_px[joints].astype(np.int32))
    cv2.fillConvexPoly(depth, hull, 0)
    return shot._replace(depth=depth)


def background_cut_out(rng: np.random.Generator, shot: Shot) -> Shot:
    """Returns the person alone."""
    boxes = np.clip(shot.box, 0, np.tile(shot.depth.shape[::-1], 2))[None]
    distances = np.array([shot.distance])
    depth = damage.without_background(shot.depth, boxes, distances, 600)
    return shot._replace(depth=depth.astype(np.uint16))


KINDS: dict[str, Change] = {
    "as they are": lambda rng, shot: shot,
    "mirrored": mirrored,
    "turned by 15 degrees": functools.partial(turned, angle_deg=15),
    "turned by 45 degrees": functools.partial(turned, angle_deg=45),
    "turned by 90 degrees": functools.partial(turned, angle_deg=90),
    "upside down": functools.partial(turned, angle_deg=180),
    "cut off below the knees": functools.partial(
        cut_off, axis=1, kept=0.7, at_end=True
    ),
    "cut off at the hips": functools.partial(cut_off, axis=1, kept=0.5, at_end=True),
    "cut off at the chest": functools.partial(cut_off, axis=1, kept=0.35, at_end=True),
    "cut off at the chin": functools.partial(cut_off, axis=1, kept=0.8, at_end=False),
    "cut off above the waist": functools.partial(
        cut_off, axis=1, kept=0.6, at_end=False
    ),
    "cut off at the right": functools.partial(cut_off, axis=0, kept=0.6, at_end=True),
    "cut off at the left": functools.partial(cut_off, axis=0, kept=0.6, at_end=False),
    "a fifth missing": functools.partial(without, share=0.2),
    "three fifths missing": functools.partial(without, share=0.6),
    "a fifth missing, as 10000": functools.partial(without, share=0.2, value=FAR_MM),
    "a tenth is anything": functools.partial(with_outliers, share=0.1),
    "a fifth missing in blobs": functools.partial(with_blobs, share=0.2),
    "a third missing in blobs": functools.partial(with_blobs, share=0.35),
    "noise of 15 mm at 1 m": functools.partial(noisy, at_1_m=15),
    "a stereo camera's": stereo,
    "the person cut out": background_cut_out,
    "a dark shirt": functools.partial(
        dark, names=("right_shoulder", "left_shoulder", "left_hip", "right_hip")
    ),
    "dark trousers": functools.partial(
        dark,
        names=("right_hip", "left_hip", "left_knee", "right_knee"),
    ),
    "something held before the body": functools.partial(
        covered, part=(0.35, 0.3, 0.65, 0.5)
    ),
    "shins behind something": functools.partial(covered, part=(-1, 0.75, 2, 1.2)),
    "legs behind a table": functools.partial(covered, part=(-1, 0.5, 2, 1.2)),
    "one side behind a door": functools.partial(covered, part=(-1, -1, 0.45, 1.2)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DamagedConfig(PosedFlags):
    """Damages labelled frames, and counts who is found, and which joints."""

    dataset: str = "folder"
    """A name in datasets/ of frames in millimetres with the joints of ITOP."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """What is done to the frames: names in KINDS."""
    seed: int = 0
    """Of what is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            pick(KINDS, "kind", kind)


def main(config: DamagedConfig) -> list[dict[str, str]]:
    """Prints and returns a row for each kind.

    PCKh@0.5 is of the joints that are in the picture; nobody found counts as wrong.
    Beside it stands how many of the joints that are not in it are said to be seen.

    Raises:
        ValueError: The frames have no unit, or other joints.
    """
    frames = config.load()
    config.require(frames, BODY15)
    shots = []
    for number in range(len(frames)):
        example = frames.source[number]
        if example["visible"].all():
            camera = np.asarray(example["camera"], np.float64)
            shots.append(Shot(decode_depth(example), example["joints_px"], camera))
    if not shots:
        raise ValueError(f"{frames.name}: no frame has all joints labelled")
    predictor = Predictor(config.network)
    lines = [
        {"frames": kind} | score(predictor, shots, KINDS[kind], config.seed)
        for kind in tqdm(config.kinds, unit="kind")
    ]
    print(markdown(lines), end="")
    return lines


def score(
    predictor: Predictor, shots: list[Shot], change: Change, seed: int
) -> dict[str, str]:
    """Returns how many people are found, and their joints.

    Args:
        predictor: Of people; its camera is set to that of each frame.
        shots: The frames as they are.
        change: What is done to them.
        seed: Of what is drawn.
    """
    number_found = 0
    right: list[np.ndarray] = []  # of the joints in the picture
    seen: list[np.ndarray] = []  # of the others, where there is a pose
    for number, whole in enumerate(shots):
        shot = change(np.random.default_rng([seed, number]), whole)
        predictor.camera = np.asarray(shot.camera, np.float32)
        poses = predictor(shot.depth) if shot.depth.any() else []
        is_inside = in_picture(shot.joints_px, shot.depth.shape)
        is_right = np.zeros(len(is_inside), bool)
        if poses:
            number_found += 1
            # The head's ends count as a unit also where they are not in the picture.
            start, end = shot.joints_px[list(HEAD)]
            off = np.linalg.norm(poses[0].joints_px - shot.joints_px, axis=1)
            is_right = off < 0.5 * np.linalg.norm(start - end)
            seen.append((poses[0].visibility == SEEN)[~is_inside])
        right.append(is_right[is_inside])
    outside = np.concatenate(seen) if seen else np.zeros(0)
    return {
        "found": f"{number_found} of {len(shots)}",
        "PCKh@0.5": f"{100 * np.concatenate(right).mean():.1f}",
        "joints outside": str(outside.size),
        "said to be seen": str(np.count_nonzero(outside)),
    }


if __name__ == "__main__":
    with script("damaged.py"):
        main(tyro.cli(DamagedConfig, use_underscores=True))
