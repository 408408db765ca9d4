"""The frames of one person's hands: arms, cameras, things, sensors, labels.

What is in a frame depends on (seed, split, person) alone. Camera frame: x right, y
down, z forward, metres; a body faces -y with z up.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import Skeleton
from datasets import schema
from datasets.crowd import labels
from datasets.crowd.frames import NOWHERE
from datasets.hands import fingers as finger_poses
from datasets.hands import things
from datasets.hands.fingers import Fingers, Hand
from datasets.people.figure import Body, Figure
from datasets.people.frames import SENSORS, Camera
from datasets.simulation.rasterizer import rasterize
from datasets.simulation.solids import Solid, box, ellipsoid, joined, tube

FRAMES_PER_PERSON = 40
LEAST_PIXELS = 60  # of a hand, for it to be there
BEHIND_M = 0.02  # a joint that is so far behind what is seen there is hidden
NEAREST_M = 0.03  # a joint that is no further away has no place in the picture
TIP_VERTICES = 10  # whose middle is a fingertip
PALM = 0.3  # of the way from the wrist to the middle finger's base: ASTAR's palm
NEAR_M = 0.12  # from which on these sensors read
EDGE_M = 0.03  # a finger before the palm has an edge
LETTERS = {"right": "R", "left": "L"}
ARM = ("lowerarm", "wrist", "metacarpal", "finger")
HAND = ("wrist", "metacarpal", "finger")
NOT_A_HAND = 0  # codes of what is seen; hands have higher ones
CAMERAS = (  # and their odds: ToF and structured light for close range, D4xx
    (0.25, Camera(320, 240, 241.4, (160.0, 120.0), "time of flight")),
    (0.15, Camera(320, 240, 224.5, (160.0, 120.0), "time of flight")),
    (0.25, Camera(320, 240, 288.0, (160.0, 120.0), "structured light")),
    (0.1, Camera(640, 480, 580.0, (320.0, 240.0), "structured light")),
    (0.15, Camera(320, 240, 307.0, (160.0, 120.0), "active stereo")),
    (0.1, Camera(640, 480, 475.0, (320.0, 240.0), "structured light")),
)
ASTAR_CAMERA = CAMERAS[0][1]


class Hands(NamedTuple):
    """What an arm or a body shows, in its own frame.

    Attributes:
        rest: Everything but the hands.
        hands: The mesh of each hand.
        joints: Of each hand, metres, by name.
        sides: right or left, of each.
        held: Things in hands; dark or not.
        wrists: [hands, 2, 3] elbow and wrist of each.
    """

    rest: Solid
    hands: list[Solid]
    joints: list[dict[str, np.ndarray]]
    sides: list[str]
    held: list[tuple[Solid, bool]]
    wrists: np.ndarray


class Arms:
    """anny's arms and hands: which vertices, bones and tips they have."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        owner = figure.owner
        self.hand_faces, self.arm_faces = {}, {}
        self.tips: dict[str, list[np.ndarray]] = {}
        for side, letter in LETTERS.items():
            mine = np.char.endswith(owner, f".{letter}")
            of_hand = mine & _any_start(owner, HAND)
            of_arm = mine & _any_start(owner, ARM)
            in_hand = of_hand[figure.faces].any(axis=1)
            self.hand_faces[side] = in_hand
            self.arm_faces[side] = of_arm[figure.faces].all(axis=1) & ~in_hand
            heads = figure.template
            self.tips[side] = []
            for finger in range(1, 6):
                last = np.flatnonzero(owner == f"finger{finger}-3.{letter}")
                before = heads[owner == f"finger{finger}-2.{letter}"].mean(axis=0)
                way = heads[last].mean(axis=0) - before
                self.tips[side].append(last[np.argsort(-(heads[last] @ way))])
        self.body_faces = ~(self.hand_faces["right"] | self.hand_faces["left"])

    def tip(self, vertices: np.ndarray, side: str) -> Float[np.ndarray, "fingers xyz"]:
        """Returns the fingertips [fingers, 3] of a posed mesh."""
        chosen = np.stack([v[:TIP_VERTICES] for v in self.tips[side]])
        return np.asarray(vertices[chosen].mean(axis=1))

    def hand(self, body: Body, side: str) -> Hand:
        """Returns the bones of a body's hand at rest."""
        rest, letter = self.figure.at_rest(body), LETTERS[side]
        heads = dict(zip(self.figure.bones, rest["rest_bone_heads"], strict=True))
        tips = self.tip(rest["rest_vertices"], side)
        chains = np.array(
            [
                [*(heads[f"finger{f}-{j}.{letter}"] for j in (1, 2, 3)), tips[f - 1]]
                for f in range(1, 6)
            ]
        )
        return Hand.of(heads[f"wrist.{letter}"], chains)

    def joints(
        self, vertices: np.ndarray, bones: dict[str, np.ndarray], side: str
    ) -> dict[str, np.ndarray]:
        """Returns the joints of HAND20 and HAND21 by name."""
        letter, tips = LETTERS[side], self.tip(vertices, side)
        wrist = bones[f"wrist.{letter}"]
        found = {"wrist": wrist}
        for number, name in enumerate(finger_poses.FINGERS, start=1):
            heads = [bones[f"finger{number}-{j}.{letter}"] for j in (1, 2, 3)]
            names = ["base", "1", "2"]
            found |= {f"{name}_{n}": h for n, h in zip(names, heads, strict=True)}
            found[f"{name}_tip"] = tips[number - 1]
        found["palm"] = wrist + PALM * (found["middle_base"] - wrist)
        return found


