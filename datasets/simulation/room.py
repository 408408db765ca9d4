"""The room: where camera and person stand, walls, furniture and clutter.

World frame: x right, y away from the camera, z up, metres; the camera is above the
origin, the floor at z = 0.
"""

import dataclasses

import mujoco
import numpy as np

from datasets.simulation.anatomy import CLUTTER_BIT, NOBODY

BOX = mujoco.mjtGeom.mjGEOM_BOX
KINDS = (BOX, BOX, mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID)
DARK = 99  # label of clutter that reflects too little


@dataclasses.dataclass(frozen=True)
class View:
    """Camera and person.

    Attributes:
        height: Of the camera, metres.
        pitch: Of the camera, downwards positive, radians.
        roll: Of the camera, radians.
        distance: From the camera to the person over the floor, metres.
        column: Of the person's pelvis, in focal lengths to the right.
        yaw: Of the person, 0 towards the camera, radians.
    """

    height: float
    pitch: float
    roll: float
    distance: float
    column: float
    yaw: float

    @property
    def rotation(self) -> np.ndarray:
        """Columns: the camera's right, down and forward axes in the world."""
        sin, cos = np.sin(self.pitch), np.cos(self.pitch)
        level = np.array([[1, 0, 0], [0, -sin, cos], [0, -cos, -sin]])
        sin, cos = np.sin(self.roll), np.cos(self.roll)
        return level @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    @property
    def person(self) -> np.ndarray:
        """Where the person stands on the floor, x and y."""
        return self.distance * np.array([self.column, 1.0])


def sample_view(rng: np.random.Generator, stature: float) -> View:
    """Draws a view in which a standing person's head and pelvis are in the picture."""
    while True:
        usual = rng.random() < 0.7
        distance = rng.normal(2.95, 0.35)
        view = View(
            height=float(rng.normal(1.45, 0.13) if usual else rng.uniform(0.8, 1.9)),
            pitch=float(
                np.radians(rng.normal(3.5, 2.5) if usual else rng.uniform(-12, 13))
            ),
            roll=float(np.radians(rng.normal(0, 1.2))),
            distance=float(np.clip(distance, 1.9, 3.8)),
            column=float(np.clip(rng.normal(0, 0.13), -0.46, 0.46)),
            yaw=_sample_yaw(rng),
        )
        slope = np.array([stature, 0.52 * stature, 0.05]) - view.height
        row = np.tan(view.pitch + np.arctan(slope / view.distance))
        lowest = -0.42 if rng.random() < 0.9 else -0.6  # of the picture; or below it
        if row[0] < 0.40 and row[1] > -0.2 and lowest < row[2] < -0.2:
            return view


def _sample_yaw(rng: np.random.Generator) -> float:
    kind = rng.random()
    if kind < 0.65:
        return float(np.radians(rng.normal(0, 20)))
    return float(np.radians(np.clip(rng.normal(0, 50), -95, 95)))


@dataclasses.dataclass
class Room:
    """A model that fixed things are added to."""

    spec: mujoco.MjSpec

    def add(self, kind, size, at, yaw=0.0, label=0, bit=0):
        """Adds a thing of MuJoCo's `size` that is turned about the vertical."""
        self.spec.worldbody.add_geom(
            type=kind,
            size=size,
            pos=at,
            quat=[np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)],
            userdata=[label],
            contype=bit,
            conaffinity=NOBODY,
        )


def add_room(spec: mujoco.MjSpec, view: View, rng: np.random.Generator) -> None:
    """Adds floor, walls and clutter that leave the person's place free."""
    room = Room(spec)
    back = max(rng.uniform(3.4, 5.0), view.distance + rng.uniform(0.5, 1.2))
    left, right = -rng.uniform(1.2, 3.5), rng.uniform(1.2, 3.5)
    left = min(left, view.person[0] - 0.9)
    right = max(right, view.person[0] + 0.9)
    ceiling, turn = rng.uniform(2.3, 3.2), rng.normal(0, 0.06)
    room.add(BOX, (8, 8, 0.1), (0, 4, -0.1))
    room.add(BOX, (8, 8, 0.1), (0, 4, ceiling + 0.1))
    room.add(BOX, (8, 0.1, 3), (0, back + 0.1, 2), turn)
    room.add(BOX, (0.1, 8, 3), (left - 0.1, 4, 2))
    room.add(BOX, (0.1, 8, 3), (right + 0.1, 4, 2))
    _add_wall_relief(room, back, ceiling, rng)
    _add_side_relief(room, left, right, back, rng)
    _add_clutter(room, view, back, rng)


def _add_wall_relief(room: Room, back: float, ceiling: float, rng) -> None:
    """Lintels, cupboards and panels on the wall behind the person."""
    for _ in range(rng.integers(0, 5)):
        deep = rng.uniform(0.02, 0.2)
        if rng.random() < 0.4:  # from one side to the other
            z = rng.choice([rng.uniform(0, 0.4), rng.uniform(1.8, ceiling)])
            room.add(BOX, (6, deep, rng.uniform(0.1, 0.5)), (0, back, z))
        else:
            size = (rng.uniform(0.1, 0.7), deep, rng.uniform(0.2, 1.2))
            room.add(BOX, size, (rng.uniform(-2, 2), back, rng.uniform(0, 2)))


def _add_side_relief(room: Room, left: float, right: float, back: float, rng) -> None:
    """Curtains and shelves: bumps along the side walls."""
    for wall, sign in ((left, 1), (right, -1)):
        for _ in range(rng.integers(0, 8)):
            size = rng.uniform((0.03, 0.05, 0.05), (0.25, 0.4, 0.5))
            at = (wall, rng.uniform(1.5, back), rng.uniform(0, 2.2))
            room.add(KINDS[rng.integers(4)], size, at, sign * rng.normal(0, 0.3))


def _add_clutter(room: Room, view: View, back: float, rng) -> None:
    """Things on the floor, on tables and in the air, beside the line of sight."""
    near = rng.random() < 0.25
    for _ in range(rng.poisson(5.0)):
        size = rng.uniform((0.04, 0.04, 0.04), (0.4, 0.4, 0.5))
        y = rng.uniform(1.0, back)
        x = rng.uniform(-0.65, 0.65) * y
        radius = float(np.hypot(size[0], size[1]))
        gap = view.person - (x, y)
        # A person reaches 0.9 m far; what stands before the person hides it.
        hides = y < view.distance and abs(x / y - view.column) * y < 0.25 + radius
        if np.hypot(*gap) < radius + (0.3 if near else 0.8) or (hides and not near):
            continue
        if hides and rng.random() < 0.7:
            continue
        floats = rng.random() < 0.25
        z = rng.uniform(0.4, 1.8) if floats else size[2]
        label = DARK if rng.random() < 0.4 else 0
        kind = KINDS[rng.integers(4)]
        room.add(kind, size, (x, y, z), rng.uniform(0, np.pi), label, CLUTTER_BIT)
