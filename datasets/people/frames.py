"""The frames of one person: bodies and rooms, poses, cameras, rays, sensors, labels.

What is in a frame depends on (seed, split, person, motion capture) alone, so that any
number of processes can share the work, and a stopped one can go on.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from cmbjax.camera import ITOP_CAMERA, camera_to_pixels
from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import Skeleton
from datasets import schema
from datasets.people.figure import Figure, Mesh, Pose
from datasets.people.motion import SEGMENTS, Clip
from datasets.simulation import (
    Sensor,
    active_stereo,
    body,
    poses,
    room,
    structured_light,
    time_of_flight,
)
from datasets.simulation.posing import strike_free
from datasets.simulation.rasterizer import rasterize
from datasets.simulation.shape import Shape
from datasets.simulation.solids import Solid, about_vertical, box, joined

FRAMES_PER_PERSON = 10
CAPTURED = 0.5  # share of poses from motion capture, where there is some
COMPANY = 0.1  # share of frames with a second person
SITTING = 0.08  # of the poses that are not captured
REST_DIRECTIONS = np.tile([0.0, 0, -1], (len(SEGMENTS), 1))  # of the capsule figure
FIGURE_GROUP = 1  # of the capsule figure's geoms, which rays do not meet

# The hinge of the capsule figure that turns each segment last.
HINGES = {
    "waist": "lumbar_turn",
    "chest": "thoracic_turn",
    "head": "neck_turn",
    "right_upper_arm": "right_shoulder_twist",
    "left_upper_arm": "left_shoulder_twist",
    "right_forearm": "right_elbow_flexion",
    "left_forearm": "left_elbow_flexion",
    "right_hand": "right_wrist_flexion",
    "left_hand": "left_wrist_flexion",
    "right_thigh": "right_hip_rotation",
    "left_thigh": "left_hip_rotation",
    "right_shin": "right_knee_flexion",
    "left_shin": "left_knee_flexion",
    "right_foot": "right_ankle_flexion",
    "left_foot": "left_ankle_flexion",
}

# How far before the bone ITOP's label lies, metres along the line of sight.
TOWARDS_CAMERA = {
    "shoulder": 0.061,
    "elbow": 0.057,
    "hand": 0.04,
    "wrist": 0.045,
    "hip": 0.052,
    "knee": 0.029,
    "foot": 0.026,
    "torso": 0.058,
    "neck": 0.047,
    "head": -0.009,
    "spine": 0.05,
    "centre": 0.055,
}


class Camera(NamedTuple):
    """A depth camera.

    Attributes:
        width: Pixels.
        height: Pixels.
        focal: Pixels.
        centre: Of the picture, pixels.
        sensor: A name in `SENSORS`.
    """

    width: int
    height: int
    focal: float
    centre: tuple[float, float]
    sensor: str

    @property
    def intrinsics(self) -> Float[np.ndarray, "fx_fy_cx_cy=4"]:
        """Returns [fx, fy, cx, cy], pixels."""
        return np.array([self.focal, self.focal, *self.centre], np.float32)


SENSORS: dict[str, Sensor] = {
    "structured light": structured_light,
    "time of flight": time_of_flight,
    "active stereo": active_stereo,
}
KINECT_1 = Camera(320, 240, float(ITOP_CAMERA[0]), (160.5, 120.5), "structured light")
KINECT_2 = Camera(256, 212, 182.8, (128.0, 106.0), "time of flight")


def sample_camera(rng: np.random.Generator) -> Camera:
    """Draws a Kinect v1, a Kinect v2 at half its size, or another camera."""
    kind = rng.random()
    if kind < 0.65:
        return KINECT_1
    if kind < 0.85:
        return KINECT_2
    width, height = ((320, 240), (320, 180), (320, 200))[rng.integers(3)]
    focal = width / 2 / np.tan(np.radians(rng.uniform(50, 90)) / 2)
    name = ("structured light", "time of flight")[rng.integers(2)]
    return Camera(width, height, float(focal), (width / 2, height / 2), name)


def sample_view(rng: np.random.Generator, stature: float, camera: Camera) -> room.View:
    """Draws where camera and person stand: ITOP's way, or anywhere from 1 to 5 m.

    Head and hips are in the picture, the feet mostly.
    """
    half = camera.height / 2 / camera.focal
    side = camera.width / 2 / camera.focal
    for _ in range(10_000):
        usual = rng.random() < 0.7
        distance = rng.normal(2.95, 0.4) if usual else rng.uniform(1.0, 5.0)
        view = room.View(
            height=float(rng.normal(1.45, 0.15) if usual else rng.uniform(0.5, 2.3)),
            pitch=float(
                np.radians(rng.normal(3.5, 2.5) if usual else rng.uniform(-15, 30))
            ),
            roll=float(np.radians(rng.normal(0, 1.5))),
            distance=float(np.clip(distance, 1.0, 5.0)),
            column=float(np.clip(rng.normal(0, 0.15), -0.75 * side, 0.75 * side)),
            yaw=sample_yaw(rng),
        )
        slope = np.array([stature, 0.5 * stature, 0.05]) - view.height
        angle = view.pitch + np.arctan(slope / view.distance)
        head, hips, feet = np.tan(np.clip(angle, -1.5, 1.5)) / half
        whole = rng.random() < (0.9 if usual else 0.6)
        if head < 0.95 and hips > -0.5 and (feet > -1 or not whole) and feet < 0:
            return view
    raise AssertionError("a person of any stature is seen from somewhere")


def sample_yaw(rng: np.random.Generator) -> float:
    """Draws which way a person faces: mostly the camera, a third anywhere."""
    kind = rng.random()
    if kind < 0.45:
        return float(np.radians(rng.normal(0, 20)))
    if kind < 0.65:
        return float(np.radians(rng.normal(0, 55)))
    return float(rng.uniform(-np.pi, np.pi))


class Scene(NamedTuple):
    """A room with a pose struck in it.

    Attributes:
        model: The room; perhaps the capsule figure, which is not seen.
        data: Its state.
        view: Where camera and person are.
        pose: In the world.
        sitting: Whether there must be a seat.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    view: room.View
    pose: Pose
    sitting: bool


