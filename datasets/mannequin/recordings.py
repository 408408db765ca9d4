"""One frame of a recording: a person moves in a room before a camera that stands still.

A recording takes ten frames a second. Its frames show the same person, room and sensor;
pose and noise are their own. A frame depends on (seed, split, index, length) alone, as
in `frames`.
"""

import dataclasses
import functools

import mujoco
import numpy as np

from cmbjax.data.flags import SPLITS
from datasets.mannequin.frames import Frame, person_shape, sample_room, take_frame
from datasets.simulation import poses, room
from datasets.simulation import structured_light as sensor
from datasets.simulation.posing import (
    POSE_TRIES,
    SINK_M,
    deepest_contact,
    strike,
    strike_free,
)
from datasets.simulation.shape import Shape

MOVE_FRAMES = 5, 8  # from one key pose to the next, at least and at most
OTHER_FAMILIES = 0.4  # share of moves after which the person does something else
# Standard deviation of the key poses' `step`, see `strike`: metres, metres, radians.
STEP = 0.04, 0.04, 0.14
# On the way parts may sink deeper than at its ends: limbs would brush past each other.
SINK_ON_THE_WAY_M = 2 * SINK_M

Pose = tuple[np.ndarray, ...]  # hinges, lean and step, see `strike`


@dataclasses.dataclass(frozen=True)
class Recording:
    """What the frames of a recording share, and their poses.

    Attributes:
        model: Person and room.
        data: Holds the pose that was struck last.
        view: Where the camera is.
        noise: The sensor.
        course: The pose of each frame.
    """

    model: mujoco.MjModel
    data: mujoco.MjData
    view: room.View
    noise: sensor.Noise
    course: list[Pose]


def make_frame(seed: int, split: str, index: int, length: int) -> Frame:
    """Returns frame `index` of a split; `length` in a row are a recording.

    Args:
        seed: Of everything.
        split: A name in `frames.SPLITS`.
        index: Of the frame.
        length: Frames of a recording.
    """
    number, phase = divmod(index, length)
    scene = make_recording(seed, split, number, length)
    strike(scene.model, scene.data, scene.view, *scene.course[phase])
    rng = np.random.default_rng([seed, SPLITS.index(split), 1, index])
    subject = f"{split}_{number:04d}"
    return take_frame(scene.model, scene.data, scene.view, scene.noise, subject, rng)


@functools.lru_cache(maxsize=1)  # its frames are mostly made one after the other
def make_recording(seed: int, split: str, number: int, length: int) -> Recording:
    """Returns a recording of a split, which begins anywhere in a move."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 2, number])
    model, data, view, families, pose = _sample_start(
        person_shape(seed, split, number), rng
    )
    noise, start = sensor.sample_noise(rng), rng.integers(MOVE_FRAMES[1])
    course = [pose]
    while len(course) < start + length:
        if rng.random() < OTHER_FAMILIES:
            families = poses.sample_families(rng)
        course += sample_move(model, data, view, course[-1], families, rng)
    return Recording(model, data, view, noise, course[start : start + length])


def _sample_start(
    shape: Shape, rng: np.random.Generator
) -> tuple[mujoco.MjModel, mujoco.MjData, room.View, poses.Families, Pose]:
    """Draws rooms and key poses until nothing sinks into anything."""
    families = poses.sample_families(rng)
    while True:
        model, data, view = sample_room(shape, rng)
        draw = functools.partial(_sample_key_pose, families, rng)
        pose = strike_free(model, data, view, draw)
        if pose is not None:
            return model, data, view, families, pose


def _sample_key_pose(families: poses.Families, rng: np.random.Generator) -> Pose:
    return *poses.sample_pose(rng, families), rng.normal(0, STEP)


def sample_move(
    model, data, view: room.View, pose: Pose, families: poses.Families, rng
) -> list[Pose]:
    """Draws the way from a pose to another; the person rests where no way is free."""
    frames = int(rng.integers(MOVE_FRAMES[0], MOVE_FRAMES[1] + 1))
    for _ in range(POSE_TRIES):
        way = move_between(pose, _sample_key_pose(families, rng), frames)
        if _is_free(model, data, view, way):
            return way
    return [pose] * frames


def move_between(pose: Pose, aim: Pose, frames: int) -> list[Pose]:
    """Returns the poses after `pose` until `aim`, with the least jerk.

    Flash and Hogan, The coordination of arm movements, J. Neurosci. 1985.
    """
    t = np.arange(1, frames + 1) / frames
    return [
        tuple(a + share * (b - a) for a, b in zip(pose, aim, strict=True))
        for share in t**3 * (10 - 15 * t + 6 * t**2)
    ]


def _is_free(model, data, view: room.View, way: list[Pose]) -> bool:
    limits = [SINK_ON_THE_WAY_M] * (len(way) - 1) + [SINK_M]
    for pose, limit in zip(way, limits, strict=True):
        strike(model, data, view, *pose)
        if deepest_contact(data) >= limit:
            return False
    return True
