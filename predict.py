"""Finds people and their poses in depth images: `python predict.py frame.png`."""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from cmbjax import plots, runtime
from cmbjax.files import write_json
from cmbjax.depth.images import files_of
from cmbjax.predict.predictor import Backend, Choice, Memory, Pose, Precision, Predictor

OVERLAYS = "overlays"
POSES_FILE = "poses.jsonl"
COCO_FILE = "annotations.json"
RERUN_FILE = "poses.rrd"
SURE = 0.3  # a joint of less confidence counts as labelled but hidden in COCO's file


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Finds people and their poses in depth images of any depth camera."""

    frames: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """16-bit PNG or .npy files, or folders of them. Integers are millimetres (see
    --depth_scale), floats metres; 0 and NaN are no reading."""
    out_dir: Path | None = None
    """Gets poses.jsonl, annotations.json (COCO keypoints) and overlays/; by default a
    new folder in poses/."""
    network: Path | None = None
    """Folder that export.py wrote; by default the pretrained network."""
    camera: tuple[float, float, float, float] | None = None
    """fx fy cx cy in pixels; by default a focal length of 1.07 times the height."""
    depth_scale: float = 0.001
    """Metres per unit of integer frames."""
    people: Choice = "nearest"
    """The nearest person of each frame, or all."""
    memory: Memory = "frozen"
    """Rolling for the frames of one person in the order of recording."""
    backend: Backend = "jax"
    """What runs the network."""
    precision: Precision = "f32"
    """Of openvino."""
    overlays: bool = True
    """Whether to draw each frame; slower than all the rest."""
    rerun: bool = False
    """Whether to write poses.rrd, for the rerun viewer (pip install rerun-sdk)."""

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(
                "expected at least one frame, or a folder of them, got none"
            )


def main(config: PredictConfig) -> dict[str, list[Pose]]:
    """Writes the poses of each frame, prints them, and returns them by file."""
    given = [path.expanduser() for path in config.frames]
    paths = list(dict.fromkeys(path for one in given for path in files_of(one)))
    predictor = Predictor(
        config.network,
        camera=config.camera,
        depth_scale=config.depth_scale,
        people=config.people,
        memory=config.memory,
        backend=config.backend,
        precision=config.precision,
    )
    out_dir = new_folder(paths[0]) if config.out_dir is None else config.out_dir
    if (out_dir / POSES_FILE).exists():
        raise ValueError(f"--out_dir={out_dir} holds poses already; name another")
    viewer = Viewer(out_dir / RERUN_FILE) if config.rerun else None
    (out_dir / OVERLAYS).mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Pose]] = {}
    images: list[dict[str, Any]] = []
    cameras: set[tuple[float, ...]] = set()
    with (out_dir / POSES_FILE).open("w") as lines:
        for number, path in enumerate(tqdm(paths, unit="frame", disable=None)):
            depth_mm = predictor.read(path)
            poses = predictor.poses(depth_mm)
            found[str(path)] = poses
            camera = predictor.intrinsics(depth_mm)
            cameras.add(tuple(camera.tolist()))
            lines.write(json.dumps(as_record(path, poses, camera, predictor)) + "\n")
            height, width = depth_mm.shape
            images.append(
                {
                    "id": number,
                    "file_name": os.path.relpath(path, out_dir),
                    "width": width,
                    "height": height,
                }
            )
            if config.overlays:
                name = f"{number:06d}_{path.stem}.png"
                draw(out_dir / OVERLAYS / name, depth_mm, poses, predictor)
            if viewer:
                viewer.log(number, depth_mm, poses, camera, predictor)
    write_json(
        out_dir / COCO_FILE,
        as_coco(images, list(found.values()), cameras, predictor),
    )
    empty = [name for name, poses in found.items() if not poses]
    for name, poses in list(found.items())[:10]:
        for line in describe(poses, predictor):
            print(f"{name}: {line}")
    print(f"{len(found)} frames, {len(empty)} without a person; {out_dir}")
    if config.camera is None:
        assumed = ", ".join(
            f"{fx:.0f} {fy:.0f} {x:g} {y:g}" for fx, fy, x, y in cameras
        )
        print(
            f"--camera was not given: assumed {assumed}; metres across the line of "
            "sight are as wrong as the focal length is"
        )
    return found


def new_folder(first: Path) -> Path:
    """Returns a folder in poses/ that is not there yet, named after the first frame."""
    names = (f"{first.stem}_{n}" if n else first.stem for n in itertools.count())
    return next(p for name in names if not (p := Path("poses") / name).exists())


def describe(poses: list[Pose], predictor: Predictor) -> Iterator[str]:
    """Yields a line a person, or says that there is none."""
    if not poses:
        yield "no person found"
    for pose in poses:
        head = pose.joints_m[predictor.skeleton.joints.index("head")]
        x, y, z = head
        yield (
            f"a person {pose.depth_m:.2f} m away, head at {x:+.2f} {y:+.2f} {z:.2f} m, "
            f"mean confidence {pose.confidence.mean():.2f}"
        )


def as_record(
    path: Path, poses: list[Pose], camera: np.ndarray, predictor: Predictor
) -> dict[str, Any]:
    """Returns a line of poses.jsonl."""
    return {
        "frame": str(path),
        "camera": _rounded(camera, 3),
        "joints": predictor.skeleton.joints,
        "people": [
            {
                "box": _rounded(pose.box, 1),
                "depth_m": round(pose.depth_m, 3),
                "joints_px": _rounded(pose.joints_px, 2),
                "joints_m": _rounded(pose.joints_m, 4),
                "confidence": _rounded(pose.confidence, 3),
            }
            for pose in poses
        ],
    }


def as_coco(
    images: list[dict[str, Any]],
    found: list[list[Pose]],
    cameras: set[tuple[float, ...]],
    predictor: Predictor,
) -> dict[str, Any]:
    """Returns COCO keypoints, as the data set `folder` reads them.

    Their one camera is left out where frames have several.
    """
    skeleton = predictor.skeleton
    annotations: list[dict[str, Any]] = []
    for image, poses in zip(images, found, strict=True):
        for pose in poses:
            shown = np.where(pose.confidence >= SURE, 2, 1)
            x0, y0, x1, y1 = pose.box.tolist()
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": 1,
                    "keypoints": _rounded(
                        np.column_stack([pose.joints_px, shown]).ravel(), 2
                    ),
                    "num_keypoints": skeleton.num_joints,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": round(float(pose.confidence.mean()), 4),
                    "joints_m": _rounded(pose.joints_m, 4),
                }
            )
    bones = [[p + 1, j + 1] for j, p in enumerate(skeleton.parents) if p >= 0]
    info: dict[str, Any] = {"description": "predicted by cmbjax"}
    if len(cameras) == 1:
        (camera,) = cameras
        info["camera"] = dict(zip(("fx", "fy", "cx", "cy"), camera, strict=True))
    return {
        "info": info,
        "categories": [
            {
                "id": 1,
                "name": "person",
                "keypoints": list(skeleton.joints),
                "skeleton": bones,
            }
        ],
        "images": images,
        "annotations": annotations,
    }


def _rounded(values: np.ndarray, digits: int) -> list[Any]:
    return np.round(values.astype(float), digits).tolist()


def draw(
    path: Path, depth_mm: np.ndarray, poses: list[Pose], predictor: Predictor
) -> None:
    """Saves a frame with all poses over it."""
    plots.frame(depth_mm, [pose.joints_px for pose in poses], predictor.skeleton, path)


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
        colours = plots.joint_colours(skeleton)
        rgb = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours]
        for index, pose in enumerate(poses):
            bones = [
                pose.joints_m[[parent, joint]]
                for joint, parent in enumerate(skeleton.parents)
                if parent >= 0
            ]
            name = f"camera/people/{index}"
            joints = rr.Points3D(
                pose.joints_m, radii=0.02, colors=rgb, labels=skeleton.joints
            )
            rr.log(f"{name}/joints", joints)
            rr.log(f"{name}/bones", rr.LineStrips3D(bones, radii=0.01))


if __name__ == "__main__":
    try:
        runtime.prepare()
        main(tyro.cli(PredictConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"predict.py: {error}")
