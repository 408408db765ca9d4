"""The shipped weights on UTD-MHAD: `python -m benchmarks.utd_mhad UTD-MHAD`.

Chen et al., "UTD-MHAD: a multimodal dataset for human action recognition", ICIP 2015:
a Kinect v1, its background removed, and the joints that its software estimated. These
lie elsewhere than the joints of `people`: each joint's median offset is taken off
before the 10 cm rule is applied.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import cmbjax
from cmbjax.metrics import map_10cm, rows
from cmbjax.skeletons import BODY15, BODY20
from datasets.utd_mhad.utd_mhad import CAMERA, find_recordings, read_recording

RENAMED = {"torso": "spine"}  # joints of `BODY15` by their names in `BODY20`
JOINTS = [BODY20.joints.index(RENAMED.get(name, name)) for name in BODY15.joints]


def main(
    folder: Path, *, subjects: tuple[int, ...], every: int, network: str | None
) -> dict[str, Any]:
    """Prints and returns how many people are found, and the share of joints in 10 cm.

    Args:
        folder: Has Depth/ and Skeleton/.
        subjects: Whose recordings count.
        every: Of the frames of a recording, one in so many.
        network: As of `Predictor`.

    Raises:
        FileNotFoundError: There is no recording of these subjects.
    """
    predictor = cmbjax.Predictor(network, camera=CAMERA)
    recordings = [r for r in find_recordings(folder) if r.subject in subjects]
    if not recordings:
        raise FileNotFoundError(
            f"{folder}: holds no recording of the subjects "
            f"{', '.join(map(str, subjects))}"
        )
    poses, truths, frames = [], [], 0
    for recording in tqdm(recordings, unit="recording"):
        depths, joints_m = read_recording(recording)
        joints_m = joints_m[:, JOINTS]
        for depth, truth in zip(depths[::every], joints_m[::every], strict=True):
            found = predictor.poses(depth)
            frames += 1
            if found:
                poses.append(found[0].joints_m)
                truths.append(truth)
    predicted, expected = np.stack(poses), np.stack(truths)
    offsets = np.median(predicted - expected, axis=0)
    visible = np.ones(predicted.shape[:2], bool)
    tally = map_10cm(
        (predicted - offsets).astype(np.float32), expected.astype(np.float32), visible
    )
    column = {
        name: 100 * value * len(poses) / frames
        for name, value in rows(tally, BODY15).items()
    }
    print(f"{len(recordings)} recordings, {frames} frames, a person in {len(poses)}")
    for name, value in column.items():
        print(f"{name}: {value:.1f} % within 10 cm; nobody found counts as wrong")
    return {"frames": frames, "found": len(poses), "within_10_cm": column}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--subjects", type=int, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--network")
    options = vars(parser.parse_args())
    main(**options | {"subjects": tuple(options["subjects"])})
