"""Whole frames: rooms and furniture, up to five people, any camera in any place.

What is in a frame depends on (seed, split, group, motion capture) alone.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import Skeleton
from datasets import schema
from datasets.crowd import furniture, labels
from datasets.people import frames as people
from datasets.people.figure import Figure, Mesh, Pose
from datasets.people.motion import Clip
from datasets.simulation import body, poses, room
from datasets.simulation.posing import strike_free
from datasets.simulation.shape import Shape
from datasets.simulation.solids import Solid, about_vertical, box, joined, sheet

FRAMES_PER_GROUP = 40
BODIES, POSES = 3, 8  # of a group: who is drawn from for each frame
FEW = (0.22, 0.38, 0.2, 0.1, 0.05, 0.05)  # odds of 0 to 5 people
MANY = (0.0, 0.0, 0.0, 0.0, 0.0, *6 * (1 / 6,))  # of 5 to 10
NOWHERE = 100.0  # metres: what is outside of every window
LYING, HOLDING = 0.06, 0.1  # shares of people
BEHIND = 0.2  # metres from the surface to a joint that is not hidden, as by an arm
NEAREST_M = 0.05  # a joint that is no further away has no place in the picture
LEAST_PIXELS = 40  # a person of whom less is seen is not there
STANDING_STILL = room.View(1.5, 0.0, 0.0, 3.0, 0.0, 0.0)
# Where a camera is: odds, height above the floor, pitch (degrees, downwards).
Mountings = dict[str, tuple[float, tuple[float, float], tuple[float, float]]]
ANYWHERE: Mountings = {
    "level": (0.52, (0.5, 2.0), (-12, 18)),
    "oblique": (0.2, (1.8, 3.0), (20, 60)),
    "from above": (0.12, (2.1, 3.5), (75, 100)),
    "near": (0.16, (0.6, 1.8), (-15, 25)),
}
ABOVE: Mountings = {"from above": (1.0, (2.1, 3.5), (70, 105))}
BENEATH = 0.6  # share of people under a camera who are close to its axis
STEEP = 1.2  # radians of pitch from which on a camera is above people
# Other cameras than the Kinects v1 and v2, and the odds of each: an Azure Kinect of
# narrow view, RealSense D435 and D415, at half or a quarter of their pixels.
MORE_CAMERAS = (
    (0.25, people.Camera(320, 288, 252.0, (160.0, 144.0), "time of flight")),
    (0.5, people.Camera(320, 180, 168.6, (160.0, 90.0), "active stereo")),
    (0.25, people.Camera(320, 180, 251.0, (160.0, 90.0), "active stereo")),
)


class Posed(NamedTuple):
    """A body in a pose, facing the camera.

    Attributes:
        mesh: The hips above the origin.
        sitting: Whether there must be a seat.
    """

    mesh: Mesh
    sitting: bool


def sample_camera(rng: np.random.Generator) -> people.Camera:
    """Draws a camera of one of many makes, one in eight of them upright."""
    camera = people.sample_camera(rng)
    kind = rng.random()
    if kind < 0.2:
        odds = [share for share, _ in MORE_CAMERAS]
        _, camera = MORE_CAMERAS[int(rng.choice(len(odds), p=odds))]
    elif kind < 0.6:
        width, height = ((320, 240), (320, 180), (320, 200), (256, 256))[
            rng.integers(4)
        ]
        focal = width / 2 / np.tan(np.radians(rng.uniform(48, 100)) / 2)
        centre = (width / 2, height / 2)
        sensor = list(people.SENSORS)[int(rng.integers(len(people.SENSORS)))]
        camera = people.Camera(width, height, float(focal), centre, sensor)
    if rng.random() < 0.12:
        camera = camera._replace(
            width=camera.height, height=camera.width, centre=camera.centre[::-1]
        )
    return camera


def sample_view(
    rng: np.random.Generator, mountings: Mountings
) -> tuple[str, room.View]:
    """Draws how a camera is mounted, and turned about its axis."""
    odds = [odds for odds, *_ in mountings.values()]
    name = list(mountings)[int(rng.choice(len(odds), p=odds))]
    _, heights, pitches = mountings[name]
    roll = rng.normal(0, 3)
    if rng.random() < 0.35:
        roll += rng.choice([90, 180, 270])
    elif rng.random() < 0.08 or name == "from above":
        roll = rng.uniform(-180, 180)
    return name, room.View(
        height=float(rng.uniform(*heights)),
        pitch=float(np.radians(rng.uniform(*pitches))),
        roll=float(np.radians(roll)),
        distance=0.0,
        column=0.0,
        yaw=0.0,
    )


def make_frames(
    figure: Figure,
    clips: Sequence[Clip],
    skeleton: Skeleton,
    seed: int,
    split: str,
    group: int,
    count: int = FRAMES_PER_GROUP,
    *,
    mountings: Mountings = ANYWHERE,
    odds: Sequence[float] = FEW,
    towards_camera: bool = True,
) -> Iterator[dict[str, object]]:
    """Yields the frames of one group of people as examples of `Crowd`.

    The arguments are those of `people.frames.make_frames`, of a group in place of a
    person; `mountings` say where cameras are, `odds` how many people are in a frame,
    and `towards_camera` where labels lie, as in `people.frames.label`.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), group])
    pool = [posed for _ in range(BODIES) for posed in sample_people(rng, figure, clips)]
    for number in range(count):
        name = f"{split}_{group:05d}_{number:02d}"
        yield make_frame(rng, pool, skeleton, name, mountings, odds, towards_camera)


