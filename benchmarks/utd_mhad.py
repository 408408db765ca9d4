"""The shipped weights on UTD-MHAD: `python -m benchmarks.utd_mhad UTD-MHAD`.

Chen et al., "UTD-MHAD: a multimodal dataset for human action recognition", ICIP 2015:
a Kinect v1, its background removed, and the joints that its software estimated. These
lie elsewhere than the joints of `people`: each joint's median offset is taken off
before the 10 cm rule is applied.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from tqdm import tqdm

import cmbjax
from cmbjax.metrics import map_10cm, rows
from cmbjax.skeletons import BODY15

FOCAL = 285.63  # pixels; the centre is (160, 120), counted from the first pixel's
LAG = 2  # the skeleton of a depth frame is that of so many frames before
# Joints of the files, of 20, in the order of `BODY15`; their left and right are those
# of the mirrored picture, which is turned back here.
JOINTS = (0, 1, 8, 4, 9, 5, 11, 7, 2, 16, 12, 17, 13, 19, 15)


def read_recording(depth_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns depth [frames, 240, 320] mm, joints [frames, 15, 3] metres, not mirrored.

    Camera frame: x right, y down, z forward.
    """
    name = depth_file.name.replace("_depth", "_skeleton")
    depth = read_matrix(depth_file, "d_depth", (240, 320))
    joints = read_matrix(depth_file.parents[1] / "Skeleton" / name, "d_skel", (20, 3))
    depth = np.moveaxis(depth, -1, 0)[LAG:, :, ::-1]
    joints = np.moveaxis(joints, -1, 0)[:, JOINTS] * (-1, -1, 1)
    number = min(len(depth), len(joints))
    return np.ascontiguousarray(depth[:number].astype(np.uint16)), joints[:number]


def read_matrix(path: Path, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Returns an array [*shape, frames] of a MATLAB file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = np.asarray(scipy.io.loadmat(path)[name])
    # SciPy documents no errors of damaged files: among others are zlib.error, KeyError,
    # TypeError, IndexError.
    except Exception as error:
        raise ValueError(
            f"{path}: not a whole MATLAB file of {name} ({type(error).__name__}: "
            f"{error})"
        ) from None
    if values.shape[:-1] != shape or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{path}: {name} must be numbers [{shape[0]}, {shape[1]}, frames], got "
            f"{list(values.shape)} {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} has values that are no finite numbers")
    return values


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
    predictor = cmbjax.Predictor(network, camera=(FOCAL, FOCAL, 159.5, 120.5))
    files = [
        path
        for path in sorted((folder / "Depth").glob("a*_s*_t*_depth.mat"))
        if int(re.findall(r"_s(\d+)_", path.name)[0]) in subjects
    ]
    if not files:
        raise FileNotFoundError(
            f"{folder}/Depth holds no recording a*_s*_t*_depth.mat of the subjects "
            f"{', '.join(map(str, subjects))}"
        )
    poses, truths, frames = [], [], 0
    for path in tqdm(files, unit="recording"):
        depths, joints = read_recording(path)
        for depth, truth in zip(depths[::every], joints[::every], strict=True):
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
    print(f"{len(files)} recordings, {frames} frames, {len(poses)} with a person found")
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