def _any_start(names: np.ndarray, starts: Sequence[str]) -> np.ndarray:
    return np.any([np.char.startswith(names, start) for start in starts], axis=0)


def sample_body(rng: np.random.Generator, arms: Arms) -> Body:
    """Draws a person with the thickness of the hands, sleeves, rings and watches."""
    body = arms.figure.sample_body(rng)
    owner, template = arms.figure.owner, arms.figure.template
    thickness = body.thickness.copy()
    for letter in LETTERS.values():
        of_hand = np.char.endswith(owner, f".{letter}") & _any_start(owner, HAND)
        thickness[of_hand] = rng.uniform(-0.0012, 0.0025)
        if rng.random() < 0.04:  # a glove
            thickness[of_hand] += 0.003
        for _ in range(rng.poisson(0.4)):
            bone = f"finger{rng.integers(2, 6)}-1.{letter}"
            at = np.flatnonzero(owner == bone)
            along = template[at] @ (template[at].max(axis=0) - template[at].min(axis=0))
            thickness[at[np.abs(along - np.median(along)) < 0.002]] += 0.0015
    return dataclasses.replace(body, thickness=thickness)


class Reach(NamedTuple):
    """How an arm is held.

    Attributes:
        upper: [3, 3] of the upper arm from rest.
        fore: [3, 3] of the forearm.
        end: [3, 3] of the forearm's half next to the wrist, which twists.
        hand: [3, 3] of the hand.
        fingers: How they are bent.
        thing: What is held, in the hand's rest frame.
    """

    upper: np.ndarray
    fore: np.ndarray
    end: np.ndarray
    hand: np.ndarray
    fingers: Fingers
    thing: things.Thing | None


def sample_grip(
    rng: np.random.Generator, hand: Hand, holding: float
) -> tuple[Fingers, things.Thing | None]:
    """Draws fingers, and what they hold in some of the hands."""
    if rng.random() >= holding:
        return finger_poses.sample(rng, hand), None
    length = float(np.linalg.norm(hand.chains[2, 0] - hand.wrist))
    middle = hand.wrist + 0.85 * length * hand.along + 0.014 * hand.palm
    thing = things.sample(rng, middle, hand.along, hand.palm, hand.radial)
    return finger_poses.closed_around(rng, hand, thing), thing


