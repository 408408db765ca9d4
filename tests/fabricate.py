"""Writes small data sets in the true on-disk formats, with made-up content.

Each function fills a folder and returns what it wrote, so that a test can say which
number must come back.
"""

import functools
import json
import os
from pathlib import Path
from typing import Any

import cv2
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.io

from cmbjax.models.network import Network
from cmbjax.skeletons import BODY15
from cmbjax.train import step

# A standing person in ITOP's world frame: x right, y up, z forward, metres.
STANDING = np.array(
    [
        [0.0, 0.55, 3.0],
        [0.0, 0.3, 3.0],
        [-0.17, 0.29, 3.0],
        [0.17, 0.31, 3.0],
        [-0.3, 0.1, 2.95],
        [0.32, 0.12, 2.9],
        [-0.4, -0.1, 2.8],
        [0.45, -0.05, 2.7],
        [0.0, 0.05, 3.0],
        [-0.11, -0.2, 3.0],
        [0.11, -0.21, 3.0],
        [-0.13, -0.7, 2.98],
        [0.14, -0.71, 3.02],
        [-0.15, -1.1, 3.05],
        [0.16, -1.12, 3.1],
    ]
)


def real(name: str) -> Path:
    """Returns where real frames are, beside the checkout or in it, if at all."""
    root = Path(__file__).parents[1]
    inside = root / "shared/real" / name
    return inside if inside.exists() else root.parent / "shared/real" / name


def environment(root: Path | None = None) -> dict[str, str]:
    """Returns what a script knows of this process: how tests compile, and little."""
    names = (name for name in os.environ if name.startswith(("JAX", "XLA")))
    variables = {name: os.environ[name] for name in names}
    variables["PATH"] = "/usr/bin:/bin"
    return variables if root is None else {**variables, "PYTHONPATH": str(root)}


