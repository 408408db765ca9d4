"""Hands in whole frames, found and posed: `python -m benchmarks.whole_hands`."""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tyro

from cmbjax.data import detection
from cmbjax.data.examples import decode_depth
from cmbjax.data.flags import Flags
from cmbjax.depth.detector import overlap
from cmbjax.predict.predictor import Predictor
from datasets.hands.hands import Hands

LEAST_SEEN = 8  # joints of a hand that must be found
SAME, OTHER = 0.5, 0.3  # intersection over union: the hand, and none of a frame's


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeHandsConfig(Flags):
    """Finds and poses the hands of the data set hands, as predict.py does."""

    split: str = "test"
    """validation or test."""
    network: str = "hands"
    """A name, or a folder that export.py wrote."""
    step: int = 1
    """Every so many frames."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""


def main(config: WholeHandsConfig) -> dict[str, float]:
    """Prints what is found and how far joints are off, and returns it."""
    builder = Hands(
        config="hands", data_dir=config.tfds_dir, file_format="array_record"
    )
    builder.download_and_prepare()
    source = builder.as_data_source(
        config.split, decoders={"depth": tfds.decode.SkipDecoding()}
    )
    every = Predictor(config.network, people="all")
    nearest = Predictor(config.network)
    found: list[bool] = []
    sides: list[bool] = []
    firsts: list[bool] = []
    alarms: list[int] = []
    seconds: list[float] = []
    errors: list[np.ndarray] = []
    seen_errors: list[np.ndarray] = []
    for number in range(0, len(source), config.step):
        example: Any = source[number]
        depth = decode_depth(example)
        if not depth.any():  # nothing is in reach of the camera
            continue
        every.camera = nearest.camera = np.asarray(example["camera"], np.float32)
        boxes, seen = example["boxes"], detection.joints_seen(example)
        start = time.perf_counter()
        first = nearest(depth)
        seconds.append(time.perf_counter() - start)
        if len(boxes) and first:
            firsts.append(max(overlap(first[0].box, box) for box in boxes) >= OTHER)
        poses = every(depth)
        for hand in np.flatnonzero(seen >= LEAST_SEEN):
            overlaps = [overlap(pose.box, boxes[hand]) for pose in poses]
            found.append(max(overlaps, default=0.0) >= SAME)
            if not found[-1]:
                continue
            best = poses[int(np.argmax(overlaps))]
            sides.append((best.side == "left") == bool(example["left"][hand]))
            off = np.linalg.norm(best.joints_m - example["joints_m"][hand], axis=1)
            errors.append(off[example["inside"][hand]])
            seen_errors.append(off[~example["hidden"][hand]])
        alarms.append(
            sum(all(overlap(p.box, box) < OTHER for box in boxes) for p in poses)
        )
    every_mm, seen_mm = (1000 * np.concatenate(e) for e in (errors, seen_errors))
    result = {
        "frames": len(alarms),
        "hands": len(found),
        "found, %": 100 * statistics.mean(found),
        "false alarms a frame": statistics.mean(alarms),
        "the nearest is a hand, %": 100 * statistics.mean(firsts),
        "right or left is right, %": 100 * statistics.mean(sides),
        "median error mm, joints seen": float(np.median(seen_mm)),
        "mean error mm, joints seen": float(seen_mm.mean()),
        "median error mm, all": float(np.median(every_mm)),
        "mean error mm, all": float(every_mm.mean()),
        "ms a frame, nearest hand": 1000 * statistics.median(seconds),
    }
    for name, value in result.items():
        print(
            f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}"
        )
    return result


if __name__ == "__main__":
    try:
        main(tyro.cli(WholeHandsConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"whole_hands: {error}")
