"""Finds people, or hands, and their poses: `python predict.py frame.png`."""

import argparse
import contextlib
import dataclasses
import itertools
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np

from cmbjax.depth.images import MAX_PIXELS, files_of
from cmbjax.files import (
    each_line,
    expanded,
    only_one,
    printable,
    read_json,
    write_json,
)
from cmbjax.predict import overlay, records
from cmbjax.predict.card import NAMES, MemoryUse
from cmbjax.predict.pose import SEEN, Pose
from cmbjax.predict.predictor import FAULTS, People, Predictor
from cmbjax.predict.runtimes import Backend, Precision
from cmbjax.scripts import script
from cmbjax.skeletons import joint_colours

OVERLAYS = "overlays"
POSES_FILE = "poses.jsonl"
SETTINGS_FILE = "settings.json"
COCO_FILE = "annotations.json"
RERUN_FILE = "poses.rrd"
LOCK_FILE = "lock"
OURS = {"network", "weights", "depth_scale"}  # among the settings of every version
PRINTED = 10  # frames
LONGEST = 100  # bytes of a frame's name in that of its picture


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
    """Writes the poses of each frame, prints the first, and returns these by file.

    Raises:
        ValueError: `--out_dir` has poses of other settings, or files of others, or no
            frame can be read.
        KeyboardInterrupt: After the files were written as far as they go.
    """
    frames = frames_of(config.frames)
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
    rerun = import_rerun() if config.rerun else None
    first = Path(next(iter(frames)))
    with claim(config, predictor, first) as (out_dir, done):
        viewer = Viewer(out_dir / RERUN_FILE, rerun) if rerun else None
        new = {
            place: name
            for place, name in frames.items()
            if printable(place) not in done
        }
        every = records.Lines(out_dir / POSES_FILE)
        try:
            tally = pose(new, predictor, config, out_dir, len(done), viewer)
        except KeyboardInterrupt:
            how = f"; with --out_dir={printable(out_dir)} the same command goes on"
            raise KeyboardInterrupt(how) from None
        finally:
            unit = "mm" if np.isclose(config.depth_scale, 0.001) else "raw"
            records.write_coco(
                out_dir / COCO_FILE, every, predictor.skeleton, depth_unit=unit
            )
        cameras = records.cameras_of(every)
        if tally.error and not cameras:
            raise tally.error
        report(tally, len(done), out_dir, predictor)
    if config.camera is None and tally.number:
        assumed = ", ".join(
            f"{fx:.0f} {fy:.0f} {x:g} {y:g}" for fx, fy, x, y in sorted(cameras)
        )
        print(
            f"--camera was not given: assumed {assumed}; metres across the line of "
            "sight are as wrong as the focal length is"
        )
    return tally.first


def frames_of(paths: Iterable[Path]) -> dict[str, str]:
    """Returns frames as they are first spelt, by what they are: see `place_of`."""
    frames: dict[str, str] = {}
    for path in paths:
        for file in files_of(expanded(path)):
            frames.setdefault(place_of(file), str(file))
    return frames


def place_of(path: Path | str) -> str:
    """Returns the path of a frame without dots in it; links stay."""
    return os.path.abspath(path)


@dataclasses.dataclass
class Tally:
    """What became of frames.

    Attributes:
        first: The poses of the first of them, by file.
        number: Of frames with poses, or nobody in them.
        number_empty: Of those with nobody.
        number_left_out: Of frames that are none.
        error: The first of theirs.
    """

    first: dict[str, list[Pose]] = dataclasses.field(default_factory=dict)
    number: int = 0
    number_empty: int = 0
    number_left_out: int = 0
    error: Exception | None = None


def pose(
    frames: dict[str, str],
    predictor: Predictor,
    config: PredictConfig,
    out_dir: Path,
    number: int,
    viewer: "Viewer | None",
) -> Tally:
    """Writes the poses of frames, and draws them.

    Args:
        frames: See `frames_of`.
        predictor: Whose poses.
        config: Says what is drawn, and whether the first error ends it; others are
            reported and counted.
        out_dir: Of `claim`.
        number: Of the first frame.
        viewer: Draws, too.
    """
    tally, skeleton = Tally(), predictor.skeleton
    with (out_dir / POSES_FILE).open("ab") as lines:
        for place, name in with_progress(frames.items()):
            try:
                depth_mm = predictor.read(name)
                poses = predictor.poses(depth_mm)
                camera = predictor.intrinsics(depth_mm)
                record = records.line(place, poses, camera, skeleton, depth_mm.shape)
                if viewer:
                    viewer.log(number, depth_mm, poses, camera, predictor)
                if config.overlays:
                    picture = f"{number:06d}_{short_name(name)}.png"
                    joints_px = [pose.seen_px for pose in poses]
                    overlay.save(
                        out_dir / OVERLAYS / picture, depth_mm, joints_px, skeleton
                    )
            except FAULTS as error:
                told = fault(name, error)
                if config.strict:
                    raise told from None
                print(f"predict.py: left out: {printable(told)}", file=sys.stderr)
                tally.number_left_out += 1
                tally.error = tally.error or told
                continue
            # Last, and whole: a frame that has a line is done.
            lines.write(msgspec.json.encode(record) + b"\n")
            lines.flush()
            number += 1
            tally.number += 1
            tally.number_empty += not poses
            if tally.number <= PRINTED:
                tally.first[name] = poses
    return tally


def fault(name: str, error: Exception) -> Exception:
    """Returns what was wrong with a frame as an error that names its file."""
    if isinstance(error, ValueError | OSError) and name in str(error):
        return error
    said = " ".join(str(error).split()) or "there is not enough memory for it"
    return ValueError(f"{name}: {said}")