def sample_people(
    rng: np.random.Generator, figure: Figure, clips: Sequence[Clip]
) -> list[Posed]:
    """Draws a body in several poses."""
    person = figure.sample_body(rng)
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.nuser_geom = 1
    body.add_person(spec, Shape(size=figure.stature(person) / 1.93))
    model = spec.compile()
    data = mujoco.MjData(model)
    drawn: list[tuple[Pose, bool]] = []
    while len(drawn) < POSES:
        sitting = rng.random() < 0.15
        if clips and not sitting and rng.random() < people.CAPTURED:
            drawn.append((people.captured(rng, clips, 0.0), False))
            continue
        families = poses.sample_families(rng)
        if sitting:
            families = poses.Families(families.arms, families.alike, people.sit, False)
        draw = functools.partial(poses.sample_pose, rng, families)
        if strike_free(model, data, STANDING_STILL, draw) is not None:
            drawn.append((people.struck(model, data), sitting))
    meshes = figure.pose(person, [pose for pose, _ in drawn])
    return [
        Posed(mesh, sitting) for mesh, (_, sitting) in zip(meshes, drawn, strict=True)
    ]


def make_frame(
    rng: np.random.Generator,
    pool: Sequence[Posed],
    skeleton: Skeleton,
    name: str,
    mountings: Mountings,
    odds: Sequence[float] = FEW,
    towards_camera: bool = True,
) -> dict[str, object]:
    """Returns a frame: camera, people, then the room around them."""
    camera = sample_camera(rng)
    mounting, view = sample_view(rng, mountings)
    bodies: list[Mesh] = []
    things: list[Solid] = []
    for index in range(int(rng.choice(len(odds), p=odds))):
        posed = pool[int(rng.integers(len(pool)))]
        yaw = people.sample_yaw(rng)
        is_first = mounting == "near" and index == 0
        place = _before(rng) if is_first else _somewhere(rng, camera, view, bodies)
        if place is None:
            continue
        mesh = posed.mesh.turned(about_vertical(yaw))
        if posed.sitting:
            things.append(people.seat(rng, mesh, yaw).moved((*place, 0)))
        elif rng.random() < LYING:
            mesh = _lying(rng, posed.mesh, things, place)
        mesh = mesh.moved((*place, 0.0))
        if is_first:
            high = mesh.joints["head"][2] + rng.uniform(-0.35, 0.2)
            view = dataclasses.replace(view, height=float(max(0.3, high)))
        if rng.random() < HOLDING:
            mesh = _with(mesh, _held(rng, mesh))
        bodies.append(mesh)
    things += sample_room(rng, view, bodies)
    return _example(
        rng, camera, view, bodies, joined(things), skeleton, name, towards_camera
    )


def _before(rng: np.random.Generator) -> np.ndarray | None:
    """Returns the place of someone close to the camera."""
    distance = rng.uniform(0.45, 1.3)
    return distance * np.array([rng.normal(0, 0.15), 1.0])