def bend_wrist(
    rng: np.random.Generator, hand: Hand, fore: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how forearm's end and hand turn: twisted, bent, and turned aside."""
    limits = np.radians([75.0, 55.0, 18.0])
    twist, flexion, aside = np.clip(rng.normal(0, 0.45, 3), -1, 1) * limits
    turned = Rotation.from_rotvec(twist * hand.along)
    bend = Rotation.from_rotvec(flexion * np.cross(hand.palm, hand.along))
    side = Rotation.from_rotvec(aside * hand.palm)
    half = Rotation.from_rotvec(0.5 * twist * hand.along).as_matrix()
    return fore @ half, fore @ (turned * bend * side).as_matrix()


def turn_bones(
    figure: Figure, reaches: dict[str, Reach], hands: dict[str, Hand]
) -> Float[np.ndarray, "bones 3 3"]:
    """Returns how far each bone turns from anny's rest pose."""
    turned = np.tile(np.eye(3), (len(figure.bones), 1, 1))
    bones = {bone: number for number, bone in enumerate(figure.bones)}
    for side, reach in reaches.items():
        letter = LETTERS[side]
        of_fingers = hands[side].rotations(reach.fingers)
        for bone, number in bones.items():
            stem, _, end = bone.partition(".")
            if end != letter:
                continue
            if stem.startswith("upperarm"):
                turned[number] = reach.upper
            elif stem.startswith(("clavicle", "shoulder01")):
                part = Rotation.from_matrix(reach.upper).as_rotvec()
                turned[number] = Rotation.from_rotvec(0.15 * part).as_matrix()
            elif stem == "lowerarm01":
                turned[number] = reach.fore
            elif stem == "lowerarm02":
                turned[number] = reach.end
            elif stem.startswith(("wrist", "metacarpal")):
                turned[number] = reach.hand
            elif stem.startswith("finger"):
                finger, joint = int(stem[6]) - 1, int(stem[8]) - 1
                turned[number] = reach.hand @ of_fingers[finger, joint]
    return turned


def aligned(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Returns the smallest rotation that takes one direction to another."""
    a, b = first / np.linalg.norm(first), second / np.linalg.norm(second)
    axis = np.cross(a, b)
    sin, cos = float(np.linalg.norm(axis)), float(a @ b)
    if sin < 1e-9:
        return np.eye(3) if cos > 0 else np.diag([-1.0, -1.0, 1.0])
    return Rotation.from_rotvec(axis / sin * np.arctan2(sin, cos)).as_matrix()


def reach_for(
    rng: np.random.Generator, heads: dict[str, np.ndarray], side: str, goal: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns how upper arm and forearm turn for the wrist to be at a place."""
    letter = LETTERS[side]
    shoulder, elbow, wrist = (
        heads[f"{bone}.{letter}"] for bone in ("upperarm01", "lowerarm01", "wrist")
    )
    upper, fore = elbow - shoulder, wrist - elbow
    a, b = np.linalg.norm(upper), np.linalg.norm(fore)
    way = goal - shoulder
    distance = np.clip(np.linalg.norm(way), abs(a - b) + 0.03, 0.985 * (a + b))
    way = way / np.linalg.norm(way)
    along = (a**2 - b**2 + distance**2) / (2 * distance)
    away = np.sqrt(max(a**2 - along**2, 0.0))
    sign = 1 if side == "left" else -1  # the elbow hangs down and outwards
    down = np.array([sign * rng.uniform(0.1, 1.2), rng.normal(0, 0.3), -1.0])
    down -= (down @ way) * way
    bent = shoulder + along * way + away * down / np.linalg.norm(down)
    first = aligned(upper, bent - shoulder)
    target = shoulder + distance * way - bent
    return first, aligned(first @ fore, target) @ first


def make_frames(
    figure: Figure,
    clips: Sequence[Any],
    skeleton: Skeleton,
    seed: int,
    split: str,
    person: int,
    count: int = FRAMES_PER_PERSON,
    *,
    astar: bool = False,
) -> Iterator[dict[str, object]]:
    """Yields the frames of one person's hands as examples of the data set hands.

    Args:
        figure: Draws and poses bodies.
        clips: Not used: hands have no motion capture.
        skeleton: HAND21 or HAND20.
        seed: Of the data set.
        split: A name in `SPLITS`.
        person: Number of the person in the split.
        count: Frames.
        astar: Whether every frame is as ASTAR's are: one hand alone, nothing in it,
            before a time-of-flight camera.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), person, 7])
    arms = Arms(figure)
    body = sample_body(rng, arms)
    hands = {side: arms.hand(body, side) for side in LETTERS}
    rest = figure.at_rest(body)
    heads = dict(zip(figure.bones, rest["rest_bone_heads"], strict=True))
    alone = np.ones(count, bool) if astar else rng.random(count) < 0.5
    reaches: list[dict[str, Reach]] = []
    turned = []
    for number in range(count):
        of_frame = {}
        both = not alone[number] and rng.random() < 0.5
        first = ("right", "left")[int(rng.integers(2))]
        goal = _goal(rng, heads, first)
        for side in LETTERS:
            upper = fore = np.eye(3)
            if side != first and not both:
                upper = aligned(
                    heads[f"lowerarm01.{LETTERS[side]}"]
                    - heads[f"upperarm01.{LETTERS[side]}"],
                    np.array([rng.normal(0, 0.2), rng.normal(0, 0.3), -1.0]),
                )
                fore = upper
            elif not alone[number]:
                near = goal if side == first else goal + rng.normal(0, 0.12, 3)
                upper, fore = reach_for(rng, heads, side, near)
            end, turn = bend_wrist(rng, hands[side], fore)
            grip = sample_grip(rng, hands[side], 0.0 if astar else 0.3)
            of_frame[side] = Reach(upper, fore, end, turn, *grip)
        if alone[number]:
            of_frame = {first: of_frame[first]}
        reaches.append(of_frame)
        turned.append(turn_bones(figure, of_frame, hands))
    vertices, bones = figure.bent(body, np.stack(turned))
    for number in range(count):
        posed = _assemble(
            rng,
            arms,
            body,
            figure.dressed(body, vertices[number]),
            dict(zip(figure.bones, bones[number], strict=True)),
            reaches[number],
            hands,
            alone=bool(alone[number]),
        )
        name = f"{split}_{person:05d}_{number:02d}"
        yield _photograph(rng, posed, heads, skeleton, name, bool(alone[number]), astar)


def _goal(
    rng: np.random.Generator, heads: dict[str, np.ndarray], side: str
) -> np.ndarray:
    """Draws where a wrist is held: before the chest, the face, or aside."""
    chest, head = heads["spine01"], heads["head"]
    sign = 1 if side == "left" else -1
    high = rng.uniform(chest[2] - 0.25, head[2] + 0.15)
    aside = sign * rng.uniform(-0.15, 0.4)
    return np.array([aside, chest[1] - rng.uniform(0.2, 0.6), high])


def _assemble(
    rng: np.random.Generator,
    arms: Arms,
    body: Body,
    vertices: np.ndarray,
    bones: dict[str, np.ndarray],
    reaches: dict[str, Reach],
    hands: dict[str, Hand],
    *,
    alone: bool,
) -> Hands:
    faces, sides = arms.figure.faces, list(reaches)
    meshes = [_part(vertices, faces[arms.hand_faces[side]]) for side in sides]
    kept = arms.arm_faces[sides[0]] if alone else arms.body_faces
    held = []
    for side, reach in reaches.items():
        if reach.thing is not None:
            wrist = bones[f"wrist.{LETTERS[side]}"]
            at_rest = reach.thing.solid.vertices - hands[side].wrist
            moved = reach.thing.solid._replace(vertices=at_rest @ reach.hand.T + wrist)
            held.append((moved, bool(rng.random() < 0.12)))
    ends = [
        [bones[f"{bone}.{LETTERS[side]}"] for bone in ("lowerarm01", "wrist")]
        for side in sides
    ]
    return Hands(
        _part(vertices, faces[kept]),
        meshes,
        [arms.joints(vertices, bones, side) for side in sides],
        sides,
        held,
        np.array(ends),
    )


def _part(vertices: np.ndarray, faces: np.ndarray) -> Solid:
    """Returns some faces with the vertices that they use."""
    used, numbers = np.unique(faces, return_inverse=True)
    return Solid(vertices[used], numbers.reshape(faces.shape).astype(np.int32))


class Placed(NamedTuple):
    """Where a camera is: x = rotation @ (point - origin).

    Attributes:
        rotation: [3, 3] to the camera frame.
        origin: [3] of the camera.
        up: [3] in the camera frame, where tables are below hands.
    """

    rotation: np.ndarray
    origin: np.ndarray
    up: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Returns points in the camera frame."""
        return (points - self.origin) @ self.rotation.T


def place_camera(
    rng: np.random.Generator,
    posed: Hands,
    heads: dict[str, np.ndarray],
    camera: Camera,
    alone: bool,
) -> Placed:
    """Draws a camera that sees the first hand from some way off."""
    middle = posed.joints[0]["middle_base"]
    half = np.array([camera.width, camera.height]) / 2 / camera.focal
    spread = 0.95 if rng.random() < 0.12 else 0.6
    for _ in range(200):
        distance = rng.uniform(0.28, 0.65) if rng.random() < 0.65 else 1.05
        if distance > 1:
            distance = rng.uniform(0.5, 1.05)
        if alone:
            rotation = _way_up(rng, posed)
            up = np.array([0.0, -1.0, -rng.uniform(0.0, 1.2)])
        elif rng.random() < 0.2:  # the person's own eyes, or a camera on the chest
            eye = heads["head"] + (0, -0.12, rng.uniform(-0.3, 0.15))
            ahead = middle - eye
            distance = float(np.clip(np.linalg.norm(ahead), 0.25, 1.05))
            rotation = _looking(ahead, rng.normal(0, 0.2))
            up = rotation @ np.array([0, 0, 1.0])
        else:
            around, above = rng.normal(0, 0.6), rng.normal(0.1, 0.35)
            ahead = np.array(
                [
                    np.sin(around) * np.cos(above),
                    np.cos(around) * np.cos(above),
                    -np.sin(above),
                ]
            )
            roll = rng.normal(0, 0.15)
            if rng.random() < 0.15:
                roll += rng.choice([0.5, 1, 1.5]) * np.pi
            rotation = _looking(ahead, roll)
            up = rotation @ np.array([0, 0, 1.0])
        aim = rng.uniform(-spread, spread, 2) * half
        at = distance * np.array([*aim, 1.0])
        placed = Placed(rotation, middle - rotation.T @ at, up / np.linalg.norm(up))
        # Nothing of the arm is between the camera and the hand, or behind the camera.
        elbow, wrist = placed(posed.wrists[0])
        nearest = placed(posed.rest.vertices)[:, 2].min() if alone else 0.1
        if alone and (nearest < 0.08 or elbow[2] < 0.5 * wrist[2]):
            continue
        gaps = np.linalg.norm(posed.rest.vertices - placed.origin, axis=1)
        if alone or gaps.min() > 0.1:
            return placed
    return placed


def _way_up(rng: np.random.Generator, posed: Hands) -> np.ndarray:
    """Draws a rotation: fingers up and palm or back to the camera, or any at all."""
    if rng.random() < 0.35:
        return Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
    joints = posed.joints[0]
    along = joints["middle_base"] - joints["wrist"]
    along /= np.linalg.norm(along)
    across = joints["index_base"] - joints["little_base"]
    across -= (across @ along) * along
    across /= np.linalg.norm(across)
    # Rows: the camera's x, y, z in the arm's frame.
    sign = rng.choice([-1, 1])
    base = np.stack([sign * across, -along, -sign * np.cross(across, along)])
    turn = rng.normal(0, (0.6, 0.6, 0.6))
    return Rotation.from_rotvec(turn).as_matrix() @ base


def _looking(ahead: np.ndarray, roll: float) -> Float[np.ndarray, "3 3"]:
    """Returns the rotation to the frame of a camera that looks ahead, z being up."""
    forward = ahead / np.linalg.norm(ahead)
    right = np.cross(forward, (0, 0, 1.0))
    right /= max(float(np.linalg.norm(right)), 1e-6)
    down = np.cross(forward, right)
    level = np.stack([right, down, forward])
    return Rotation.from_rotvec((0, 0, roll)).as_matrix() @ level


def clutter(
    rng: np.random.Generator, middle: np.ndarray, reach: float, up: np.ndarray
) -> list[Solid]:
    """Draws what is around and behind hands: a wall, a table, things.

    Args:
        rng: Draws them.
        middle: [3] of the hands, camera frame.
        reach: From there nothing is nearer.
        up: [3] direction.
    """
    solids: list[Solid] = []
    back = middle[2] + reach + (rng.exponential(0.8) if rng.random() < 0.7 else 0.1)
    if rng.random() < 0.6:
        turn = Rotation.from_rotvec(rng.normal(0, 0.25, 3)).as_matrix()
        wall = box((-6, -6, 0), (6, 6, 0.1))
        solids.append(
            wall._replace(vertices=wall.vertices @ turn.T + (0, 0, back + 0.2))
        )
    if rng.random() < 0.35:
        low = reach * rng.uniform(0.9, 2.0)
        basis = aligned(np.array([0, 0, 1.0]), up)
        table = box((-0.8, -0.5, -0.03), (0.8, 0.5, 0)).turned(rng.uniform(0, 6))
        centre = middle - low * up + (0, 0, rng.uniform(0, 0.3))
        solids.append(table._replace(vertices=table.vertices @ basis.T + centre))
    for _ in range(rng.poisson(2.5)):
        size = 0.03 * np.exp(rng.uniform(0, np.log(10), 3))
        kind = int(rng.integers(3))
        thing = (
            box(-size / 2, size / 2),
            ellipsoid((0, 0, 0), size / 2),
            tube((0, 0, -size[2]), (0, 0, size[2]), (size[0] / 3, size[1] / 3)),
        )[kind]
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        away = rng.normal(0, 1, 3)
        away[2] = abs(away[2]) if rng.random() < 0.85 else away[2]
        far = reach + np.linalg.norm(size) + rng.exponential(0.25)
        centre = middle + away / np.linalg.norm(away) * far
        if centre[2] > 0.25 + size.max():
            solids.append(thing._replace(vertices=thing.vertices @ turn.T + centre))
    return solids


def _photograph(
    rng: np.random.Generator,
    posed: Hands,
    heads: dict[str, np.ndarray],
    skeleton: Skeleton,
    name: str,
    alone: bool,
    astar: bool,
) -> dict[str, object]:
    odds = [share for share, _ in CAMERAS]
    camera = CAMERAS[int(rng.choice(len(odds), p=odds))][1]
    if astar:
        camera = ASTAR_CAMERA
    placed = place_camera(rng, posed, heads, camera, alone)
    middle = placed(posed.joints[0]["middle_base"])
    is_empty = not astar and rng.random() < 0.08
    hands = [] if is_empty and alone else posed.hands
    solids = [placed_solid(placed, hand) for hand in hands]
    codes = [np.full(len(s.faces), 2 * (i + 1)) for i, s in enumerate(solids)]
    others = [] if is_empty and alone else [posed.rest]
    things_seen = [(placed_solid(placed, s), False) for s in others]
    things_seen += [(placed_solid(placed, s), dark) for s, dark in posed.held]
    reach = 0.16 if astar else rng.uniform(0.14, 0.25)
    around = clutter(rng, middle, reach, placed.up)
    if astar:
        around = around[:1] if rng.random() < 0.5 else []
    things_seen += [(solid, bool(rng.random() < 0.05)) for solid in around]
    for solid, dark in things_seen:
        solids.append(solid)
        codes.append(np.full(len(solid.faces), NOT_A_HAND + int(dark)))
    if not solids:
        solids = [box((-1, -1, 3), (1, 1, 3.1))]
        codes = [np.zeros(len(solids[0].faces), int)]
    whole = joined(solids)
    depth, found = rasterize(
        whole.vertices,
        whole.faces,
        np.concatenate(codes).astype(np.int32),
        width=camera.width,
        height=camera.height,
        focal=camera.focal,
        centre=camera.centre,
    )
    exact = np.where(np.isfinite(depth), depth, NOWHERE)
    kind = SENSORS[camera.sensor]
    noise = close_range(rng, camera)
    depth_mm = kind.measure(exact, found == 1, noise, camera.focal, rng)
    joints = [
        {joint: placed(at) for joint, at in of_hand.items()}
        for of_hand in posed.joints[: len(hands)]
    ]
    return {
        "depth": schema.encode_png(depth_mm),
        **_labels(joints, posed.sides, found, exact, camera, skeleton),
        "camera": camera.intrinsics,
        "frame": name,
    }


def placed_solid(placed: Placed, solid: Solid) -> Solid:
    """Returns a solid in the camera frame."""
    return solid._replace(vertices=placed(solid.vertices))


def close_range(rng: np.random.Generator, camera: Camera) -> Any:
    """Draws a sensor that reads what is near."""
    noise = SENSORS[camera.sensor].sample_noise(rng)
    if camera.sensor == "time of flight":
        return dataclasses.replace(noise, near_m=NEAR_M, edge_m=EDGE_M)
    if camera.sensor == "active stereo":
        return dataclasses.replace(noise, near_m=NEAR_M)
    baseline = float(rng.uniform(0.015, 0.06))
    return dataclasses.replace(noise, baseline_m=baseline)


def _labels(
    joints: Sequence[dict[str, np.ndarray]],
    sides: Sequence[str],
    found: np.ndarray,
    exact: np.ndarray,
    camera: Camera,
    skeleton: Skeleton,
) -> dict[str, np.ndarray]:
    seen = []
    for number, (of_hand, side) in enumerate(zip(joints, sides, strict=False)):
        mask = found == 2 * (number + 1)
        if mask.sum() < LEAST_PIXELS:
            continue
        of_it = labels.label(
            mask,
            exact,
            np.stack([of_hand[joint] for joint in skeleton.joints]),
            camera,
            nearest_m=NEAREST_M,
            behind_m=BEHIND_M,
            on_itself=False,
        )
        seen.append({**of_it, "left": side == "left"})
    return labels.stacked(seen, fields(skeleton.num_joints))


def fields(joints: int) -> labels.Fields:
    """Returns shape and type of what is told of one hand."""
    return {**labels.fields(joints), "left": ((), np.bool_)}
