"""People in one depth image: metric size, no background model, nothing learned.

Pixels: the centre of the top-left pixel is (0.5, 0.5). Camera frame: x right, y
down, z forward, metres. The camera looks roughly level; views from above are not
served.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from cmbjax.camera import default_camera
from cmbjax.depth.images import checked_depth

WORK_SIDE = 320  # pixels: larger images are thinned out, a body keeps 100 rows
SENSOR_STEP = 2.85e-3  # 1/m: structured light resolves steps of this times z^2
LINK = 0.06  # metres: neighbours closer than this plus 1.5 steps are one surface

VOTERS = 1500  # points that vote for a plane or measure a piece
COARSE = 100  # rows or columns that the plane search looks at
PLANE_BIN = 0.03  # metres
FLOOR_BELOW = (0.4, 2.4)  # metres from the camera down to the floor
FLOOR_TILTS = np.radians(np.arange(-20, 21))  # of the floor against the camera
FLOOR_CUT = 0.04  # metres: what is lower is floor; soles are drawn back on later
WALL_AREA = 1.8  # m^2 in one upright plane; two people side by side have 1.5
WALL_ANGLES = np.radians(np.arange(-90, 90, 4))
WALL_REACH = 7.0  # metres to either side of the camera
NUM_WALLS = 3

PIECE_AREA = 0.004  # m^2: smaller pieces are speckle
LIMB_AREA = 0.15  # m^2: an arm or a leg, seen from the side
LIMB_FRONT, LIMB_BEHIND = 0.7, 0.55  # metres from the body's depth
REST_JUMP = 0.4  # metres between trunk and legs that a folded arm's shadow cuts apart
# What a person measures, from a crouching child to arms stretched up or out.
AREA = (0.2, 1.6)  # m^2 facing the camera
TALL, WIDE, DEEP = (0.7, 2.4), (0.2, 2.2), (0.0, 1.5)  # metres
TOP, BOTTOM = (0.9, 2.45), (-0.2, 1.2)  # metres above the floor; a table may hide legs
MAX_SOLID = 0.92  # of its convex hull; people fill 0.2-0.87, a cupboard or ball 1
MAX_BLOCK = 1.42  # that plus the head's part of the greatest width; people have <= 1.38
MIN_RELIEF = 0.008  # metres, with a third of a step: a board is flatter
MAX_LINKED = 0.35  # of the outline: a bulge in a wall goes over into it


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One person found in a depth image.

    Attributes:
        box: float32 [x0, y0, x1, y1], pixels.
        depth_mm: Median over the mask, millimetres (raw: the image's unit).
        mask: bool [height, width].
    """

    box: np.ndarray
    depth_mm: float
    mask: np.ndarray


class _View(NamedTuple):
    points: np.ndarray  # [height, width, 3], metres
    area: np.ndarray  # [height, width], m^2 a pixel covers across the line of sight
    step: np.ndarray  # [height, width], metres between two readings of the sensor
    down: np.ndarray  # the floor's normal
    floor: float  # metres from the camera along `down`, NaN where no floor is seen
    height: np.ndarray  # [height, width], metres above the floor or above the camera


class _Piece(NamedTuple):
    area: float  # m^2
    depth: float  # metres, median
    window: tuple[slice, slice]
    mask: np.ndarray  # in the window


