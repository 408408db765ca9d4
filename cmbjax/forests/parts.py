"""RF: a body part for each pixel, the middle of each part (Shotton et al., 2011)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmbjax.data.examples import DepthFrames
from cmbjax.forests import trees
from cmbjax.forests.bodies import Body, body_parts, labelled_bodies
from cmbjax.skeletons import Skeleton

BANDWIDTH_M = 0.065  # of the mean shift, as they have it
SHIFTS = 12  # steps of it
STARTS = 3  # of each part: the pixels that are surest
LEAST_PROBABILITY = 0.14  # of a pixel to count, as they have it
VOTING = 2000  # pixels at most
REACH = 129.0  # of the features, pixel metres, as they have it


@dataclasses.dataclass(frozen=True)
class PartsForest:
    """Trees that know body parts, and how far each joint lies behind its part.

    Attributes:
        grown: The trees; their values are [nodes, joints] probabilities.
        behind_m: [joints] by which joints lie farther than the parts' modes.
    """

    grown: list[trees.Tree]
    behind_m: np.ndarray

    @property
    def arrays(self) -> dict[str, Any]:
        """What is to be saved."""
        return trees.stored(self.grown, "parts") | {"behind_m": self.behind_m}

    @classmethod
    def of(cls, arrays: dict[str, Any], skeleton: Skeleton) -> "PartsForest":
        """Returns the forest of what was saved."""
        return cls(trees.loaded(arrays, "parts"), arrays["behind_m"])

    def predict(self, body: Body) -> tuple[np.ndarray, np.ndarray]:
        """Returns joints [joints, 3] metres, and how sure each is: [joints]."""
        step = -(-len(body.pixels) // VOTING)
        points, pixels = body.points_m[::step], body.pixels[::step]
        part = probabilities(self.grown, body.depth_m, pixels, points[:, 2])
        modes, heights = modes_of(points, part)
        away = 1 + self.behind_m / np.maximum(np.linalg.norm(modes, axis=1), 0.1)
        return modes * away[:, None], heights


def probabilities(
    grown: Sequence[trees.Tree],
    depth_m: np.ndarray,
    pixels: np.ndarray,
    z_m: np.ndarray,
) -> np.ndarray:
    """Returns how probably each pixel is of each part: [points, joints], of all trees.

    The mean over the trees (Eq. 2).
    """
    votes = [tree.values[trees.leaves(tree, depth_m, pixels, z_m)] for tree in grown]
    return np.mean(votes, axis=0)


def modes_of(points_m: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each part is densest, by mean shift.

    A pixel weighs as probable as it is of the part, times the square of its depth: the
    surface that it stands for (Eq. 8).

    Args:
        points_m: [points, 3].
        part: [points, joints] probabilities.

    Returns:
        [joints, 3] metres, and the density there, [joints].
    """
    weights = np.where(part >= LEAST_PROBABILITY, part, 0) * points_m[:, 2:] ** 2
    # A part that is nowhere sure is where it is most probable.
    nowhere = ~weights.any(axis=0)
    weights[:, nowhere] = (part * points_m[:, 2:] ** 2)[:, nowhere] + 1e-12
    order = np.argsort(-weights, axis=0)[:STARTS]
    modes = points_m[order]  # [starts, joints, 3]
    for _ in range(SHIFTS):
        near = _kernel(points_m, modes) * weights[:, None]
        total = np.maximum(near.sum(axis=0), 1e-12)
        modes = np.einsum("psj,pd->sjd", near, points_m) / total[..., None]
    height = (_kernel(points_m, modes) * weights[:, None]).sum(axis=0)
    best = height.argmax(axis=0)
    joints = np.arange(weights.shape[1])
    return modes[best, joints], height[best, joints] / len(points_m)


def _kernel(points_m: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Returns [points, starts, joints] of a Gaussian around each mode."""
    gaps = ((points_m[:, None, None] - modes[None]) ** 2).sum(axis=-1)
    return np.exp(-gaps / BANDWIDTH_M**2)


def grow(
    frames: DepthFrames,
    *,
    seed: int,
    num_trees: int = 3,
    max_depth: int = 20,
    num_features: int = 1000,
    pixels_a_frame: int = 100,
    reach: float = REACH,
) -> PartsForest:
    """Grows a forest on labelled frames.

    Args:
        frames: To draw pixels from.
        seed: Of pixels, features and trees.
        num_trees: Trees.
        max_depth: Splits from the root to a leaf, at most.
        num_features: Depth differences to choose from, for each tree.
        pixels_a_frame: Drawn from each frame, for each tree.
        reach: See `trees.sample_offsets`.

    Raises:
        ValueError: No frame shows anybody.
    """
    from sklearn.tree import DecisionTreeClassifier

    num_joints = frames.skeleton.num_joints
    grown = []
    for tree_number in range(num_trees):
        rng = np.random.default_rng([seed, tree_number])
        offsets = trees.sample_offsets(rng, num_features, reach)
        rows, labels = [], []
        for example, body in labelled_bodies(frames, f"tree {tree_number + 1}"):
            number = len(body.pixels)
            chosen = rng.choice(number, min(pixels_a_frame, number), False)
            drawn = body._replace(
                pixels=body.pixels[chosen], points_m=body.points_m[chosen]
            )
            features = trees.differences(
                body.depth_m, drawn.pixels, drawn.points_m[:, 2], offsets
            )
            rows.append(features.astype(np.float32))
            labels.append(body_parts(drawn, example))
        tree = DecisionTreeClassifier(
            criterion="entropy",
            max_depth=max_depth,
            max_features="sqrt",
            min_samples_leaf=5,
            random_state=int(rng.integers(2**31)),
        ).fit(np.concatenate(rows), np.concatenate(labels))
        values = np.zeros((tree.tree_.node_count, num_joints), np.float32)
        counts = tree.tree_.value[:, 0]
        values[:, tree.classes_] = counts / counts.sum(axis=1, keepdims=True)
        grown.append(trees.as_arrays(tree.tree_, offsets, values))
    forest = PartsForest(grown, np.zeros(num_joints, np.float32))
    behind = []
    step = max(1, len(frames) // 300)
    some = [frames.source[i] for i in range(0, len(frames), step)]
    some_frames = dataclasses.replace(frames, source=some)
    for example, body in labelled_bodies(some_frames, "joints behind their parts"):
        modes, _ = forest.predict(body)
        reach_m = np.linalg.norm(modes, axis=1)
        along = np.einsum("jd,jd->j", example["joints_m"], modes) / reach_m
        behind.append(along - reach_m)
    return dataclasses.replace(
        forest, behind_m=np.nanmedian(behind, axis=0).astype(np.float32)
    )