def sample_scene(
    rng: np.random.Generator, stature: float, camera: Camera, clips: Sequence[Clip]
) -> Scene:
    """Draws a pose, from motion capture or from the families of mannequin's figure."""
    view = sample_view(rng, stature, camera)
    if clips and rng.random() < CAPTURED:
        spec = _room(rng, view)
        model = spec.compile()
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        return Scene(model, data, view, captured(rng, clips, view.yaw), False)
    sitting = rng.random() < SITTING
    families = poses.sample_families(rng)
    if sitting:
        families = poses.Families(families.arms, families.alike, sit, False)
    shape = Shape(size=stature / 1.93)
    while True:
        spec = _room(rng, view)
        body.add_person(spec, shape)
        model = spec.compile()
        data = mujoco.MjData(model)
        draw = functools.partial(poses.sample_pose, rng, families)
        if strike_free(model, data, view, draw) is not None:
            model.geom_group[model.geom_bodyid > 0] = FIGURE_GROUP
            return Scene(model, data, view, struck(model, data), sitting)


def _room(rng: np.random.Generator, view: room.View) -> mujoco.MjSpec:
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.nuser_geom = 1
    room.add_room(spec, view, rng)
    return spec


def sit(rng: np.random.Generator) -> list[dict[str, float]]:
    """Returns the motions of two legs of someone who sits."""
    apart = rng.uniform(0, 20)
    flexion = rng.uniform(75, 100)
    return [
        {
            "hip_flexion": flexion + rng.normal(0, 3),
            "hip_abduction": apart + rng.normal(0, 3),
            "knee_flexion": float(np.clip(flexion + rng.normal(0, 12), 40, 125)),
            "ankle_flexion": float(rng.normal(0, 8)),
        }
        for _ in range(2)
    ]