def find_people(
    depth_mm: np.ndarray,
    camera: np.ndarray | Sequence[float] | None = None,
    *,
    metric: bool = True,
) -> list[Person]:
    """Finds the people in a depth image.

    Floor and walls are cut off, the rest falls apart where the depth jumps; pieces
    that can be limbs join the body they touch, and what has a person's size and
    shape stays.

    Args:
        depth_mm: uint16 [height, width], millimetres, 0 = no reading. Not metric:
            uint8 or uint16 of any scale, the background 0 or the largest value.
        camera: [fx, fy, cx, cy], pixels. None or NaN: `camera.default_camera`.
        metric: Whether `depth_mm` is in millimetres. If not, people are the large
            foreground components, and `camera` is not used.

    Returns:
        People, nearest first (not metric: largest first); empty if there are none.

    Raises:
        ValueError: `depth_mm` or `camera` has another shape or type.
    """
    depth_mm = checked_depth(depth_mm, "depth_mm", metric=metric)
    rows, columns = depth_mm.shape
    default = default_camera(depth_mm.shape)
    intrinsics = np.asarray(default if camera is None else camera, np.float32)
    if intrinsics.shape != (4,):
        raise ValueError(
            f"camera must be [fx, fy, cx, cy], got shape {intrinsics.shape}"
        )
    if not np.isfinite(intrinsics).all():
        intrinsics = default

    stride = -(-max(rows, columns) // WORK_SIDE)
    small = depth_mm[::stride, ::stride]
    scaled = intrinsics / stride
    silhouettes = _metric_people(small, scaled) if metric else _raw_people(small)
    people = []
    for mask, bottom in silhouettes:
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        box = stride * np.array([x, y, x + width, max(y + height, bottom)], np.float32)
        box = np.minimum(box, np.array([columns, rows, columns, rows], np.float32))
        depth = float(np.median(small[mask]))
        full = mask.repeat(stride, axis=0).repeat(stride, axis=1)[:rows, :columns]
        people.append(Person(box, depth, full))
    if metric:
        return sorted(people, key=lambda person: person.depth_mm)
    return sorted(people, key=lambda person: -person.mask.sum())


def _raw_people(values: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Yields the large components in front of a clean background."""
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    farthest = values.max()
    empty = farthest if np.median(border) == farthest else 0
    body = ((values != empty) & (values != 0)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(body, connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    least = max(0.005 * body.size, 0.3 * sizes.max(initial=0))  # else it is speckle
    for label in np.flatnonzero(sizes >= least):
        yield labels == label + 1, 0.0


def _metric_people(
    depth_mm: np.ndarray, camera: np.ndarray
) -> Iterator[tuple[np.ndarray, float]]:
    """Yields the mask of each person and the row where the feet meet the floor."""
    view = _look(depth_mm, camera[:2], camera[2:])
    depth = view.points[..., 2]
    solid = depth > 0
    if np.isfinite(view.floor):
        solid &= view.height > FLOOR_CUT + 0.3 * view.step
    wall = solid & _on_walls(view, solid)
    pieces = _pieces(view, solid & ~wall)
    taken: set[int] = set()
    for seed, piece in enumerate(pieces):
        if seed in taken or piece.area < 0.8 * AREA[0]:
            continue
        mask, members = _grow(seed, pieces, taken, depth.shape)
        if _is_person(view, mask) and _linked(view, mask, wall) < MAX_LINKED:
            taken |= members
            yield mask, _soles(view, mask) * camera[1] + camera[3]


def _look(depth_mm: np.ndarray, focal: np.ndarray, centre: np.ndarray) -> _View:
    """Back-projects the image and finds the floor."""
    z = depth_mm * np.float32(0.001)
    x = (np.arange(z.shape[1], dtype=np.float32) + 0.5 - centre[0]) / focal[0]
    y = (np.arange(z.shape[0], dtype=np.float32) + 0.5 - centre[1]) / focal[1]
    points = np.stack([z * x, z * y[:, None], z], axis=-1)
    down, floor = _find_floor(points)
    height = (floor if np.isfinite(floor) else np.float32(0)) - points @ down
    square = z * z
    area, step = square / focal.prod(), np.float32(SENSOR_STEP) * square
    return _View(points, area, step, down, floor, height)


def _votes(
    points: np.ndarray, areas: np.ndarray, directions: np.ndarray, span: tuple
) -> np.ndarray:
    """Sums the areas at each distance (columns) along each direction (rows)."""
    each = 1 + len(points) // VOTERS
    points, areas = points[::each], areas[::each] * each
    bins, num = round((span[1] - span[0]) / PLANE_BIN), len(directions)
    cell = (points @ directions.T - np.float32(span[0])) / np.float32(PLANE_BIN)
    cell = np.clip(cell, 0, bins - 1).astype(np.int32)
    cell += bins * np.arange(num, dtype=np.int32)
    return np.bincount(cell.ravel(), areas.repeat(num), bins * num).reshape(num, bins)


def _find_floor(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Finds the lowest level plane: its downward normal and distance, NaN if none."""
    points = points[:, :: 1 + points.shape[1] // COARSE]
    y, z = points[..., 1], points[..., 2]
    rows = max(1, len(z) // 80)  # far enough apart to climb over a sensor step
    rise = z[:-rows] - z[rows:]
    level = (z[rows:] > 0) & (rise > 2 * np.abs(y[:-rows] - y[rows:])) & (rise < 0.6)
    ground, solid = points[rows:][level], points[z > 0]
    tilts = (np.zeros_like(FLOOR_TILTS), np.cos(FLOOR_TILTS), np.sin(FLOOR_TILTS))
    downs = np.stack(tilts, axis=1).astype(np.float32)
    span = (0, FLOOR_BELOW[1] + 3 * PLANE_BIN)
    on = _votes(ground, np.ones(len(ground)), downs, span)
    below = _votes(solid, np.ones(len(solid)), downs, span)[:, ::-1].cumsum(axis=1)
    score = on[:, :-3] + on[:, 1:-2] - 3 * below[:, -4::-1]  # nothing is below a floor
    score[:, : round(FLOOR_BELOW[0] / PLANE_BIN)] = 0
    tilt, cell = np.unravel_index(score.argmax(), score.shape)
    if score[tilt, cell] < 10 + 0.003 * z.size:
        return np.array([0, 1, 0], np.float32), np.nan
    down, floor = downs[tilt], float(cell + 1) * PLANE_BIN
    for _ in range(2):  # least squares over what lies near gives the roll, too
        x, y, z = ground[np.abs(ground @ down - floor) < 2 * PLANE_BIN].T
        slope = np.linalg.lstsq(np.stack([x, z, np.ones_like(x)], 1), y, rcond=None)[0]
        normal = np.array([-slope[0], 1, -slope[1]], np.float32)
        length = np.linalg.norm(normal)
        down, floor = normal / length, float(slope[2] / length)
    return down, floor


def _on_walls(view: _View, solid: np.ndarray) -> np.ndarray:
    """Marks the pixels on large upright planes."""
    forward = np.cross([1, 0, 0], view.down)
    forward /= np.linalg.norm(forward)
    axes = np.stack([np.cross(view.down, forward), forward], 1).astype(np.float32)
    plan = (view.points.reshape(-1, 3) @ axes).reshape(*solid.shape, 2)
    compass = np.stack([np.sin(WALL_ANGLES), np.cos(WALL_ANGLES)], 1).astype(np.float32)
    each = 1 + len(solid) // COARSE
    coarse = np.s_[::each, ::each]
    free = solid.copy()
    for _ in range(NUM_WALLS):
        places, areas = plan[coarse][free[coarse]], view.area[coarse][free[coarse]]
        votes = _votes(places, areas * each**2, compass, (-WALL_REACH, WALL_REACH))
        votes[:, [0, -1]] = 0  # whatever lies beyond
        votes = votes[:, :-3] + votes[:, 1:-2] + votes[:, 2:-1] + votes[:, 3:]
        angle, cell = np.unravel_index(votes.argmax(), votes.shape)
        if votes[angle, cell] < WALL_AREA:
            break
        normal, distance = compass[angle], (cell + 2) * PLANE_BIN - WALL_REACH
        for _ in range(2):
            near = np.abs(places @ normal - distance) < 3 * PLANE_BIN
            if near.sum() < 3:
                break
            spread = np.cov(places[near].T, aweights=areas[near])
            normal = np.linalg.eigh(spread)[1][:, 0].astype(np.float32)
            distance = np.average(places[near] @ normal, weights=areas[near])
        off = plan @ normal - np.float32(distance)
        free &= np.abs(off) > LINK + view.step
    return solid & ~free


def _linked_neighbours(view: _View) -> Iterator[tuple]:
    """Yields the slices of the two ends and which neighbours are one surface."""
    depth, reach = view.points[..., 2], np.float32(LINK) + 1.5 * view.step
    for first, second in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        yield first, second, np.abs(depth[first] - depth[second]) < reach[first]


def _pieces(view: _View, free: np.ndarray) -> list[_Piece]:
    """Splits the free pixels where the depth jumps; largest piece first."""
    rows, columns = free.shape
    # Pixels at the even places of a finer grid, the links between them at the odd ones.
    grid = np.zeros((2 * rows - 1, 2 * columns - 1), np.uint8)
    grid[::2, ::2] = free
    between = (grid[1::2, ::2], grid[::2, 1::2])
    for gap, ends in zip(between, _linked_neighbours(view), strict=True):
        first, second, linked = ends
        gap[...] = free[first] & free[second] & linked
    _, labels, stats, _ = cv2.connectedComponentsWithStats(grid, connectivity=4)
    labels = labels[::2, ::2]
    areas = np.bincount(labels.ravel(), (view.area * free).ravel(), len(stats))
    pieces = []
    for label in np.flatnonzero((areas > PIECE_AREA) & (areas < AREA[1])):
        x, y, width, height = stats[label, :4] // 2
        window = np.s_[y : y + height + 1, x : x + width + 1]
        mask = labels[window] == label
        points = view.points[window][mask]
        some = points[:: 1 + len(points) // VOTERS]
        wide, _, deep = np.subtract(*np.percentile(some, [99, 1], axis=0))
        if wide < WIDE[1] and deep < DEEP[1] and len(points) > 4:
            depth = float(np.median(points[:, 2]))
            pieces.append(_Piece(areas[label], depth, window, mask))
    return sorted(pieces, key=lambda piece: -piece.area)


def _grow(
    seed: int, pieces: list[_Piece], taken: set[int], shape: tuple[int, int]
) -> tuple[np.ndarray, set[int]]:
    """Joins to a body the smaller pieces that can be hidden or reaching limbs of it."""
    mask = np.zeros(shape, bool)
    members, fresh = {seed}, {seed}
    reach = np.ones((2 * max(1, shape[0] // 100) + 1,) * 2, np.uint8)
    while fresh:
        for index in fresh:
            mask[pieces[index].window] |= pieces[index].mask
        around = cv2.dilate(mask.astype(np.uint8), reach) > 0
        fresh = set()
        for index in range(seed + 1, len(pieces)):
            piece = pieces[index]
            jump = piece.depth - pieces[seed].depth
            if index in members | taken or not -LIMB_FRONT < jump < LIMB_BEHIND:
                continue
            side = np.sqrt(piece.mask.sum())
            contact = (piece.mask & around[piece.window]).sum()
            limb = piece.area < LIMB_AREA and contact > 0.15 * side
            rest = abs(jump) < REST_JUMP and contact > 0.5 * side
            above = _overlap(piece.window[1], pieces[seed].window[1]) > 0.5
            if contact > 2 and (limb or (rest and above)):
                fresh.add(index)
        members |= fresh
    return mask, members


def _overlap(first: slice, second: slice) -> float:
    """Returns the common part of two ranges, as a share of the shorter one."""
    common = min(first.stop, second.stop) - max(first.start, second.start)
    return common / min(first.stop - first.start, second.stop - second.start)


def _is_block(mask: np.ndarray) -> bool:
    """Tells whether a silhouette is too solid for a body with a head and limbs."""
    _, top, _, height = cv2.boundingRect(mask.astype(np.uint8))
    filled = mask[top : top + height].astype(np.uint8)
    outlines, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, outlines, -1, color=1, thickness=cv2.FILLED)
    hull = cv2.convexHull(np.concatenate(outlines))
    # The hull runs through the centres of the outermost pixels.
    hull_area = cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1
    widths = filled.sum(axis=1)
    solid = widths.sum() / hull_area
    head = widths[: 1 + height // 8].mean() / widths.max()
    return bool(solid > MAX_SOLID or solid + head > MAX_BLOCK)


def _is_person(view: _View, mask: np.ndarray) -> bool:
    """Tells whether a body has a person's size and shape."""
    points, height = view.points[mask], view.height[mask]
    some = np.s_[:: 1 + len(points) // VOTERS]
    points, height = points[some], height[some]
    low, high = np.percentile(np.c_[points, height], [1, 99], axis=0)
    wide, tall, deep, _ = high - low
    area = view.area[mask].sum()
    # A plane's inverse depth is linear in the image.
    near = 1 / points[:, 2]
    rays = np.c_[points[:, :2] * near[:, None], np.ones_like(near)]
    plane = rays @ np.linalg.lstsq(rays, near, rcond=None)[0]
    relief = np.median(np.abs(1 / plane - points[:, 2]))
    sizes = [(area, AREA), (wide, WIDE), (tall, TALL), (deep, DEEP)]
    if np.isfinite(view.floor):
        sizes += [(high[3], TOP), (low[3], BOTTOM)]
    fits = all(least <= size <= most for size, (least, most) in sizes)
    flat = relief < MIN_RELIEF + np.median(view.step[mask]) / 3
    return bool(fits and not flat and not _is_block(mask))


def _linked(view: _View, mask: np.ndarray, wall: np.ndarray) -> float:
    """Returns the share of the outline that goes over into a wall."""
    outline = joined = 0
    for first, second, linked in _linked_neighbours(view):
        edge = mask[first] != mask[second]
        outline += edge.sum()
        joined += (edge & linked & (wall[first] | wall[second])).sum()
    return float(joined / max(outline, 1))


def _soles(view: _View, mask: np.ndarray) -> float:
    """Returns y/z of the floor under the feet, -inf where no feet touch the floor."""
    points, height = view.points[mask], view.height[mask]
    lowest = np.percentile(height, 1)
    if not (np.isfinite(view.floor) and lowest < 0.2):
        return -np.inf
    feet = height < lowest + 0.1
    ground = points[feet] + height[feet, None] * view.down
    return float(np.percentile(ground[:, 1] / ground[:, 2], 95))