def state(
    model: Network,
    optimizer: optax.GradientTransformation,
    *,
    side: int,
    batch_size: int,
    seed: int = 0,
) -> step.TrainState:
    """Returns what `create_state` does, its numbers drawn by NumPy.

    To compile the drawing of a network's parameters takes longer than to compile its
    training step. What `create_state` itself draws has tests of its own.
    """
    create = functools.partial(
        step.create_state,
        model=model,
        optimizer=optimizer,
        side=side,
        batch_size=batch_size,
    )
    shapes = jax.eval_shape(create, jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
        name = str(getattr(path[-1], "key", path[-1]))
        values = np.zeros(like.shape)
        if path[0] == jax.tree_util.GetAttrKey("memory"):
            values = rng.normal(size=like.shape)
        elif path[0] == jax.tree_util.GetAttrKey("opt_state"):
            pass
        elif name in ("scale", "var"):
            values = np.ones(like.shape)
        elif like.ndim > 1:
            fan_in = np.prod(like.shape[:-1])
            values = rng.normal(0, np.sqrt(2 / fan_in), like.shape)
        return jnp.asarray(values, like.dtype)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return drawn._replace(opt_state=optimizer.init(drawn.params))


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes an image, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, png = cv2.imencode(".png", image)  # `imwrite` dies of names that are no UTF-8
    assert done
    path.write_bytes(png.tobytes())


def k2hpd(
    folder: Path, *, num_train: int = 20, num_test: int = 4
) -> dict[str, np.ndarray]:
    """Writes K2HPD: three-channel 8-bit frames, some label lines behind NULs.

    Frame i, counted over both splits, is named by 3 + i and holds 100 + i, and 50 on
    5x5 pixels around each joint. Labels 5 and 8 of the first frame lie outside.

    Returns:
        The labels of `train` and `test`, [frames, 19, 2] integer pixels.
    """
    x = np.array([0, 0, 0, -20, -35, -40, 20, 35, 40, -12, -14, -16, 12, 14, 16, 0, 0])
    y = np.array([-60, -45, -20, -42, -20, 5, -42, -20, 5, 10, 45, 80, 10, 45, 80, -42])
    pose = np.stack([[*x, -41, 41], [*y, 8, 0, 0]], axis=-1) + [120, 100]
    labels = pose + np.arange(num_train + num_test)[:, None, None] % 30
    labels[0, 5, 0], labels[0, 8, 0] = -3, 262
    lines = []
    for i, joints in enumerate(labels):
        image = np.full((212, 256), min(100 + i, 255), np.uint8)
        for column, row in joints:
            image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 50
        name = f"{3 + i:08d}.png"
        write_png(folder / "depth_data/depth_images" / name, np.dstack([image] * 3))
        nuls = b"\x00\x00" if i % 3 == 1 else b""
        numbers = ",".join(str(number) for number in joints.ravel())
        lines.append(nuls + f"{name} {numbers}\n".encode())
    (folder / "train_annos.txt").write_bytes(b"".join(lines[:num_train]))
    (folder / "test_annos.txt").write_bytes(b"".join(lines[num_train:]))
    return {"train": labels[:num_train], "test": labels[num_train:]}


def itop(folder: Path, *, view: str = "side", frames_each: int = 4) -> None:
    """Writes ITOP: persons 04, 05, 06 for training and 00 for testing.

    Frame f of person p shows `STANDING`, p cm further right (or, from the top, the
    same person from the ceiling) before a wall of 4 m; the pixel in row 20, column
    30 + f is a hole, and one of 1.5 m lies to its right. Joint j has the part label
    j around its pixel. Every fourth frame is invalid: no joints, no parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, persons in (("train", (4, 5, 6)), ("test", (0,))):
        names = [f"{p:02d}_{f:05d}" for p in persons for f in range(frames_each)]
        n = len(names)
        valid = np.arange(n) % 4 != 3
        joints = STANDING + np.array(
            [[[p / 100, 0, 0]] for p in persons for _ in range(frames_each)]
        )
        if view == "top":
            x, y, z = np.moveaxis(joints, -1, 0)
            joints = np.stack([x, z - 2.85, 1.5 - y], axis=-1)
        joints = np.where(valid[:, None, None], joints, 0).astype(np.float16)
        x, y, z = np.moveaxis(joints.astype(float), -1, 0)
        z = np.where(valid[:, None], z, 1)
        pixels = np.stack([160 + x / (z * 0.0035), 120 - y / (z * 0.0035)], axis=-1)
        pixels = np.rint(pixels).astype(np.int16)
        depth = np.full((n, 240, 320), 4, np.float16)
        parts = np.full((n, 240, 320), -1, np.int8)
        for i in range(n):
            hole = 30 + i % frames_each
            depth[i, 20, hole], depth[i, 20, hole + 1] = 0, 1.5
            for j, (u, v) in enumerate(pixels[i] if valid[i] else ()):
                square = (slice(max(v - 2, 0), v + 3), slice(max(u - 2, 0), u + 3))
                parts[i][square], depth[i][square] = j, joints[i, j, 2]
        with h5py.File(folder / f"ITOP_{view}_{split}_depth_map.h5", "w") as file:
            file["id"] = np.array(names, "S")
            file["data"] = depth
        with h5py.File(folder / f"ITOP_{view}_{split}_labels.h5", "w") as file:
            file["id"] = np.array(names, "S")
            file["is_valid"] = valid.astype(np.uint8)
            file["visible_joints"] = np.ones((n, 15), np.int16)
            file["image_coordinates"] = pixels
            file["real_world_coordinates"] = joints
            file["segmentation"] = parts


def astar(
    folder: Path,
    *,
    names: str = "p{subject:02d}_{frame:03d}_",
    frames_each: int = 3,
    train_subjects: tuple[int, ...] = (16, 17, 18),
    test_subjects: tuple[int, ...] = (1, 2),
) -> None:
    """Writes ASTAR: a hand at 500 mm before a wall of 900 mm.

    Joint j of frame f lies at x = 6 j - 60 + f, y = 4 j - 50 pixels from the centre,
    z = 500 + j mm; the depth 5x5 pixels around it is that. The pixel in row 3,
    column 2 is saturated, that in row 3, column 5 holds 321.
    """
    for split, subjects in (
        ("Training_Dataset", train_subjects),
        ("Test_Dataset", test_subjects),
    ):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for subject in subjects:
            for f in range(frames_each):
                depth = np.full((240, 320), 900, "<i2")
                depth[3, 2], depth[3, 5] = 32001, 321
                triplets = [(500 + j, 6 * j - 60 + f, 4 * j - 50) for j in range(20)]
                for z, x, y in triplets:
                    row, column = 120 + y, 160 + x
                    depth[row - 2 : row + 3, column - 2 : column + 3] = z
                base = str(folder / split / names.format(subject=subject, frame=f))
                Path(base + "ini").write_text("")
                Path(base + "skdepth").write_bytes(depth.tobytes())
                Path(base + "shand").write_text(
                    "".join(f"{z},{x},{y}," for z, x, y in triplets)
                )


def utd_mhad(
    folder: Path, *, subjects: tuple[int, ...] = (1, 2, 3), frames: int = 6
) -> None:
    """Writes UTD-MHAD: each subject's actions 1 and 12, mirrored as the files are.

    In depth frame t the hands of subject s, left 1 m and right 2 m away, are at
    x = 50 + t and 250 + t, y = 100 + s, pixels from the first one's centre, in the
    files' mirrored picture; the skeleton has them two frames earlier. All other joints
    lie at (0, 0.1 j, 3) metres, y up.
    """
    for action in (1, 12):
        for subject in subjects:
            name = f"a{action}_s{subject}_t1"
            depth = np.zeros((240, 320, frames), np.uint16)
            joints = np.zeros((20, 3, frames))
            joints[:, 1] = 0.1 * np.arange(20)[:, None]
            joints[:, 2] = 3.0
            for t in range(frames):
                for joint, z, column in ((7, 1, 50), (11, 2, 250)):
                    row = 100 + subject
                    depth[row - 3 : row + 4, column + t - 3 : column + t + 4, t] = (
                        1000 * z
                    )
                    # Of depth frame t + 2.
                    x = (column + t + 2 - 160) * z / 285.63
                    joints[joint, :, t] = x, (120 - row) * z / 285.63, z
            for kind, key, values in (
                ("Depth", "d_depth", depth),
                ("Skeleton", "d_skel", joints),
            ):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                path = folder / kind / f"{name}_{kind.lower()}.mat"
                scipy.io.savemat(path, {key: values}, do_compression=True)


def coco(
    folder: Path,
    *,
    files: tuple[str, ...] = ("annotations.json",),
    frames: int = 3,
    joints: tuple[str, ...] = BODY15.joints,
) -> dict[str, object]:
    """Writes COCO keypoints and 16-bit frames of 80x60 pixels.

    Frame i of each file holds 2000 + i mm and a hole at row 1, column 2. Joint j of
    the given order lies at (10.5 + j, 20.25 + i) px and (0.1 j, 0.2, 2) m. The
    second joint is not visible. The camera is (100, 101, 40, 30).

    Returns:
        The content of the last file.
    """
    content: dict[str, object] = {}
    for file in files:
        images, annotations = [], []
        for i in range(frames):
            name = f"{Path(file).stem}/{i:03d}.png"
            depth = np.full((60, 80), 2000 + i, np.uint16)
            depth[1, 2] = 0
            write_png(folder / name, depth)
            rows = [[10.5 + j, 20.25 + i, 2] for j in range(len(joints))]
            rows[1] = [0, 0, 0]
            images.append({"id": i, "file_name": name, "width": 80, "height": 60})
            annotations.append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "keypoints": [number for row in rows for number in row],
                    "joints_m": [[0.1 * j, 0.2, 2] for j in range(len(joints))],
                    "bbox": [0, 0, 80, 60],
                }
            )
        category = {"id": 1, "name": "person", "keypoints": list(joints)}
        content = {
            "info": {"camera": {"fx": 100, "fy": 101, "cx": 40, "cy": 30}},
            "categories": [{**category, "skeleton": []}],
            "images": images,
            "annotations": annotations,
        }
        (folder / file).write_text(json.dumps(content))
    return content