def captured(rng: np.random.Generator, clips: Sequence[Clip], yaw: float) -> Pose:
    """Draws a recorded pose, turned so that the hips face the way that `yaw` says."""
    clip = clips[int(rng.integers(len(clips)))]
    rotations = clip.rotations[rng.integers(len(clip.rotations))]
    front = rotations[SEGMENTS.index("pelvis")] @ (0.0, -1, 0)
    turn = about_vertical(yaw - np.arctan2(front[0], -front[1]))
    return Pose(turn @ rotations, clip.directions)


def struck(model, data) -> Pose:
    """Returns the capsule figure's pose."""
    bodies = {name: model.joint(hinge).bodyid[0] for name, hinge in HINGES.items()}
    bodies["pelvis"] = model.body("person").id
    rotations = [data.xmat[bodies[name]].reshape(3, 3) for name in SEGMENTS]
    return Pose(np.stack(rotations), REST_DIRECTIONS)


def make_frames(
    figure: Figure,
    clips: Sequence[Clip],
    skeleton: Skeleton,
    seed: int,
    split: str,
    person: int,
    count: int = FRAMES_PER_PERSON,
) -> Iterator[dict[str, object]]:
    """Yields the frames of one person as examples of `schema`.

    Args:
        figure: Draws and poses bodies.
        clips: Motion capture of the split; may be empty.
        skeleton: BODY15 or BODY19.
        seed: Of the data set.
        split: A name in `SPLITS`.
        person: Number of the person in the split.
        count: Frames.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), person])
    body = figure.sample_body(rng)
    stature = figure.stature(body)
    cameras = [sample_camera(rng) for _ in range(count)]
    scenes = [sample_scene(rng, stature, camera, clips) for camera in cameras]
    meshes = figure.pose(body, [scene.pose for scene in scenes])
    for number, (camera, scene, mesh) in enumerate(
        zip(cameras, scenes, meshes, strict=True)
    ):
        placed = mesh.moved((*scene.view.person, 0.0))
        company = []
        if rng.random() < COMPANY:
            companion = meshes[(number + 1) % count]
            company = [companion.moved((*_beside(rng, scene.view), 0.0))]
        if scene.sitting:
            company.append(Mesh.of(seat(rng, placed, scene.view.yaw)))
        depth_mm = _photograph(rng, camera, scene, [placed, *company])
        joints_m = label(placed, scene.view, skeleton)
        joints_px = camera_to_pixels(joints_m, camera.intrinsics)
        x, y = joints_px.T
        yield schema.example(
            depth=depth_mm,
            joints_px=joints_px,
            joints_m=joints_m,
            visible=(x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height),
            camera=camera.intrinsics,
            frame=f"{split}_{person:05d}_{number}",
            subject=f"{split}_{person:05d}",
        )


def _beside(rng: np.random.Generator, view: room.View) -> np.ndarray:
    """Returns where a second person stands: aside, mostly further away."""
    aside = rng.choice([-1, 1]) * rng.uniform(0.55, 1.6)
    return view.person + (aside, rng.uniform(-0.3, 1.0))


def seat(rng: np.random.Generator, mesh: Mesh, yaw: float) -> Solid:
    """Returns a stool or chair under a sitting person."""
    hips, knees = (
        (mesh.joints[f"right_{joint}"] + mesh.joints[f"left_{joint}"]) / 2
        for joint in ("hip", "knee")
    )
    top = min(hips[2], knees[2]) - 0.09
    deep = 0.8 * float(np.linalg.norm((knees - hips)[:2]))
    wide = float(rng.uniform(0.18, 0.3))
    parts = [((-wide, -deep, max(top, 0.05) - 0.06), (wide, 0.15, max(top, 0.05)))]
    if rng.random() < 0.6:
        back = rng.uniform(0.25, 0.65)
        parts.append(((-wide, 0.15, top), (wide, 0.2, top + back)))
    if rng.random() < 0.5:
        parts.append(((-0.9 * wide, -0.8 * deep, 0), (0.9 * wide, 0.1, top - 0.05)))
    solid = joined([box(*corners) for corners in parts]).turned(yaw)
    return solid.moved((hips[0], hips[1], 0))


def cast_rays(
    camera: Camera, view: room.View
) -> tuple[Float[np.ndarray, "xyz=3"], Float[np.ndarray, "rays xyz=3"]]:
    """Returns where the rays of a picture begin, and where they go, row by row."""
    fx, fy, cx, cy = camera.intrinsics.astype(float)
    x = (np.arange(camera.width) + 0.5 - cx) / fx
    y = (np.arange(camera.height) + 0.5 - cy) / fy
    right, down, forward = view.rotation.T
    # Not of unit length: a ray's parameter is then the depth along the optical axis.
    rays = x[None, :, None] * right + y[:, None, None] * down + forward
    return np.array([0, 0, view.height]), rays.reshape(-1, 3)


def _photograph(
    rng: np.random.Generator, camera: Camera, scene: Scene, meshes: Sequence[Mesh]
) -> np.ndarray:
    """Returns what the camera's sensor measures of the room and everyone in it."""
    origin, rays = cast_rays(camera, scene.view)
    room_depth, room_dark = _see_room(scene, origin, rays)
    body_depth, body_dark, _ = see_meshes(meshes, camera, scene.view)
    shape = (camera.height, camera.width)
    room_depth, room_dark = room_depth.reshape(shape), room_dark.reshape(shape)
    nearer = body_depth < room_depth
    exact = np.where(nearer, body_depth, room_depth)
    dark = np.where(nearer, body_dark, room_dark)
    kind = SENSORS[camera.sensor]
    return kind.measure(exact, dark, kind.sample_noise(rng), camera.focal, rng)


