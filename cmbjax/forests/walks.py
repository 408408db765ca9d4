"""RTW: a walk towards each joint from the one before it (Jung et al., 2015)."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from cmbjax.data.examples import DepthFrames
from cmbjax.forests import trees
from cmbjax.forests.bodies import Body, labelled_bodies, to_pixels
from cmbjax.skeletons import Skeleton

FIRST_STEPS, STEPS = 64, 32  # to the first joint, and to each of the others
STEP_M = 0.05
START_M = 0.5  # how far from the joint a walk is learned
CLUSTERS = 8  # of the directions in a leaf
ROUNDS = 8  # of k-means
REACH = 150.0  # of the features, pixel metres: the most that they have


@dataclasses.dataclass(frozen=True)
class WalkingTrees:
    """A tree for each joint, that knows which way it lies.

    Attributes:
        grown: A tree a joint; values are [nodes, CLUSTERS, 4]: unit directions, and how
            often each was met.
        skeleton: The order of the walks: from parents to children.
        seed: Of the walks, which draw their direction in each step.
    """

    grown: list[trees.Tree]
    skeleton: Skeleton
    seed: int = 0

    @property
    def arrays(self) -> dict[str, Any]:
        """What is to be saved."""
        return trees.stored(self.grown, "walks") | {"seed": np.array(self.seed)}

    @classmethod
    def of(cls, arrays: dict[str, Any], skeleton: Skeleton) -> "WalkingTrees":
        """Returns the trees of what was saved."""
        return cls(trees.loaded(arrays, "walks"), skeleton, int(arrays.get("seed", 0)))

    @functools.cached_property
    def climbers(self) -> list[trees.Climber]:
        """Of each tree."""
        return [trees.Climber(tree) for tree in self.grown]

    def predict(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Returns joints [joints, 3] metres, and how steady each walk was: [joints].

        Each body has draws of its own, the same whenever it is seen.
        """
        rng = np.random.default_rng([self.seed, len(body.pixels)])
        joints = np.empty((self.skeleton.num_joints, 3))
        steady = np.empty(self.skeleton.num_joints)
        for joint, parent in in_order(self.skeleton):
            is_first = parent < 0
            start = body.points_m.mean(axis=0) if is_first else joints[parent]
            steps = FIRST_STEPS if is_first else STEPS
            directions = self.grown[joint].values
            places = walk(self.climbers[joint], directions, body, start, steps, rng)
            # The walk arrives, and then moves about the joint.
            arrived = places[len(places) // 2 :]
            joints[joint] = arrived.mean(axis=0)
            steady[joint] = 1 / (1 + arrived.std(axis=0).sum() / STEP_M)
        return joints, steady


def in_order(skeleton: Skeleton) -> Iterator[tuple[int, int]]:
    """Yields each joint and its parent, parents before their children."""
    done: set[int] = {-1}
    while len(done) <= skeleton.num_joints:
        for joint, parent in enumerate(skeleton.parents):
            if joint not in done and parent in done:
                done.add(joint)
                yield joint, parent


def walk(
    climber: trees.Climber,
    directions: np.ndarray,
    body: Body,
    start: np.ndarray,
    steps: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the places [steps, 3] of a walk, metres.

    Args:
        climber: Of a joint's tree.
        directions: [nodes, CLUSTERS, 4] of it, see `WalkingTrees`.
        body: To walk on.
        start: [3] metres.
        steps: How many.
        rng: Draws the directions.
    """
    places, at = [], np.array(start, float)
    for draw in rng.random(steps):
        x, y = to_pixels(at, body.camera)
        leaf = climber.leaf(body.depth_m, float(x), float(y), max(float(at[2]), 0.1))
        shares = np.cumsum(directions[leaf, :, 3], dtype=float)
        chosen = int(np.searchsorted(shares, draw * shares[-1], "right"))
        at = at + STEP_M * directions[leaf, min(chosen, CLUSTERS - 1), :3]
        places.append(at)
    return np.array(places)


def grow(
    frames: DepthFrames,
    *,
    seed: int,
    max_depth: int = 20,
    num_features: int = 500,
    starts_a_frame: int = 12,
    reach: float = REACH,
) -> WalkingTrees:
    """Grows a tree for each joint.

    Args:
        frames: Labelled in metres.
        seed: Of starts, features and trees.
        max_depth: Splits from the root to a leaf, at most.
        num_features: Depth differences to choose from.
        starts_a_frame: Points around each joint of a frame.
        reach: See `trees.sample_offsets`.

    Raises:
        ValueError: No frame shows anybody, or has a joint labelled.
    """
    from sklearn.tree import DecisionTreeRegressor

    skeleton, rng = frames.skeleton, np.random.default_rng(seed)
    offsets = trees.sample_offsets(rng, num_features, reach)
    features: list[list[np.ndarray]] = [[] for _ in skeleton.joints]
    ways: list[list[np.ndarray]] = [[] for _ in skeleton.joints]
    for example, body in labelled_bodies(frames, "walks"):
        for joint, place in enumerate(example["joints_m"]):
            if not np.isfinite(place).all():
                continue
            away = rng.normal(size=(starts_a_frame, 3))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            points = place + away * rng.uniform(0, START_M, (starts_a_frame, 1))
            pixels = to_pixels(points, body.camera)
            z = np.maximum(points[:, 2], 0.1)
            found = trees.differences(body.depth_m, pixels, z, offsets)
            features[joint].append(found.astype(np.float16))
            ways[joint].append(-away)
    if not all(features):
        raise ValueError("a joint is labelled in no frame: it has nothing to learn")
    grown = []
    for joint in tqdm(range(skeleton.num_joints), desc="trees"):
        directions = np.concatenate(ways[joint])
        rows = np.concatenate(features[joint]).astype(np.float32)
        tree = DecisionTreeRegressor(
            max_depth=max_depth,
            max_features=0.2,
            min_samples_leaf=8,
            random_state=int(rng.integers(2**31)),
        ).fit(rows, directions)
        values = np.zeros((tree.tree_.node_count, CLUSTERS, 4), np.float32)
        ends = tree.apply(rows)
        order = np.argsort(ends, kind="stable")
        edges = np.flatnonzero(np.diff(ends[order], prepend=-1))
        for members in np.split(order, edges[1:]):
            values[ends[members[0]]] = clusters(rng, directions[members])
        grown.append(trees.as_arrays(tree.tree_, offsets, values))
    return WalkingTrees(grown, skeleton, seed)


def clusters(rng: np.random.Generator, directions: np.ndarray) -> np.ndarray:
    """Returns [CLUSTERS, 4]: unit directions by k-means, and the share of each."""
    chosen = rng.choice(len(directions), min(CLUSTERS, len(directions)), False)
    centres = directions[chosen]
    for _ in range(ROUNDS):
        nearest = (directions @ centres.T).argmax(axis=1)
        counts = np.bincount(nearest, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, directions)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(length > 1e-9, sums / np.maximum(length, 1e-9), centres)
    result = np.zeros((CLUSTERS, 4), np.float32)
    result[: len(centres), :3] = centres
    result[: len(centres), 3] = counts / counts.sum()
    return result
