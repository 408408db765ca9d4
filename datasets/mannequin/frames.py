"""One frame of the data set from its number: person, room, pose, rays, sensor.

A frame depends on (seed, split, index) alone, so that any number of processes can
share the work.
"""

import dataclasses
import functools

import mujoco
import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16

from cmbjax.camera import ITOP_CAMERA, camera_to_pixels
from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import BODY15
from datasets.simulation import body, poses, room
from datasets.simulation import structured_light as sensor
from datasets.simulation.anatomy import HAIR
from datasets.simulation.posing import strike_free
from datasets.simulation.shape import Shape, sample_shape

HEIGHT, WIDTH = 240, 320
FRAMES_PER_BODY = 10

# How far before the joint's centre ITOP's label lies, metres along the line of sight:
# its hands and elbows lie on the surface, its head and torso well behind it.
TOWARDS_CAMERA = {
    "shoulder": 0.058,
    "elbow": 0.054,
    "hand": 0.039,
    "hip": 0.024,
    "knee": 0.031,
    "foot": 0.02,
    "torso": 0.026,
    "neck": 0.03,
    "head": 0.0,
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """A labelled depth frame.

    Attributes:
        depth_mm: Millimetres, 0 = no reading.
        parts: 0 background, 1 + i for a pixel of joint i's part of the body.
        joints_m: Metres, camera frame.
        joints_px: Pixels.
        visible: Which joints lie inside the image.
        subject: The person's name.
    """

    depth_mm: UInt16[np.ndarray, "height width"]
    parts: UInt8[np.ndarray, "height width"]
    joints_m: Float[np.ndarray, "joints xyz=3"]
    joints_px: Float[np.ndarray, "joints xy=2"]
    visible: Bool[np.ndarray, " joints"]
    subject: str


def make_frame(seed: int, split: str, index: int) -> Frame:
    """Returns frame `index` of a split; ten in a row show one person.

    Args:
        seed: Of everything.
        split: A name in `SPLITS`.
        index: Of the frame.
    """
    number = index // FRAMES_PER_BODY
    rng = np.random.default_rng([seed, SPLITS.index(split), 1, index])
    model, data, view = sample_scene(person_shape(seed, split, number), rng)
    noise = sensor.sample_noise(rng)
    return take_frame(model, data, view, noise, f"{split}_{number:04d}", rng)


def take_frame(
    model, data, view: room.View, noise: sensor.Noise, subject: str, rng
) -> Frame:
    """Returns what the camera sees of a scene, with its labels.

    Args:
        model: Person and room.
        data: The person's pose.
        view: Where the camera is.
        noise: The sensor.
        subject: The person's name.
        rng: Source of the noise.
    """
    exact, labels = cast_rays(model, data, view)
    parts = np.where(labels == HAIR, 1, labels)
    parts = np.where(parts <= BODY15.num_joints, parts, 0).astype(np.uint8)
    dark = (labels == HAIR) | (labels == room.DARK)
    depth_mm = sensor.measure(exact, dark, noise, float(ITOP_CAMERA[0]), rng)
    joints_m = locate_joints(model, data, view)
    joints_px = camera_to_pixels(joints_m, ITOP_CAMERA)
    x, y = joints_px.T
    visible = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    return Frame(depth_mm, parts, joints_m, joints_px, visible, subject)


def person_shape(seed: int, split: str, number: int) -> Shape:
    """Returns the proportions of a person of a split."""
    key = [seed, SPLITS.index(split), 0, number]
    return sample_shape(np.random.default_rng(key))


def sample_scene(
    shape: Shape, rng: np.random.Generator
) -> tuple[mujoco.MjModel, mujoco.MjData, room.View]:
    """Draws rooms and poses until nothing sinks into anything."""
    families = poses.sample_families(rng)
    while True:
        model, data, view = sample_room(shape, rng)
        draw = functools.partial(poses.sample_pose, rng, families)
        if strike_free(model, data, view, draw) is not None:
            return model, data, view


def sample_room(
    shape: Shape, rng: np.random.Generator
) -> tuple[mujoco.MjModel, mujoco.MjData, room.View]:
    """Draws a room, with the person in it."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.nuser_geom = 1
    body.add_person(spec, shape)
    view = room.sample_view(rng, stature=1.93 * shape.size)
    room.add_room(spec, view, rng)
    model = spec.compile()
    return model, mujoco.MjData(model), view


def cast_rays(
    model, data, view: room.View
) -> tuple[
    Float[np.ndarray, "height width"],
    UInt8[np.ndarray, "height width"],
]:
    """Returns depth along the optical axis, metres, and each pixel's geom label."""
    fx, fy, cx, cy = ITOP_CAMERA.astype(float)
    x, y = (np.arange(WIDTH) + 0.5 - cx) / fx, (np.arange(HEIGHT) + 0.5 - cy) / fy
    right, down, forward = view.rotation.T
    rays = x[None, :, None] * right + y[:, None, None] * down + forward
    count = HEIGHT * WIDTH
    geoms, depth = np.empty(count, np.int32), np.empty(count)
    origin = np.array([0, 0, view.height])
    mujoco.mj_multiRay(
        model, data, origin, rays.ravel(), None, 1, -1, geoms, depth, None, count, 50.0
    )
    labels = np.where(geoms >= 0, model.geom_user[geoms, 0], 0).astype(np.uint8)
    return depth.reshape(HEIGHT, WIDTH), labels.reshape(HEIGHT, WIDTH)


def locate_joints(model, data, view: room.View) -> Float[np.ndarray, "joints xyz=3"]:
    """Returns ITOP's joints, metres, in the camera frame."""
    at = {model.site(i).name: data.site_xpos[i] for i in range(model.nsite)}
    at["neck"] = (at["right_shoulder"] + at["left_shoulder"]) / 2
    at["torso"] = at["neck"] / 2 + (at["right_hip"] + at["left_hip"]) / 4
    world = np.stack([at[joint] for joint in BODY15.joints])
    centres = (world - (0, 0, view.height)) @ view.rotation
    kinds = [joint.split("_")[-1] for joint in BODY15.joints]
    step = np.array([TOWARDS_CAMERA[kind] for kind in kinds])
    distance = np.linalg.norm(centres, axis=1)
    return (centres * (1 - step / distance)[:, None]).astype(np.float32)