def _see_room(
    scene: Scene, origin: np.ndarray, rays: Float[np.ndarray, "rays xyz=3"]
) -> tuple[Float[np.ndarray, " rays"], Bool[np.ndarray, " rays"]]:
    count = len(rays)
    geoms, depth = np.empty(count, np.int32), np.empty(count)
    groups = np.array([g != FIGURE_GROUP for g in range(mujoco.mjNGROUP)], np.uint8)
    mujoco.mj_multiRay(
        scene.model,
        scene.data,
        origin,
        rays.ravel(),
        groups,
        1,
        -1,
        geoms,
        depth,
        None,
        count,
        50.0,
    )
    labels = np.where(geoms >= 0, scene.model.geom_user[geoms, 0], 0)
    return np.where(geoms >= 0, depth, np.inf), labels == room.DARK


def see_meshes(
    meshes: Sequence[Mesh], camera: Camera, view: room.View
) -> tuple[
    Float[np.ndarray, "height width"],
    Bool[np.ndarray, "height width"],
    Int[np.ndarray, "height width"],
]:
    """Returns depth (infinity: nothing), what is dark, and which mesh it is, or -1."""
    firsts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    world = np.concatenate([mesh.vertices for mesh in meshes])
    faces = [
        mesh.faces + first for mesh, first in zip(meshes, firsts[:-1], strict=True)
    ]
    # Of each face its mesh and whether it is dark, in one number.
    codes = [2 * number + mesh.dark for number, mesh in enumerate(meshes)]
    depth, found = rasterize(
        (world - (0, 0, view.height)) @ view.rotation,
        np.concatenate(faces),
        np.concatenate(codes).astype(np.int32),
        width=camera.width,
        height=camera.height,
        focal=camera.focal,
        centre=camera.centre,
    )
    return depth, (found >= 0) & (found % 2 == 1), found // 2


def label(
    mesh: Mesh, view: room.View, skeleton: Skeleton, *, towards_camera: bool = True
) -> Float[np.ndarray, "joints xyz=3"]:
    """Returns the joints, metres, in the camera frame.

    Args:
        mesh: The body.
        view: Of the camera.
        skeleton: Which joints.
        towards_camera: Whether before the bones, where ITOP's labels lie as its side
            view sees them, or in the middle of the limbs.
    """
    world = np.stack([mesh.joints[joint] for joint in skeleton.joints])
    centres = (world - (0, 0, view.height)) @ view.rotation
    kinds = [joint.split("_")[-1] for joint in skeleton.joints]
    step = np.array([TOWARDS_CAMERA[kind] for kind in kinds]) * towards_camera
    distance = np.linalg.norm(centres, axis=1)
    return (centres * (1 - step / distance)[:, None]).astype(np.float32)