@contextlib.contextmanager
def claim(
    config: PredictConfig, predictor: Predictor, first: Path
) -> Iterator[tuple[Path, set[str]]]:
    """Holds a folder for poses, and the frames that it has of the same settings.

    Args:
        config: Names the folder; by default it is made.
        predictor: Whose poses.
        first: A folder that is made has the name of this frame.

    Raises:
        ValueError: Another process is at it, its poses cannot be gone on with, or files
            of others are in the way.
    """
    if config.out_dir is None:
        out_dir = new_folder(first)
    else:
        out_dir = expanded(config.out_dir)
        check_ours(out_dir, config)
        out_dir.mkdir(parents=True, exist_ok=True)
    busy = f"--out_dir={out_dir}: another predict.py is at work in this folder"
    with only_one(out_dir / LOCK_FILE, busy):
        before = check_ours(out_dir, config)
        settings = settings_of(config, predictor)
        lines = out_dir / POSES_FILE
        done = set()
        if lines.exists():
            done = {record.frame for record in each_line(lines, records.Line)}
        if done:
            check_settings(before, settings, out_dir)
            if config.memory == "rolling" or config.rerun:
                raise ValueError(
                    f"--out_dir={out_dir} holds poses already, and neither a rolling "
                    "memory nor poses.rrd can be gone on with; name another"
                )
        (out_dir / OVERLAYS).mkdir(exist_ok=True)
        write_json(out_dir / SETTINGS_FILE, settings)
        lines.touch()
        cut_half_line(lines)
        yield out_dir, done


def settings_of(config: PredictConfig, predictor: Predictor) -> dict[str, Any]:
    """Returns what poses depend on."""
    return {
        "network": predictor.card.run,
        "weights": predictor.checksums(),
        "camera": config.camera and list(config.camera),
        **{
            name: getattr(config, name)
            for name in ("depth_scale", "people", "roll", "memory", "precision")
        },
        "least_score": predictor.least_score,
    }


def check_ours(out_dir: Path, config: PredictConfig) -> dict[str, Any]:
    """Returns the settings of a folder that this program wrote; of a new one, none.

    Raises:
        ValueError: A file of others would be written over.
    """
    if os.path.lexists(out_dir) and not out_dir.is_dir():
        raise ValueError(f"--out_dir={out_dir} must be a folder, and is none")
    path = out_dir / SETTINGS_FILE
    before = read_json(path) if path.exists() else None
    if isinstance(before, dict) and before.keys() >= OURS:
        return before
    written = [SETTINGS_FILE, POSES_FILE, COCO_FILE, OVERLAYS]
    written += [RERUN_FILE] if config.rerun else []
    if there := [name for name in written if os.path.lexists(out_dir / name)]:
        raise ValueError(
            f"--out_dir={out_dir} holds {', '.join(there)}, which predict.py did not "
            "write there; name another"
        )
    return {}


def check_settings(
    before: dict[str, Any], settings: dict[str, Any], out_dir: Path
) -> None:
    """Refuses to add poses of other settings to those that are there.

    Raises:
        ValueError: They are of others; names these.
    """
    if before == settings:
        return
    differ = [
        name if name == "weights" else f"--{name}"
        for name in settings
        if before.get(name) != settings[name]
    ] or ["of another version"]
    raise ValueError(
        f"--out_dir={out_dir} holds poses already, of other settings "
        f"({', '.join(differ)}); name another"
    )


def cut_half_line(path: Path) -> None:
    """Cuts off a last line whose writing was interrupted."""
    with path.open("r+b") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)


def report(
    tally: Tally, number_before: int, out_dir: Path, predictor: Predictor
) -> None:
    """Prints the first poses, and what became of the frames."""
    for name, poses in tally.first.items():
        for description in describe(poses, predictor):
            print(f"{printable(name)}: {description}")
    noun = _noun(predictor)
    counts = [f"{tally.number} frames", f"{tally.number_empty} without a {noun}"]
    if number_before:
        counts.append(f"{number_before} more were there already")
    if tally.number_left_out:
        counts.append(f"{tally.number_left_out} left out, as they cannot be read")
    print(f"{', '.join(counts)}; {printable(out_dir)}")


def with_progress(
    frames: Collection[tuple[str, str]],
) -> Iterable[tuple[str, str]]:
    """Returns the frames, with a bar where somebody looks and there are several."""
    if len(frames) == 1 or not sys.stderr.isatty():
        return frames
    try:
        from tqdm import tqdm
    except ImportError:  # prediction does without
        return frames
    return tqdm(frames, unit="frame")


def new_folder(first: Path) -> Path:
    """Makes a folder in poses/, named after the first frame."""
    poses, name = Path("poses"), short_name(first)
    poses.mkdir(exist_ok=True)
    for number in itertools.count():
        folder = poses / (f"{name}_{number}" if number else name)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("there is always another number")


def short_name(path: Path | str) -> str:
    """Returns a frame's name for what is made of it: whole letters, no dots around."""
    name = printable(Path(path).stem).encode()[:LONGEST]
    return name.decode(errors="ignore").strip(".") or "frame"


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


def import_rerun() -> Any:
    """Returns the module of the rerun viewer, or says what is missing."""
    try:
        import rerun
    except ImportError:
        raise ValueError(
            "--rerun needs rerun-sdk, not installed here: pip install rerun-sdk"
        ) from None
    return rerun


class Viewer:
    """Writes depth, points and poses for the rerun viewer."""

    def __init__(self, path: Path, rerun: Any) -> None:
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
                for parent, joint in skeleton.bones
                if is_seen[joint] and is_seen[parent]
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


def tell(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as errors are printed."""
    print(f"predict.py: {message}", file=sys.stderr)


if __name__ == "__main__":
    with script("predict.py"):
        warnings.showwarning = tell
        main(parse())
