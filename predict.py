"""Finds people and their poses in depth images: `python predict.py frame.png`."""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from cmbjax.depth.images import files_of
from cmbjax.files import write_json
from cmbjax.predict import overlay, records
from cmbjax.predict.predictor import SEEN, MemoryUse, People, Pose, Predictor
from cmbjax.predict.runtimes import Backend, Precision
from cmbjax.skeletons import joint_colours

OVERLAYS = "overlays"
POSES_FILE = "poses.jsonl"
COCO_FILE = "annotations.json"
RERUN_FILE = "poses.rrd"
PRINTED = 10  # frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What `parse` reads; the flags' help says more."""

    frames: tuple[Path, ...]
    out_dir: Path | None = None
    network: str | Path | None = None
    camera: tuple[float, float, float, float] | None = None
    depth_scale: float = 0.001
    people: str = "nearest"
    roll: int | None = None
    memory: str = "frozen"
    backend: str = "onnxruntime"
    precision: str = "f32"
    overlays: bool = True
    rerun: bool = False

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(
                "expected at least one frame, or a folder of them, got none"
            )


def parse(arguments: Sequence[str] | None = None) -> PredictConfig:
    """Reads a command line. By argparse: a pose should not wait for a larger parser."""
    parser = argparse.ArgumentParser(
        description="Finds people and their poses in depth images of any depth camera.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "frames",
        nargs="+",
        type=Path,
        help="16-bit PNG or .npy files, or folders of them. Integers are millimetres "
        "(see --depth_scale), floats metres; 0 and NaN are no reading",
    )
    add(
        "--out_dir",
        type=Path,
        help="gets poses.jsonl, annotations.json (COCO keypoints) and overlays/; by "
        "default a new folder in poses/",
    )
    add(
        "--network",
        help="name of one of the package's networks, or a folder that export.py wrote; "
        "by default people-96",
    )
    add(
        "--camera",
        nargs=4,
        type=float,
        metavar=("FX", "FY", "CX", "CY"),
        help="pixels; by default a focal length of 1.07 times the height",
    )
    add("--depth_scale", type=float, default=0.001, help="metres per unit of integers")
    add(
        "--people",
        choices=get_args(People),
        default="nearest",
        help="the nearest person of each frame, or all",
    )
    add(
        "--roll",
        type=int,
        choices=(0, 90, 180, 270),
        help="degrees by which frames must be turned clockwise to be upright; by "
        "default each person is set upright as it is found",
    )
    add(
        "--memory",
        choices=get_args(MemoryUse),
        default="frozen",
        help="rolling for the frames of one person in the order of recording",
    )
    add(
        "--backend",
        choices=get_args(Backend),
        default="onnxruntime",
        help="what runs the network",
    )
    add("--precision", choices=get_args(Precision), default="f32", help="of openvino")
    add(
        "--overlays",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to draw each frame",
    )
    # Flags are spelt with underscores, as those of the other scripts.
    add("--no_overlays", dest="overlays", action="store_false", help=argparse.SUPPRESS)
    add(
        "--rerun",
        action="store_true",
        help="whether to write poses.rrd, for the rerun viewer (pip install rerun-sdk)",
    )
    values = vars(parser.parse_args(arguments))
    values["frames"] = tuple(values["frames"])
    values["camera"] = values["camera"] and tuple(values["camera"])
    return PredictConfig(**values)


