"""Triangle meshes of plain solids, metres, and how they are put together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Point = Sequence[float] | np.ndarray

SIDES = 14  # of what is round

BOX_FACES = np.array(
    [
        face
        for a, b, c, d in (
            (0, 1, 3, 2),
            (4, 5, 7, 6),
            (0, 1, 5, 4),
            (2, 3, 7, 6),
            (0, 2, 6, 4),
            (1, 3, 7, 5),
        )
        for face in ((a, b, c), (a, c, d))
    ],
    np.int32,
)
BOX_CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])


class Solid(NamedTuple):
    """A surface.

    Attributes:
        vertices: [vertices, 3] metres.
        faces: [faces, 3] vertices of each triangle.
    """

    vertices: Float[np.ndarray, "vertices xyz=3"]
    faces: Int[np.ndarray, "faces corners=3"]

    def moved(self, by: Point) -> "Solid":
        """Returns the solid in another place."""
        return self._replace(vertices=self.vertices + np.asarray(by))

    def turned(self, angle: float) -> "Solid":
        """Returns the solid, turned about the vertical through the origin; radians."""
        return self._replace(vertices=self.vertices @ about_vertical(angle).T)


def about_vertical(angle: float) -> Float[np.ndarray, "3 3"]:
    """Returns the rotation by an angle about z, radians."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def joined(solids: Sequence[Solid]) -> Solid:
    """Returns several solids as one."""
    starts = np.cumsum([0, *(len(solid.vertices) for solid in solids)])
    return Solid(
        np.concatenate([solid.vertices for solid in solids]),
        np.concatenate(
            [solid.faces + start for solid, start in zip(solids, starts, strict=False)]
        ).astype(np.int32),
    )


def box(low: Point, high: Point) -> Solid:
    """Returns the box between two corners."""
    corners = np.asarray(low) + BOX_CORNERS * np.subtract(high, low)
    return Solid(corners.astype(float), BOX_FACES)


def tube(bottom: Point, top: Point, radii: tuple[float, float]) -> Solid:
    """Returns a closed cone between two points, a cylinder if its radii are equal."""
    start, end = np.asarray(bottom, float), np.asarray(top, float)
    axis = (end - start) / np.linalg.norm(end - start)
    aside = np.cross(axis, (1, 0, 0) if abs(axis[0]) < 0.9 else (0, 1, 0))
    aside /= np.linalg.norm(aside)
    angles = 2 * np.pi * np.arange(SIDES) / SIDES
    ring = np.outer(np.cos(angles), aside)
    ring += np.outer(np.sin(angles), np.cross(axis, aside))
    vertices = np.concatenate(
        [start + radii[0] * ring, end + radii[1] * ring, [start], [end]]
    )
    here = np.arange(SIDES)
    following = (here + 1) % SIDES
    faces = np.concatenate(
        [
            np.stack([here, following, here + SIDES], axis=1),
            np.stack([following, following + SIDES, here + SIDES], axis=1),
            np.stack([following, here, np.full(SIDES, 2 * SIDES)], axis=1),
            np.stack(
                [here + SIDES, following + SIDES, np.full(SIDES, 2 * SIDES + 1)], axis=1
            ),
        ]
    )
    return Solid(vertices, faces.astype(np.int32))


def ellipsoid(centre: Point, radii: Point) -> Solid:
    """Returns an ellipsoid along the axes."""
    height = np.linspace(-np.pi / 2, np.pi / 2, SIDES // 2 + 1)
    around = 2 * np.pi * np.arange(SIDES) / SIDES
    up, angle = np.meshgrid(height, around, indexing="ij")
    ball = np.stack(
        [np.cos(up) * np.cos(angle), np.cos(up) * np.sin(angle), np.sin(up)], axis=-1
    )
    vertices = np.asarray(centre) + ball.reshape(-1, 3) * np.asarray(radii)
    return Solid(vertices, _grid_faces(*up.shape, closed=True))


def sheet(heights: Float[np.ndarray, "rows columns"], size: Point) -> Solid:
    """Returns a sheet in x and z around the origin that waves along y.

    Args:
        heights: y of each point, metres.
        size: Width and height, metres.
    """
    rows, columns = heights.shape
    x = np.linspace(-size[0] / 2, size[0] / 2, columns)
    z = np.linspace(-size[1] / 2, size[1] / 2, rows)
    across, up = np.meshgrid(x, z)
    vertices = np.stack([across, heights, up], axis=-1).reshape(-1, 3)
    return Solid(vertices, _grid_faces(rows, columns, closed=False))


def _grid_faces(
    rows: int, columns: int, *, closed: bool
) -> Int[np.ndarray, "faces corners=3"]:
    """Returns the triangles between the points of a grid.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        closed: Whether the last column neighbours the first.
    """
    row, column = np.meshgrid(
        np.arange(rows - 1),
        np.arange(columns if closed else columns - 1),
        indexing="ij",
    )
    following = (column + 1) % columns
    a, b = row * columns + column, row * columns + following
    c, d = a + columns, b + columns
    faces = [np.stack([a, b, c], axis=-1), np.stack([b, d, c], axis=-1)]
    return np.concatenate([face.reshape(-1, 3) for face in faces]).astype(np.int32)