def _somewhere(
    rng: np.random.Generator,
    camera: people.Camera,
    view: room.View,
    bodies: Sequence[Mesh],
) -> np.ndarray | None:
    """Returns a free place in the picture or at its edge, or None if there is none."""
    half = np.array([camera.width, camera.height]) / 2 / camera.focal
    whole = rng.random() < 0.65
    for _ in range(60):
        kind = rng.random()
        if bodies and kind < 0.35:  # next to somebody, touching or overlapping
            hips = bodies[int(rng.integers(len(bodies)))].joints["hip_centre"][:2]
            angle = rng.uniform(-np.pi, np.pi)
            turn = np.array([np.cos(angle), np.sin(angle)])
            place = hips + rng.uniform(0.35, 0.8) * turn
        elif view.pitch > STEEP and kind > 1 - 0.65 * BENEATH:
            place = rng.normal(0, 0.4, 2)
        elif view.pitch > STEEP:
            place = rng.uniform(-3.0, 3.0, 2)
        else:
            distance = 0.6 * np.exp(rng.uniform(0, np.log(6.5 / 0.6)))
            place = distance * np.array([rng.uniform(-1.3, 1.3), 1.0])
        # A part of the person is in the picture; of most, head and knees.
        heights = (1.55, 0.5) if whole else (rng.uniform(0.5, 1.5),)
        points = np.array([[*place, height - view.height] for height in heights])
        x, y, z = (points @ view.rotation).T
        if z.min() < 0.4 or np.linalg.norm(points, axis=1).max() > 7:
            continue
        if (np.abs(np.stack([x / z, y / z], axis=1)) > half).any():
            continue
        apart = [
            np.linalg.norm(mesh.joints["hip_centre"][:2] - place) for mesh in bodies
        ]
        if all(distance > 0.33 for distance in apart):
            return place
    return None


def _lying(
    rng: np.random.Generator, mesh: Mesh, things: list[Solid], place: np.ndarray
) -> Mesh:
    """Returns a person lying on the floor, or on a bed that is added to the things."""
    tilt, around = rng.choice([-1, 1]) * np.pi / 2, rng.uniform(-np.pi, np.pi)
    sin, cos = np.sin(tilt), np.cos(tilt)
    back = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    side = about_vertical(rng.choice([0, 0, 0.5 * np.pi, -0.5 * np.pi]))
    lying = mesh.turned(about_vertical(around) @ back @ side)
    middle = lying.vertices[:, :2].mean(axis=0)
    high = rng.uniform(0.2, 0.7) if rng.random() < 0.5 else 0.0
    if high:
        bed = box((-0.5, -1.05, 0), (0.5, 1.05, high))
        things.append(bed.turned(around).moved((*place, 0)))
    return lying.moved((*-middle, high))


def _held(rng: np.random.Generator, mesh: Mesh) -> Solid:
    """Returns a box, board or cloth before someone's chest."""
    hands = (mesh.joints["right_hand"] + mesh.joints["left_hand"]) / 2
    chest = mesh.joints["upper_spine"]
    ahead = hands - chest
    ahead[2] = 0
    length = np.linalg.norm(ahead)
    ahead = ahead / length if length > 0.1 else np.array([0.0, -1, 0])
    at = chest + ahead * max(length, rng.uniform(0.22, 0.35))
    at[2] = rng.uniform(min(hands[2], chest[2]), max(hands[2], chest[2]))
    turn = np.arctan2(ahead[0], -ahead[1])
    if rng.random() < 0.5:
        waves = 0.02 * np.sin(np.arange(12) * rng.uniform(0.3, 1.5))
        solid = sheet(np.tile(waves, (3, 1)), rng.uniform((0.3, 0.3), (0.75, 0.9)))
    else:
        half = rng.uniform((0.1, 0.03, 0.1), (0.3, 0.18, 0.25))
        solid = box(-half, half)
    return solid.turned(-turn).moved(at)


def _with(mesh: Mesh, solid: Solid) -> Mesh:
    """Returns somebody who holds something: it counts as a part of the person."""
    whole = joined([Solid(mesh.vertices, mesh.faces), solid])
    dark = np.concatenate([mesh.dark, np.zeros(len(solid.faces), bool)])
    return mesh._replace(vertices=whole.vertices, faces=whole.faces, dark=dark)


