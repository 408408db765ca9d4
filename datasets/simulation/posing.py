"""A person of capsules in a room: put into a pose, and held against what it touches."""

from collections.abc import Callable

import mujoco
import numpy as np

from datasets.simulation import room

POSE_TRIES, SINK_M = 20, 0.03  # parts may sink this far into one another, as flesh does
STAY = (0.0, 0.0, 0.0)
Struck = tuple[np.ndarray, ...]  # hinges and lean


def strike(
    model, data, view: room.View, hinges: np.ndarray, lean: np.ndarray, step=STAY
) -> None:
    """Puts the person into a pose, the lowest point on the floor.

    Args:
        model: Person and room.
        data: Written: qpos, kinematics and contacts.
        view: Where the person stands and faces.
        hinges: Radians, in the order of `anatomy.LIMITS`.
        lean: Of the pelvis, forwards and to the person's right, radians.
        step: From the view's place to the right and away from the camera, metres, and
            turned from its yaw, radians.
    """
    right, away, turned = step
    data.qpos[:3] = (*(view.person + (right, away)), 1.0)
    turn, forwards, sideways = np.zeros((3, 4))
    mujoco.mju_axisAngle2Quat(turn, np.array([0.0, 0, 1]), view.yaw + turned)
    mujoco.mju_axisAngle2Quat(forwards, np.array([1.0, 0, 0]), lean[0])
    mujoco.mju_axisAngle2Quat(sideways, np.array([0.0, 1, 0]), -lean[1])
    turned_forwards = np.zeros(4)
    mujoco.mju_mulQuat(turned_forwards, turn, forwards)
    mujoco.mju_mulQuat(data.qpos[3:7], turned_forwards, sideways)
    data.qpos[7:] = hinges
    mujoco.mj_kinematics(model, data)
    data.qpos[2] -= lowest_point(model, data)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_collision(model, data)


def strike_free(
    model, data, view: room.View, draw: Callable[[], Struck]
) -> Struck | None:
    """Strikes poses until one sinks into nothing; returns it, or None after some tries.

    Args:
        model: See `strike`.
        data: See `strike`.
        view: See `strike`.
        draw: Gives hinges and lean of a pose.
    """
    for _ in range(POSE_TRIES):
        pose = draw()
        strike(model, data, view, *pose)
        if deepest_contact(data) < SINK_M:
            return pose
    return None


def lowest_point(model, data) -> float:
    """Returns the height of the person's lowest point, metres."""
    person = model.geom_bodyid > 0
    size, up = model.geom_size[person], data.geom_xmat[person][:, 6:9]
    capsule = model.geom_type[person] == mujoco.mjtGeom.mjGEOM_CAPSULE
    reach = np.where(
        capsule,
        size[:, 0] + size[:, 1] * np.abs(up[:, 2]),
        np.linalg.norm(size * up, axis=1),
    )
    return float((data.geom_xpos[person][:, 2] - reach).min())


def deepest_contact(data) -> float:
    """Returns how far one thing sinks into another, metres."""
    return float(-data.contact.dist.min()) if data.ncon else 0.0
