"""Pixels that vote for a hand's joints, and a look at which pose fits (Xu & Cheng).

Xu and Cheng, "Efficient hand pose estimation from a single depth image" (ICCV 2013),
and with Nanjappa and Zhang, "Estimate hand poses efficiently from single depth images"
(IJCV 2015), in three steps: a forest votes for the way the hand points in the picture;
a second one, whose features are turned that way, for all joints; of the poses that
come of it the one that fits the depth best is kept. They fit a hand model in the third
step: here it is the distance of the readings from the bones, and of the bones from the
surface.
"""

import dataclasses
from typing import Any

import numpy as np
from tqdm import tqdm

from cmbjax.data.examples import DepthFrames
from cmbjax.forests import trees
from cmbjax.forests.bodies import Body, labelled_bodies, to_pixels
from cmbjax.skeletons import Skeleton

BANDWIDTH_M = 0.015  # of the mean shift over votes
SHIFTS = 8
VOTING = 300  # pixels at most
CANDIDATES = 24  # poses of single leaves that are looked at, beside the densest votes
REACH = 25.0  # of the features, pixel metres: about a hand, see `grow`
FARTHEST_M = 0.03  # a distance from the surface that is no worse than any larger


@dataclasses.dataclass(frozen=True)
class VotingForest:
    """Two forests, and how the joints are connected.

    Attributes:
        ways: Trees that see the picture as it is; values are [nodes, 2] unit vectors.
        votes: Trees that see it upright; values are [nodes, joints, 3] metres from the
            pixel's point to each joint.
        skeleton: Of the joints.
        thick_m: How far a bone lies behind the surface.
    """

    ways: list[trees.Tree]
    votes: list[trees.Tree]
    skeleton: Skeleton
    thick_m: float

    @property
    def arrays(self) -> dict[str, Any]:
        """What is to be saved."""
        return {
            **trees.stored(self.ways, "ways"),
            **trees.stored(self.votes, "votes"),
            "thick_m": self.thick_m,
        }

    @classmethod
    def of(cls, arrays: dict[str, Any], skeleton: Skeleton) -> "VotingForest":
        """Returns the forest of what was saved."""
        ways, votes = (trees.loaded(arrays, name) for name in ("ways", "votes"))
        return cls(ways, votes, skeleton, float(arrays["thick_m"]))

    def predict(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Returns joints [joints, 3] metres, and how dense the votes were: [joints]."""
        step = -(-len(body.pixels) // VOTING)
        points, pixels = body.points_m[::step], body.pixels[::step]
        angle = self.angle(body, pixels, points)
        z = points[:, 2]
        placed = [
            tree.values[trees.leaves(turned(tree, angle), body.depth_m, pixels, z)]
            for tree in self.votes
        ]
        offsets = turned_offsets(np.concatenate(placed), angle)
        ballots = np.tile(points, (len(self.votes), 1))[:, None] + offsets
        densest, heights = modes_of(ballots)
        near = np.linalg.norm(ballots - densest, axis=-1).mean(axis=1)
        poses = [densest, *ballots[np.argsort(near)[:CANDIDATES]]]
        # Between what all say and what one leaf says: a hand's proportions are kept.
        poses += [(densest + pose) / 2 for pose in poses[1:]]
        misfits = [self.misfit(body, points, pose) for pose in poses]
        return poses[int(np.argmin(misfits))], heights

    def angle(self, body: Body, pixels: np.ndarray, points: np.ndarray) -> float:
        """Returns which way the hand points, radians clockwise from upwards."""
        votes = [
            tree.values[trees.leaves(tree, body.depth_m, pixels, points[:, 2])]
            for tree in self.ways
        ]
        x, y = np.mean(votes, axis=(0, 1))
        return float(np.arctan2(x, -y))

    def misfit(self, body: Body, points: np.ndarray, pose: np.ndarray) -> float:
        """Returns how badly a pose explains a depth image, metres.

        The mean distance of the readings from the nearest bone, and of bones that are
        before the surface or beside the hand from it.
        """
        parent, child = np.array(self.skeleton.bones).T
        share = np.array([0.25, 0.5, 0.75, 1.0])[:, None, None]
        bones = share * pose[child] + (1 - share) * pose[parent]
        bones = bones.reshape(-1, 3)
        gaps = np.linalg.norm(points[:, None] - bones[None], axis=-1).min(axis=1)
        unexplained = np.minimum(np.abs(gaps - self.thick_m), FARTHEST_M).mean()
        pixels = to_pixels(bones, body.camera)
        height, width = body.depth_m.shape
        columns, rows = np.clip(pixels, 0, [width - 1, height - 1]).astype(int).T
        before = body.depth_m[rows, columns] - bones[:, 2]
        return float(unexplained + np.clip(before, 0, FARTHEST_M).mean())


def turned(tree: trees.Tree, angle: float) -> trees.Tree:
    """Returns a tree that sees the picture of a hand that points that way."""
    return tree._replace(offsets=turned_pixels(tree.offsets, angle))


def turned_pixels(offsets: np.ndarray, angle: float) -> np.ndarray:
    """Returns pairs of offsets [..., 4] turned clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    pairs = offsets.reshape(*offsets.shape[:-1], 2, 2) @ turn
    return np.asarray(pairs.reshape(offsets.shape), np.float32)


def turned_offsets(offsets: np.ndarray, angle: float) -> np.ndarray:
    """Returns metres [..., 3] turned likewise about the line of sight."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return np.asarray(offsets @ turn)


def modes_of(ballots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the votes [votes, joints, 3] of each joint are densest.

    Returns:
        [joints, 3] metres, and the part of the votes there, [joints].
    """
    at = np.median(ballots, axis=0)
    for _ in range(SHIFTS):
        weights = np.exp(-((ballots - at) ** 2).sum(axis=-1) / BANDWIDTH_M**2)
        total = np.maximum(weights.sum(axis=0), 1e-9)
        at = (weights[..., None] * ballots).sum(axis=0) / total[:, None]
    return at, weights.mean(axis=0)


def grow(
    frames: DepthFrames,
    *,
    seed: int,
    num_trees: int = 3,
    max_depth: int = 20,
    num_features: int = 400,
    pixels_a_frame: int = 80,
    reach: float = REACH,
) -> VotingForest:
    """Grows both forests on labelled frames of hands.

    Args:
        frames: To draw pixels from; their joints have an `up`.
        seed: Of pixels, features and trees.
        num_trees: Of each forest.
        max_depth: Splits from the root to a leaf, at most.
        num_features: Depth differences to choose from, for each tree.
        pixels_a_frame: Drawn from each frame, for each tree.
        reach: See `trees.sample_offsets`.

    Raises:
        ValueError: No frame shows a hand with all joints, or the skeleton has no
            `up`.
    """
    from sklearn.tree import DecisionTreeRegressor

    skeleton = frames.skeleton
    if skeleton.up is None:
        raise ValueError(f"{skeleton.name} has nothing that points upwards")
    low, high = (list(joints) for joints in skeleton.up)
    seen = []
    for example, body in labelled_bodies(frames, "hands"):
        joints_m = np.asarray(example["joints_m"], float)
        if np.isfinite(joints_m).all():
            seen.append((body, joints_m))
    if not seen:
        raise ValueError("no frame has a hand with all of its joints labelled")
    forests: list[list[trees.Tree]] = [[], []]
    for number in range(2 * num_trees):
        is_upright, rng = number % 2, np.random.default_rng([seed, number])
        offsets = trees.sample_offsets(rng, num_features, reach)
        rows, goals = [], []
        for body, joints_m in tqdm(seen, desc=f"tree {number + 1}", mininterval=5):
            way = (joints_m[high].mean(axis=0) - joints_m[low].mean(axis=0))[:2]
            angle = float(np.arctan2(way[0], -way[1]))
            count = min(pixels_a_frame, len(body.pixels))
            chosen = rng.choice(len(body.pixels), count, replace=False)
            points = body.points_m[chosen]
            features = trees.differences(
                body.depth_m,
                body.pixels[chosen],
                points[:, 2],
                turned_pixels(offsets, angle) if is_upright else offsets,
            )
            rows.append(features.astype(np.float32))
            if is_upright:
                away = turned_offsets(joints_m[None] - points[:, None], -angle)
                goals.append(away.reshape(count, -1))
            else:
                goals.append(np.tile([np.sin(angle), -np.cos(angle)], (count, 1)))
        tree = DecisionTreeRegressor(
            max_depth=max_depth,
            max_features=0.1,
            min_samples_leaf=8,
            random_state=int(rng.integers(2**31)),
        ).fit(np.concatenate(rows), np.concatenate(goals))
        values = tree.tree_.value[..., 0].astype(np.float32)
        if is_upright:
            values = values.reshape(-1, skeleton.num_joints, 3)
        forests[is_upright].append(trees.as_arrays(tree.tree_, offsets, values))
    gaps = [_behind(body, joints_m) for body, joints_m in seen]
    ways, votes = forests
    thick_m = float(np.median(np.concatenate(gaps)))
    return VotingForest(ways, votes, skeleton, thick_m)


def _behind(body: Body, joints_m: np.ndarray) -> np.ndarray:
    """Returns how far joints that are seen lie from the nearest reading, metres."""
    gaps = np.linalg.norm(joints_m[:, None] - body.points_m[None], axis=-1).min(axis=1)
    return np.asarray(gaps[gaps < FARTHEST_M])
