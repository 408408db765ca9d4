"""Depth differences, and trees of them: grown by scikit-learn, climbed here."""

from typing import Any, NamedTuple

import numpy as np

FAR_M = 10.0  # depth of the background, and of what is outside the picture


class Tree(NamedTuple):
    """A tree as arrays, a row a node; the root is the first.

    Attributes:
        offsets: [nodes, 4] of the feature: x, y of both pixels, in pixel metres.
        thresholds: [nodes] metres: what is at most that goes left.
        children: [nodes, 2] left and right; -1 at leaves.
        values: [nodes, ...] what a leaf says.
    """

    offsets: np.ndarray
    thresholds: np.ndarray
    children: np.ndarray
    values: np.ndarray


def sample_offsets(rng: np.random.Generator, number: int, reach: float) -> np.ndarray:
    """Returns [number, 4] offsets of features; of half of them one pixel stays.

    Args:
        rng: Draws them.
        number: Of features.
        reach: Of an offset, pixel metres: at 1 m so many pixels.
    """
    offsets = rng.uniform(-reach, reach, (number, 4))
    offsets[: number // 2, 2:] = 0
    return offsets.astype(np.float32)


def differences(
    depth_m: np.ndarray, pixels: np.ndarray, z_m: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Returns depth differences (Shotton et al., Eq. 1), metres.

    Where the second pixel is the point's own, its depth is the point's.

    Args:
        depth_m: [height, width], `FAR_M` where nothing of the person is.
        pixels: [points, 2].
        z_m: [points] depth by which the offsets are divided.
        offsets: [features, 4].

    Returns:
        [points, features].
    """
    return _difference(depth_m, pixels[:, None], z_m[:, None], offsets[None])


def _difference(
    depth_m: np.ndarray, pixels: np.ndarray, z_m: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    first, second = (
        _look_up(depth_m, pixels + part / z_m[..., None])
        for part in (offsets[..., :2], offsets[..., 2:])
    )
    # On a surface that is the same; a point in the air learns how far it is from one.
    is_point = (offsets[..., 2:] == 0).all(axis=-1)
    return first - np.where(is_point, z_m, second)


def _look_up(depth_m: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    height, width = depth_m.shape
    # A point next to the camera would ask for pixels that no integer holds.
    at = np.floor(np.clip(pixels, -1, [width, height])).astype(np.intp)
    column, row = at[..., 0], at[..., 1]
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = depth_m[np.where(inside, row, 0), np.where(inside, column, 0)]
    return np.where(inside, found, np.float32(FAR_M))


def as_arrays(grown: Any, offsets: np.ndarray, values: np.ndarray) -> Tree:
    """Returns a tree of scikit-learn's as arrays.

    Args:
        grown: Its `tree_`.
        offsets: [features, 4] of the columns that it was grown on.
        values: [nodes, ...] of its nodes.
    """
    feature = np.maximum(grown.feature, 0)
    children = np.stack([grown.children_left, grown.children_right], axis=1)
    return Tree(
        offsets[feature],
        grown.threshold.astype(np.float32),
        children.astype(np.int32),
        values,
    )


def leaves(
    tree: Tree, depth_m: np.ndarray, pixels: np.ndarray, z_m: np.ndarray
) -> np.ndarray:
    """Returns the node [points] where each point ends; see `differences`."""
    node = np.zeros(len(pixels), np.int32)
    active = np.flatnonzero(tree.children[node, 0] >= 0)
    while active.size:
        at = node[active]
        feature = _difference(depth_m, pixels[active], z_m[active], tree.offsets[at])
        goes_right = (feature > tree.thresholds[at]).astype(np.intp)
        node[active] = tree.children[at, goes_right]
        active = active[tree.children[node[active], 0] >= 0]
    return node


class Climber:
    """A tree for one point at a time, for which NumPy takes as long as for hundreds."""

    def __init__(self, tree: Tree) -> None:
        """Takes a tree."""
        self._nodes = list(
            zip(
                tree.offsets.astype(float).tolist(),
                tree.thresholds.astype(float).tolist(),
                tree.children.tolist(),
                strict=True,
            )
        )

    def leaf(self, depth_m: np.ndarray, x: float, y: float, z_m: float) -> int:
        """Returns the node where a point ends, as `leaves` does.

        Args:
            depth_m: [height, width], `FAR_M` where nothing of the person is.
            x: Pixels.
            y: Likewise.
            z_m: Depth by which the offsets are divided.
        """
        height, width = depth_m.shape

        def look_up(dx: float, dy: float) -> float:
            column, row = x + dx / z_m, y + dy / z_m
            if 0 <= column < width and 0 <= row < height:
                return float(depth_m[int(row), int(column)])
            return FAR_M

        node = 0
        offsets, threshold, (left, right) = self._nodes[node]
        while left >= 0:
            x1, y1, x2, y2 = offsets
            second = look_up(x2, y2) if x2 or y2 else z_m
            node = right if look_up(x1, y1) - second > threshold else left
            offsets, threshold, (left, right) = self._nodes[node]
        return node


def stored(trees: list[Tree], name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of some trees by name, to be saved."""
    return {
        f"{name}/{number}/{field}": values
        for number, tree in enumerate(trees)
        for field, values in tree._asdict().items()
    }


def loaded(arrays: dict[str, np.ndarray], name: str) -> list[Tree]:
    """Returns the trees of that name that `stored` was given."""
    numbers = {int(key.split("/")[1]) for key in arrays if key.startswith(f"{name}/")}
    return [
        Tree(**{field: arrays[f"{name}/{i}/{field}"] for field in Tree._fields})
        for i in sorted(numbers)
    ]