def main(config: PredictConfig) -> dict[str, list[Pose]]:
    """Writes the poses of each frame, prints them, and returns them by file."""
    files = [files_of(path.expanduser()) for path in config.frames]
    paths = list(dict.fromkeys(itertools.chain(*files)))
    predictor = Predictor(
        config.network,
        camera=config.camera,
        depth_scale=config.depth_scale,
        people=config.people,
        roll=config.roll,
        memory=config.memory,
        backend=config.backend,
        precision=config.precision,
    )
    out_dir = new_folder(paths[0]) if config.out_dir is None else config.out_dir
    out_dir = out_dir.expanduser()
    if (out_dir / POSES_FILE).exists():
        raise ValueError(f"--out_dir={out_dir} holds poses already; name another")
    viewer = Viewer(out_dir / RERUN_FILE) if config.rerun else None
    (out_dir / OVERLAYS).mkdir(parents=True, exist_ok=True)
    skeleton = predictor.skeleton
    coco = records.Coco(skeleton, out_dir)
    poses_of: dict[str, list[Pose]] = {}
    with (out_dir / POSES_FILE).open("w") as lines:
        for number, path in enumerate(with_progress(paths)):
            depth_mm = predictor.read(path)
            poses = predictor.poses(depth_mm)
            poses_of[str(path)] = poses
            camera = predictor.intrinsics(depth_mm)
            record = records.line(path, poses, camera, skeleton)
            lines.write(json.dumps(record, allow_nan=False) + "\n")
            coco.add(path, poses, camera, depth_mm.shape)
            if config.overlays:
                picture = out_dir / OVERLAYS / f"{number:06d}_{path.stem}.png"
                joints_px = [pose.seen_px for pose in poses]
                overlay.save(picture, depth_mm, joints_px, skeleton)
            if viewer:
                viewer.log(number, depth_mm, poses, camera, predictor)
    write_json(out_dir / COCO_FILE, coco.to_json())
    for name, poses in itertools.islice(poses_of.items(), PRINTED):
        for description in describe(poses, predictor):
            print(f"{name}: {description}")
    number_empty = sum(not poses for poses in poses_of.values())
    print(f"{len(poses_of)} frames, {number_empty} without a person; {out_dir}")
    if config.camera is None:
        assumed = ", ".join(
            f"{fx:.0f} {fy:.0f} {x:g} {y:g}" for fx, fy, x, y in coco.cameras
        )
        print(
            f"--camera was not given: assumed {assumed}; metres across the line of "
            "sight are as wrong as the focal length is"
        )
    return poses_of


def with_progress(paths: Sequence[Path]) -> Iterable[Path]:
    """Returns the paths, with a bar where somebody looks and there are several."""
    if len(paths) == 1 or not sys.stderr.isatty():
        return paths
    try:
        from tqdm import tqdm
    except ImportError:  # prediction does without
        return paths
    return tqdm(paths, unit="frame")


def new_folder(first: Path) -> Path:
    """Returns a folder in poses/ that is not there yet, named after the first frame."""
    names = (f"{first.stem}_{n}" if n else first.stem for n in itertools.count())
    return next(p for name in names if not (p := Path("poses") / name).exists())


def describe(poses: Sequence[Pose], predictor: Predictor) -> Iterator[str]:
    """Yields a line a person, or says that there is none."""
    if not poses:
        yield "no person found"
    for pose in poses:
        x, y, z = pose.joints_m[predictor.skeleton.joints.index("head")]
        yield (
            f"a person {pose.depth_m:.2f} m away, head at {x:+.2f} {y:+.2f} {z:.2f} m, "
            f"mean confidence {pose.confidence.mean():.2f}"
        )


class Viewer:
    """Writes depth, points and poses for the rerun viewer."""

    def __init__(self, path: Path) -> None:
        try:
            import rerun
        except ImportError:
            raise ValueError(
                "--rerun needs rerun-sdk, not installed here: pip install rerun-sdk"
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rerun = rerun
        rerun.init("cmbjax")
        rerun.save(path)
        rerun.log("camera", rerun.ViewCoordinates.RDF, static=True)

    def log(
        self,
        number: int,
        depth_mm: np.ndarray,
        poses: list[Pose],
        camera: np.ndarray,
        predictor: Predictor,
    ) -> None:
        """Adds a frame."""
        rr, skeleton = self.rerun, predictor.skeleton
        height, width = depth_mm.shape
        fx, fy, cx, cy = camera.tolist()
        rr.set_time("frame", sequence=number)
        pinhole = rr.Pinhole(
            focal_length=[fx, fy], principal_point=[cx, cy], width=width, height=height
        )
        rr.log("camera/image", pinhole)
        rr.log("camera/image/depth", rr.DepthImage(depth_mm, meter=1000.0))
        rr.log("camera/people", rr.Clear(recursive=True))
        colours = joint_colours(skeleton)
        rgb = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours]
        for index, pose in enumerate(poses):
            is_seen = pose.visibility == SEEN
            bones = [
                pose.joints_m[[parent, joint]]
                for joint, parent in enumerate(skeleton.parents)
                if parent >= 0 and is_seen[joint] and is_seen[parent]
            ]
            name = f"camera/people/{index}"
            joints = rr.Points3D(
                pose.joints_m[is_seen],
                radii=0.02,
                colors=[rgb[joint] for joint in np.flatnonzero(is_seen)],
                labels=[skeleton.joints[joint] for joint in np.flatnonzero(is_seen)],
            )
            rr.log(f"{name}/joints", joints)
            rr.log(f"{name}/bones", rr.LineStrips3D(bones, radii=0.01))


if __name__ == "__main__":
    try:
        main(parse())
    except (ValueError, OSError) as error:
        sys.exit(f"predict.py: {error}")
