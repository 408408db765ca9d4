"""People, or hands, in whole frames, found and posed.

`python -m benchmarks.whole_frames --dataset=hands`
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

import datasets
from cmbjax import calibration
from cmbjax.data import detection
from cmbjax.data.flags import Flags
from cmbjax.depth.detector import Person, overlap
from cmbjax.predict.card import amend
from cmbjax.predict.pose import Pose, mean_of_surest
from cmbjax.predict.predictor import Predictor
from cmbjax.registry import pick
from cmbjax.scripts import script
from cmbjax.skeletons import Skeleton
from datasets.crowd.crowd import Crowd

LEAST_SEEN = {"people": 4, "hands": 8}  # joints of whom is to be found
Result = dict[str, float | list[float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeFramesConfig(Flags):
    """Finds and poses whoever is in whole frames, as predict.py does."""

    dataset: str = "crowd"
    """crowd, hands or one of their configs, as in crowd/above; several joined by +."""
    data_dir: Path | None = None
    """Folder of motion capture, as of the data set people."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""
    split: str = "test"
    """train, validation or test."""
    step: int = 1
    """Every so many frames."""
    network: str | None = None
    """A name, or a folder that export.py wrote; by default people or hands."""
    fit_presence: bool = False
    """Whether to measure instead how probably somebody is there (see
    `calibration.presence`), and to write that into the network's card."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step < 1:
            raise ValueError(f"--step must be at least 1, got {self.step}")
        if self.fit_presence:
            refuse_to_fit("--fit_presence", self.network, self.split)
        for name in self.dataset.split("+"):
            if not issubclass(
                pick(datasets.DATASETS, "dataset", name.split("/")[0]), Crowd
            ):
                raise ValueError(
                    f"--dataset={self.dataset}: expected crowd or hands, whose frames "
                    "say who is in them"
                )


def refuse_to_fit(flag: str, network: str | None, split: str) -> None:
    """Refuses to write what test frames tell into a card, or into one not named.

    Raises:
        ValueError: No network is named, or the split is the test's.
    """
    if network is None or split == "test":
        raise ValueError(
            f"{flag} writes into a card: expected the --network whose card that is, "
            "and --split=validation"
        )


def main(config: WholeFramesConfig) -> Result:
    """Prints what was measured, and returns it."""
    result = fit(config) if config.fit_presence else measure(config)
    for name, value in result.items():
        print(
            f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}"
        )
    return result


def frames_of(
    config: WholeFramesConfig, skeleton: Skeleton
) -> Iterator[tuple[Any, detection.Frame]]:
    """Yields examples of the data sets with something in them, and what they are of."""
    for name in config.dataset.split("+"):
        builder = datasets.prepared(name, config.data_dir, config.tfds_dir)
        assert isinstance(builder, Crowd), "the flag was checked"
        source = builder.whole_frames(config.split)
        for number in tqdm(range(0, len(source), config.step), unit="frame"):
            example: Any = source[number]
            frame = detection.read_frame(example, skeleton)
            if frame.depth.any():  # else nothing is in reach of the camera
                yield example, frame


def open_predictor(config: WholeFramesConfig, **options: Any) -> Predictor:
    """Returns a predictor of what is in the data set."""
    is_hands = config.dataset.startswith("hands")
    return Predictor(config.network or ("hands" if is_hands else "people"), **options)


def measure(config: WholeFramesConfig) -> Result:
    """Returns what is found, and how far joints are off."""
    every, nearest = open_predictor(config, people="all"), open_predictor(config)
    skeleton = every.skeleton
    found: dict[str, list[bool]] = {}
    sides: list[bool] = []
    firsts: list[bool] = []
    alarms: list[int] = []
    in_empty_frames: list[int] = []
    seconds: list[float] = []
    errors: list[np.ndarray] = []
    seen_errors: list[np.ndarray] = []
    for example, frame in frames_of(config, skeleton):
        every.camera = nearest.camera = np.asarray(example["camera"], np.float32)
        boxes, seen = frame.boxes, detection.joints_seen(example)
        start = time.perf_counter()
        first = nearest(frame.depth)
        seconds.append(time.perf_counter() - start)
        if len(boxes) and first:
            firsts.append(
                max(overlap(first[0].box, box) for box in boxes)
                >= detection.ALARM_OVERLAP
            )
        poses = every(frame.depth)
        people = np.flatnonzero(seen >= LEAST_SEEN[skeleton.found_as])
        matches, false = detection.matched([p.box for p in poses], boxes, people)
        alarms.append(false)
        for number, match in zip(people.tolist(), matches, strict=True):
            for kind in detection.kinds_of(frame, number, skeleton.found_as):
                found.setdefault(kind, []).append(match is not None)
            if match is None:
                continue
            pose = poses[match]
            if "left" in example:
                sides.append((pose.side == "left") == bool(example["left"][number]))
            off = np.linalg.norm(pose.joints_m - example["joints_m"][number], axis=1)
            errors.append(off[example["inside"][number]])
            seen_errors.append(off[~example["hidden"][number]])
        if not len(boxes):
            in_empty_frames.append(alarms[-1])
    if not found:
        raise ValueError(f"{config.dataset}: {config.split} has nobody to find")
    every_mm, seen_mm = (
        1000 * np.concatenate([*e, np.empty(0)]) for e in (errors, seen_errors)
    )
    within = f"within {100 * skeleton.right_m:g} cm, %"
    result: Result = {
        "frames": len(alarms),
        skeleton.found_as: len(found["all"]),
        "found, %": 100 * statistics.mean(found["all"]),
        "false alarms a frame": statistics.mean(alarms),
        "the nearest is one, %": 100 * statistics.mean(firsts) if firsts else np.nan,
    }
    result |= {
        f"found, %, {kind} ({len(found[kind])})": 100 * statistics.mean(found[kind])
        for kind in sorted(found.keys() - {"all"})
    }
    if in_empty_frames:
        result["false alarms an empty frame"] = statistics.mean(in_empty_frames)
    if sides:
        result["right or left is right, %"] = 100 * statistics.mean(sides)
    for whose, off_mm in (("joints seen", seen_mm), ("all", every_mm)):
        if len(off_mm):
            is_right = off_mm < 1000 * skeleton.right_m
            result[f"median error mm, {whose}"] = float(np.median(off_mm))
            result[f"mean error mm, {whose}"] = float(off_mm.mean())
            result[f"{within}, {whose}"] = 100 * float(is_right.mean())
    result["ms a frame, the nearest"] = 1000 * statistics.median(seconds)
    return result


def fit(config: WholeFramesConfig) -> Result:
    """Writes into the card how probably somebody is there, and returns that."""
    predictor = open_predictor(config, people="all")
    scores: list[float] = []
    confidence: list[float] = []
    is_there: list[bool] = []
    for example, frame in frames_of(config, predictor.skeleton):
        predictor.camera = np.asarray(example["camera"], np.float32)
        people: list[Person] = predictor.detect(frame.depth)
        told: list[Pose] = []
        for person in sorted(people, key=lambda person: -person.score):
            most = max((overlap(person.box, box) for box in frame.boxes), default=0.0)
            if detection.ALARM_OVERLAP <= most < detection.FOUND_OVERLAP:
                continue  # half of somebody
            pose = predictor.pose(frame.depth, person)
            if predictor.is_twin(pose, told):  # is not given: one of its like is
                continue
            told.append(pose)
            scores.append(person.score)
            confidence.append(mean_of_surest(pose, frame.depth.shape))
            is_there.append(most >= detection.FOUND_OVERLAP)
    truth = np.array(is_there)
    if truth.all() or not truth.any():
        raise ValueError(f"{config.dataset}: {config.split} tells nobody from nothing")
    score, joints = map(np.array, (scores, confidence))
    coefficients = calibration.fit_presence(score, joints, truth)
    amend(predictor.card, presence=coefficients.tolist())
    sure = calibration.presence(score, joints, coefficients)
    return {
        "found by the detector": len(truth),
        "of these there, %": 100 * float(truth.mean()),
        "area under ROC: score": calibration.area_under_roc(score, truth),
        "confidence": calibration.area_under_roc(joints, truth),
        "both": calibration.area_under_roc(sure, truth),
        "expected calibration error": calibration.expected_error(sure, truth),
        "coefficients": coefficients.round(3).tolist(),
    }


if __name__ == "__main__":
    with script("whole_frames.py"):
        main(tyro.cli(WholeFramesConfig, use_underscores=True))