def sample_room(
    rng: np.random.Generator, view: room.View, bodies: Sequence[Mesh]
) -> list[Solid]:
    """Draws floor, walls and furniture that leave the people's places free."""
    places = np.array([mesh.vertices[:, :2].mean(axis=0) for mesh in bodies])
    places = places.reshape(-1, 2)
    solids = [box((-12, -8, -0.1), (12, 14, 0))]
    behind = places[:, 1].max(initial=0.8)
    back = behind + (0.35 if rng.random() < 0.2 else rng.uniform(0.5, 3.5))
    turn = rng.normal(0, 0.15)
    if rng.random() < 0.85:
        wall = [box((-12, 0, 0), (12, 0.1, 4))]
        for _ in range(rng.poisson(2.0)):
            half = rng.uniform((0.1, 0.02, 0.1), (0.9, 0.2, 1.0))
            place = (rng.uniform(-3, 3), 0, rng.uniform(0.2, 2.2))
            wall.append(box(-half, half).moved(place))
        solids.append(joined(wall).turned(turn).moved((0, back, 0)))
    for side in (-1, 1):
        if rng.random() < 0.6:
            edge = (side * places[:, 0]).max(initial=0.5) + rng.uniform(0.4, 2.5)
            x = sorted((side * edge, side * (edge + 0.1)))
            solids.append(box((x[0], -8, 0), (x[1], 14, 4)).turned(rng.normal(0, 0.05)))
    if view.height < 2.3 and rng.random() < 0.8:
        top = rng.uniform(2.4, 3.2)
        solids.append(box((-12, -8, top), (12, 14, top + 0.1)))
    for _ in range(rng.poisson(6.0)):
        thing = furniture.sample(rng)
        reach = float(np.linalg.norm(thing.vertices[:, :2], axis=1).max())
        for _ in range(10):
            if view.pitch > STEEP:
                at = rng.uniform(-2.5, 2.5, 2)
            else:
                distance = rng.uniform(0.8, back + 0.3)
                at = distance * np.array([rng.uniform(-1.0, 1.0), 1.0])
            from_camera = np.hypot(*at)
            gaps = np.linalg.norm(places - at, axis=1)
            if from_camera > reach + 0.5 and (gaps > reach + 0.2).all():
                solids.append(thing.moved((*at, 0)))
                break
    return solids


def _example(
    rng: np.random.Generator,
    camera: people.Camera,
    view: room.View,
    bodies: Sequence[Mesh],
    things: Solid,
    skeleton: Skeleton,
    name: str,
    towards_camera: bool,
) -> dict[str, object]:
    exact, owner, dark = look(camera, view, bodies, things)
    kind = people.SENSORS[camera.sensor]
    depth_mm = kind.measure(exact, dark, kind.sample_noise(rng), camera.focal, rng)
    masks = [owner == number for number in range(len(bodies))]
    seen = [
        labels.label(
            mask,
            exact,
            people.label(mesh, view, skeleton, towards_camera=towards_camera),
            camera,
            nearest_m=NEAREST_M,
            behind_m=BEHIND,
            on_itself=True,
        )
        for mesh, mask in zip(bodies, masks, strict=True)
        if mask.sum() >= LEAST_PIXELS
    ]
    return {
        "depth": schema.encode_png(depth_mm),
        **labels.stacked(seen, labels.fields(skeleton.num_joints)),
        "camera": camera.intrinsics,
        "frame": name,
    }


def look(
    camera: people.Camera, view: room.View, bodies: Sequence[Mesh], things: Solid
) -> tuple[
    Float[np.ndarray, "height width"],
    Int[np.ndarray, "height width"],
    Bool[np.ndarray, "height width"],
]:
    """Returns exact depth (metres, `NOWHERE` where nothing is), whose it is, and dark.

    The owner is a body's number, or -1.
    """
    exact, dark, owner = people.see_meshes([*bodies, Mesh.of(things)], camera, view)
    exact = np.where(np.isfinite(exact), exact, NOWHERE)
    return exact, np.where(owner < len(bodies), owner, -1), dark
