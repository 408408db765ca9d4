"""Finds people, or hands, and their poses: `python predict.py frame.png`."""

import argparse
import dataclasses
import itertools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np

from cmbjax.depth.images import MAX_PIXELS, files_of
from cmbjax.files import printable, read_json, read_lines, write_json, write_text
from cmbjax.predict import overlay, records
from cmbjax.predict.card import NAMES
from cmbjax.predict.predictor import SEEN, MemoryUse, People, Pose, Predictor
from cmbjax.predict.runtimes import Backend, Precision
from cmbjax.skeletons import joint_colours

OVERLAYS = "overlays"
POSES_FILE = "poses.jsonl"
SETTINGS_FILE = "settings.json"
COCO_FILE = "annotations.json"
RERUN_FILE = "poses.rrd"
PRINTED = 10  # frames
LONGEST = 100  # characters of a frame's name in that of its picture


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What `parse` reads; the flags' help says more."""

    frames: tuple[Path, ...]
    out_dir: Path | None = None
    what: str = "people"
    network: str | Path | None = None
    camera: tuple[float, float, float, float] | None = None
    depth_scale: float = 0.001
    people: str = "nearest"
    roll: int | None = None
    least_score: float | None = None
    memory: str = "frozen"
    backend: str = "onnxruntime"
    precision: str = "f32"
    overlays: bool = True
    rerun: bool = False
    strict: bool = False
    max_pixels: int = MAX_PIXELS

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
        "default a new folder in poses/. A folder of the same settings goes on: frames "
        "that it has are not looked at again",
    )
    add(
        "--what",
        choices=tuple(NAMES),
        default="people",
        help="is found and posed, where --network does not say it",
    )
    add(
        "--network",
        help="name of one of the package's networks, or a folder that export.py wrote; "
        "by default people-96, or hands-96",
    )
    add(
        "--camera",
        nargs=4,
        type=float,
        metavar=("FX", "FY", "CX", "CY"),
        help="pixels of these frames, undistorted; the first pixel's centre is "
        "(0.5, 0.5): add 0.5 to CX and CY of ROS or OpenCV. By default a focal length "
        "of 1.07 times the shorter side",
    )
    add("--depth_scale", type=float, default=0.001, help="metres per unit of integers")
    add(
        "--people",
        choices=get_args(People),
        default="nearest",
        help="the nearest person, or hand, of each frame, or all",
    )
    add(
        "--roll",
        type=int,
        choices=(0, 90, 180, 270),
        help="degrees by which frames must be turned clockwise to be upright; by "
        "default each person is set upright as it is found",
    )
    add(
        "--least_score",
        type=float,
        help="how probably there must be somebody for a pose to be given, between 0 "
        "and 1; by default 0.5, or, of a network whose card has no such probability, "
        "the detector's 0.33",
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
    add(
        "--precision",
        choices=get_args(Precision),
        default="f32",
        help="bf16 is openvino's; int8 needs a network that was exported so",
    )
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
    add(
        "--strict",
        action="store_true",
        help="whether to stop at the first frame that cannot be read; by default such "
        "frames are reported and left out",
    )
    add(
        "--max_pixels",
        type=int,
        default=MAX_PIXELS,
        help="files that say they are larger are refused before they are unpacked",
    )
    values = vars(parser.parse_args(arguments))
    values["frames"] = tuple(values["frames"])
    values["camera"] = values["camera"] and tuple(values["camera"])
    return PredictConfig(**values)


def main(config: PredictConfig) -> dict[str, list[Pose]]:
    """Writes the poses of each frame, prints them, and returns the new ones by file.

    Raises:
        ValueError: `--out_dir` has poses of other settings, or no frame can be read.
        KeyboardInterrupt: After the files were written as far as they go.
    """
    files = [files_of(path.expanduser()) for path in config.frames]
    # By what they are, not by how they were spelt, and as they were spelt first.
    by_place = {place_of(path): path for path in reversed([*itertools.chain(*files)])}
    paths = [by_place[place] for place in reversed(by_place)]
    network = config.network
    if network is None and config.what != "people":
        network = config.what
    predictor = Predictor(
        network,
        camera=config.camera,
        depth_scale=config.depth_scale,
        people=config.people,
        roll=config.roll,
        least_score=config.least_score,
        memory=config.memory,
        backend=config.backend,
        precision=config.precision,
        max_pixels=config.max_pixels,
    )
    out_dir = new_folder(paths[0]) if config.out_dir is None else config.out_dir
    out_dir = out_dir.expanduser()
    done = claim(out_dir, config, predictor)
    paths = [path for path in paths if printable(place_of(path)) not in done]
    viewer = Viewer(out_dir / RERUN_FILE) if config.rerun else None
    poses_of: dict[str, list[Pose]] = {}
    errors: list[Exception] = []
    try:
        with (out_dir / POSES_FILE).open("ab") as lines:
            for path in with_progress(paths):
                number = len(done) + len(poses_of)
                try:
                    depth_mm = predictor.read(path)
                    poses = predictor.poses(depth_mm)
                    camera = predictor.intrinsics(depth_mm)
                    record = records.line(
                        place_of(path),
                        poses,
                        camera,
                        predictor.skeleton,
                        depth_mm.shape,
                    )
                except (ValueError, OSError) as error:
                    if config.strict:
                        raise
                    said = printable(error)
                    if str(path) not in str(error):
                        said = f"{printable(path)}: {said}"
                    print(f"predict.py: left out: {said}", file=sys.stderr)
                    errors.append(error)
                    continue
                if config.overlays:
                    name = f"{number:06d}_{printable(path.stem)[:LONGEST]}.png"
                    joints_px = [pose.seen_px for pose in poses]
                    picture = out_dir / OVERLAYS / name
                    overlay.save(picture, depth_mm, joints_px, predictor.skeleton)
                if viewer:
                    viewer.log(number, depth_mm, poses, camera, predictor)
                # Last, and whole: a frame that has a line is done.
                lines.write(msgspec.json.encode(record) + b"\n")
                lines.flush()
                poses_of[str(path)] = poses
    finally:
        every = read_lines(out_dir / POSES_FILE, records.Line)
        write_json(
            out_dir / COCO_FILE, records.coco(every, predictor.skeleton, out_dir)
        )
    if errors and not every:
        raise errors[0]
    report(poses_of, len(done), len(errors), out_dir, predictor)
    if config.camera is None and poses_of:
        assumed = ", ".join(
            f"{fx:.0f} {fy:.0f} {x:g} {y:g}"
            for fx, fy, x, y in sorted({record.camera for record in every})
        )
        print(
            f"--camera was not given: assumed {assumed}; metres across the line of "
            "sight are as wrong as the focal length is"
        )
    return poses_of


def claim(out_dir: Path, config: PredictConfig, predictor: Predictor) -> set[str]:
    """Makes a folder for poses, or finds the frames that it has of the same settings.

    Raises:
        ValueError: Its poses cannot be gone on with.
    """
    settings = {
        "network": predictor.card.run,
        "weights": predictor.checksums(),
        "camera": config.camera and list(config.camera),
        **{
            name: getattr(config, name)
            for name in ("depth_scale", "people", "roll", "memory", "precision")
        },
        "least_score": predictor.least_score,
    }
    path, lines = out_dir / SETTINGS_FILE, out_dir / POSES_FILE
    done = read_lines(lines, records.Line) if lines.exists() else []
    if done:
        before = read_json(path) if path.exists() else None
        if before != settings:
            before = before if isinstance(before, dict) else {}
            differ = [
                name if name == "weights" else f"--{name}"
                for name in settings
                if before.get(name) != settings[name]
            ] or ["of another version"]
            raise ValueError(
                f"--out_dir={out_dir} holds poses already, of other settings "
                f"({', '.join(differ)}); name another"
            )
        if config.memory == "rolling" or config.rerun:
            raise ValueError(
                f"--out_dir={out_dir} holds poses already, and neither a rolling "
                "memory nor poses.rrd can be gone on with; name another"
            )
    (out_dir / OVERLAYS).mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
    if lines.exists():  # without a last line that was cut off
        write_text(lines, "".join(f"{msgspec.json.encode(x).decode()}\n" for x in done))
    return {record.frame for record in done}


def place_of(path: Path) -> Path:
    """Returns the path of a frame without dots in it; links stay."""
    return Path(os.path.abspath(path))


def report(
    poses_of: dict[str, list[Pose]],
    number_before: int,
    number_left_out: int,
    out_dir: Path,
    predictor: Predictor,
) -> None:
    """Prints the first poses, and what became of the frames."""
    for name, poses in itertools.islice(poses_of.items(), PRINTED):
        for description in describe(poses, predictor):
            print(f"{printable(name)}: {description}")
    number_empty = sum(not poses for poses in poses_of.values())
    counts = [f"{len(poses_of)} frames", f"{number_empty} without a {_noun(predictor)}"]
    if number_before:
        counts.append(f"{number_before} more were there already")
    if number_left_out:
        counts.append(f"{number_left_out} left out, as they cannot be read")
    print(f"{', '.join(counts)}; {printable(out_dir)}")


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
    """Yields a line a person, or hand, or says that there is none."""
    noun, joints = _noun(predictor), predictor.skeleton.joints
    if not poses:
        yield f"no {noun} found"
    joint = "head" if "head" in joints else joints[0]
    for pose in poses:
        x, y, z = pose.joints_m[joints.index(joint)]
        which = f"{pose.side} {noun}".strip()
        yield (
            f"a {which} {pose.depth_m:.2f} m away, {joint} at {x:+.2f} {y:+.2f} "
            f"{z:.2f} m, score {pose.score:.2f}, mean confidence of joints "
            f"{pose.confidence.mean():.2f}"
        )


def _noun(predictor: Predictor) -> str:
    return "person" if predictor.skeleton.found_as == "people" else "hand"


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
                radii=predictor.skeleton.limb_m / 1.5,
                colors=[rgb[joint] for joint in np.flatnonzero(is_seen)],
                labels=[skeleton.joints[joint] for joint in np.flatnonzero(is_seen)],
            )
            rr.log(f"{name}/joints", joints)
            rr.log(
                f"{name}/bones",
                rr.LineStrips3D(bones, radii=predictor.skeleton.limb_m / 3),
            )


if __name__ == "__main__":
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        main(parse())
    except (ValueError, OSError) as error:
        sys.exit(f"predict.py: {printable(error)}")
    except KeyboardInterrupt:
        sys.exit("predict.py: interrupted; with its --out_dir the same command goes on")
