"""Labelled people, or hands, as predict.py poses them: in our boxes and the label's.

`python -m benchmarks.own_boxes --dataset=people --data_dir=mocap`
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

import datasets
from benchmarks.whole_frames import refuse_to_fit
from cmbjax import calibration, metrics
from cmbjax.data import detection
from cmbjax.data.examples import DepthFrames, Example, decode_depth
from cmbjax.data.flags import DataFlags
from cmbjax.data.views import LEAST_OVERLAP, labelled_target
from cmbjax.depth import detector
from cmbjax.depth.detector import Person, overlap
from cmbjax.evaluate import report
from cmbjax.predict.card import amend
from cmbjax.predict.pose import Pose, in_picture
from cmbjax.predict.predictor import Predictor
from cmbjax.scripts import script
from cmbjax.skeletons import Skeleton

DRAWN = 24  # people, at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosedFlags(DataFlags):
    """Which labelled frames a network poses, and which network."""

    split: str = "test"
    """train, validation or test."""
    limit: int | None = None
    """At most so many frames, evenly spaced."""
    network: str | None = None
    """A name, or a folder that export.py wrote; by default people."""

    def load(self) -> DepthFrames:
        """Returns the frames."""
        return datasets.load(
            self.dataset,
            self.data_dir,
            self.tfds_dir,
            split=self.split,
            limit=self.limit,
        )

    def require(self, frames: DepthFrames, skeleton: Skeleton) -> None:
        """Refuses frames without a unit, or with other joints.

        Raises:
            ValueError: They are such.
        """
        if frames.skeleton.name != skeleton.name or not frames.metric:
            raise ValueError(
                f"--dataset={self.dataset}: expected {skeleton.name} in millimetres, "
                f"got {frames.skeleton.name}"
                f"{'' if frames.metric else ' without a unit'}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnBoxesConfig(PosedFlags):
    """Poses whoever is labelled, found by the detector and by the label."""

    dataset: str = "people"
    """A name in datasets/ of frames in millimetres; several are joined by +."""
    fit_confidence: bool = False
    """Whether to measure how probably a joint is right (see `calibration.fit`), as it
    is found here, and to write that into the network's card."""
    picture: Path | None = None
    """A PNG that gets the poses by our own boxes of whom most joints are wrong, and
    their labels: it tells who is at fault."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fit_confidence:
            refuse_to_fit("--fit_confidence", self.network, self.split)


class Posed(NamedTuple):
    """A labelled person's pose beside the label.

    Attributes:
        joints_px: [joints, 2] pixels; far away of whom nobody found.
        joints_m: [joints, 3] metres; likewise.
        peaks: [joints] heights of the heat maps; 0 likewise.
        confidence: [joints]; 0 likewise.
        is_found: Whether there is a pose.
    """

    joints_px: np.ndarray
    joints_m: np.ndarray
    peaks: np.ndarray
    confidence: np.ndarray
    is_found: bool


def main(config: OwnBoxesConfig) -> dict[str, float]:
    """Prints what was measured, and returns it; see `measure`."""
    result = measure(config)
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    return result


def measure(config: OwnBoxesConfig) -> dict[str, float]:
    """Returns metrics with either box, and how far the confidence holds.

    Joints in the picture count. Of the poses that are given that counts whose box
    overlaps the label's most, by half at least, and where there is none all joints are
    wrong; the confidence is that of the joints of poses that are given. It is fitted on
    whatever the detector sees of a person, as it also tells people from things.

    In frames without a unit, as K2HPD's, nobody is posed: see `surest_boxes`.

    Raises:
        ValueError: The frames have another joint set than the network, or nobody.
    """
    frames = config.load()
    if not frames.metric and not config.fit_confidence:
        return surest_boxes(frames)
    predictor = Predictor(config.network, people="all")
    skeleton = predictor.skeleton
    config.require(frames, skeleton)
    examples: list[Example] = []
    inside: list[np.ndarray] = []
    by_label: list[Posed] = []
    own: list[Posed] = []
    for number in tqdm(range(len(frames)), unit="frame"):
        example = frames.source[number]
        depth_mm = decode_depth(example)
        target = labelled_target(example, depth_mm, skeleton)
        if target is None or target.distance is None:
            continue
        predictor.camera = np.asarray(example["camera"], np.float32)
        up = np.asarray(target.up, np.float32)
        labelled = Person(target.box, target.box, target.distance, 1.0, up)
        pose = predictor.pose(depth_mm, labelled)
        examples.append(example)
        inside.append(in_picture(example["joints_px"], depth_mm.shape))
        by_label.append(_posed(pose, skeleton))
        if not config.fit_confidence:
            given = predictor(depth_mm) if depth_mm.any() else []
            boxes = [pose.box for pose in given]
            (match,), _ = detection.matched(boxes, target.box[None], np.array([0]))
            best = None if match is None else given[match]
            own.append(_posed(best, skeleton))
            continue
        seen = predictor.detect(depth_mm)
        person = max(
            seen, key=lambda p: overlap(p.body_box, target.box), default=labelled
        )
        if seen and overlap(person.body_box, target.box) >= LEAST_OVERLAP:
            own.append(_posed(predictor.pose(depth_mm, person), skeleton))
        else:
            own.append(_posed(None, skeleton))
    if not examples:
        raise ValueError(f"{frames.name} labels nobody")
    targets_px = np.stack([example["joints_px"] for example in examples])
    targets_m = np.stack([example["joints_m"] for example in examples])
    counted = np.stack([example["visible"] for example in examples]) & inside
    result = {
        "people": float(len(examples)),
        "found, %": 100 * float(np.mean([posed.is_found for posed in own])),
    }
    by_box = {
        name: metrics.Poses(
            predictions_px=np.stack([posed.joints_px for posed in poses]),
            targets_px=targets_px,
            visible=counted,
            predictions_m=np.stack([posed.joints_m for posed in poses]),
            targets_m=targets_m,
        )
        for name, poses in (("label's box", by_label), ("own box", own))
    }
    row = metrics.overall_row(skeleton)
    for name, poses in by_box.items():
        if skeleton.head is not None:
            table = metrics.table(poses, skeleton, ["pckh", "map_10cm"])
        elif name == "label's box":  # in our own, whom nobody found has no error
            table = metrics.table(poses, skeleton, ["joint_error"])
        else:
            continue
        result |= {f"{title}, {name}": table[title][row] for title in table}
    measured = metrics.are_right(by_box["own box"], skeleton)
    assert measured is not None, "frames are in millimetres"
    are_right, known = measured
    known = known & np.array([[posed.is_found] for posed in own])
    if config.picture is not None:
        wrong = known & ~are_right
        draw_worst(config.picture, examples, by_box["own box"], wrong, skeleton)
    confidence = np.stack([posed.confidence for posed in own])
    if config.fit_confidence:
        peaks = np.stack([posed.peaks for posed in own])
        coefficients = calibration.fit(peaks, are_right, known)
        amend(predictor.card, calibration=coefficients.tolist())
        confidence = calibration.probabilities(peaks, coefficients)
    sure, right = confidence[known], are_right[known]
    return result | {
        "mean confidence": float(sure.mean()),
        "joints right, %": 100 * float(right.mean()),
        "expected calibration error": calibration.expected_error(sure, right),
        "area under ROC": calibration.area_under_roc(sure, right),
    }


def draw_worst(
    path: Path,
    examples: list[Example],
    poses: metrics.Poses,
    is_wrong: np.ndarray,
    skeleton: Skeleton,
) -> None:
    """Draws those of whom most joints are wrong, beside their labels.

    Args:
        path: A PNG.
        examples: One a person.
        poses: Theirs, in the same order.
        is_wrong: bool [people, joints].
        skeleton: Of both.
    """
    numbers = is_wrong.sum(axis=1)
    order = np.argsort(-numbers, kind="stable")[: min(DRAWN, np.count_nonzero(numbers))]
    if not len(order):
        print(f"--picture={path}: no joint is wrong; nothing is drawn")
        return
    titles = [f"frame {n}: {numbers[n]} wrong" for n in order]
    report.write_overlays(path, poses, examples, order, titles, skeleton, columns=6)


def surest_boxes(frames: DepthFrames) -> dict[str, float]:
    """Returns how often the surest box is the labelled person's, without a unit.

    Raises:
        ValueError: Nobody is labelled.
    """
    find, shared = detector.shipped(frames.skeleton.found_as), []
    for number in tqdm(range(len(frames)), unit="frame"):
        example = frames.source[number]
        depth = decode_depth(example)
        target = labelled_target(example, depth, frames.skeleton)
        if target is not None:
            surest = find(depth, metric=False)[:1]
            boxes = [overlap(person.body_box, target.box) for person in surest]
            shared.append(max(boxes, default=0.0))
    if not shared:
        raise ValueError(f"{frames.name} labels nobody")
    is_found = np.array(shared) >= detection.FOUND_OVERLAP
    return {"people": float(len(shared)), "found, %": 100 * float(is_found.mean())}


def _posed(pose: Pose | None, skeleton: Skeleton) -> Posed:
    number = skeleton.num_joints
    if pose is None:
        nowhere = np.full((number, 3), 1e6, np.float32)
        return Posed(nowhere[:, :2], nowhere, np.zeros(number), np.zeros(number), False)
    assert pose.peaks is not None, "the predictor read them from maps"
    return Posed(pose.joints_px, pose.joints_m, pose.peaks, pose.confidence, True)


if __name__ == "__main__":
    with script("own_boxes.py"):
        main(tyro.cli(OwnBoxesConfig, use_underscores=True))
