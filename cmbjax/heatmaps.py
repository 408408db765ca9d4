"""Heat maps -> joints: what training, evaluation and prediction share.

Maps are arrays of NumPy or of JAX, under `jit` too, and so are the joints.

A heat map's cell (row, column) has its centre at the image's pixel
(stride * (column + 0.5), stride * (row + 0.5)). The way from joints to heat maps is in
`models/losses.py`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmbjax.registry import pick

Array = Any  # of NumPy or JAX
UNSURE_PEAK = 0.6  # lower: `smoothed` smooths it


class Smoothing(NamedTuple):
    """How `smoothed` smooths maps.

    Attributes:
        deviation: Standard deviation of the Gaussian, in sides of a map.
        is_open: Whether the joint may lie beyond the map's edge, where nothing is known
            of it; else nothing is there.
    """

    deviation: float
    is_open: bool = False


class Decoded(NamedTuple):
    """Where a network has the joints of a batch.

    Attributes:
        joints_px: [batch, joints, 2] pixels of the input.
        scores: [batch, joints] how sure it is: of a heat map the height of its peak.
        joints: [batch, joints, 3] x and y as fractions of the input from its centre, z
            in normalised depth; None where the network gives no depth.
    """

    joints_px: np.ndarray
    scores: np.ndarray
    joints: np.ndarray | None


def decode_maps(
    heatmaps: Array,
    *,
    depth_maps: Array | None = None,
    joints: Array | None = None,
    side: int,
    stride: int,
    decode: str,
) -> Decoded:
    """Returns the joints in heat maps, with the depth that a 3-D head gives.

    Args:
        heatmaps: [batch, cells, cells, joints].
        depth_maps: Likewise; each joint's normalised depth.
        joints: [batch, joints, 3] of a head that regresses joints.
        side: Of the network's input, pixels.
        stride: Input pixels per cell.
        decode: A name in `DECODES`.
    """
    if decode in SMOOTHED:
        heatmaps, decode = smoothed(heatmaps, SMOOTHED[decode]), "dark"
    joints_px, scores = heatmaps_to_joints(heatmaps, stride=stride, decode=decode)
    if depth_maps is not None:
        depths = read_maps(depth_maps, heatmaps)
        xp = joints_px.__array_namespace__()
        joints = xp.concatenate([joints_px / side - 0.5, depths[..., None]], axis=-1)
    return Decoded(joints_px, scores, joints)


def mirrored(outputs: Mapping[str, Array], mirror: Sequence[int]) -> dict[str, Array]:
    """Returns what a network gave for a mirrored image, told of the image itself.

    Args:
        outputs: By name, as `models.network.Outputs` has them; those that there are.
        mirror: For each joint, the one that takes its place in a mirrored image.
    """
    order = np.array(mirror)
    told = {}
    for name, values in outputs.items():
        if name == "joints":
            x, rest = values[..., order, :1], values[..., order, 1:]
            xp = values.__array_namespace__()
            told[name] = xp.concatenate([-x, rest], axis=-1)
        elif name == "scores":
            told[name] = values[:, order]
        else:
            told[name] = values[:, :, ::-1, order]
    return told


def heatmaps_to_joints(
    heatmaps: Array, *, stride: int, decode: str = "argmax"
) -> tuple[Array, Array]:
    """Finds the peak of each heat map.

    Args:
        heatmaps: [batch, height, width, joints], one map a joint.
        stride: Input pixels per cell.
        decode: A name in `DECODES`: how to place the joint within its cell.

    Returns:
        [batch, joints, 2] pixels, and [batch, joints] heights of the peaks. A map
        without a peak gives its first cell.

    Raises:
        ValueError: No such decode.
    """
    place = pick(DECODES, "decode", decode)
    if decode == "upsampled":
        heatmaps, stride = upsample(heatmaps, stride), 1
    if decode in SMOOTHED:
        heatmaps = smoothed(heatmaps, SMOOTHED[decode])
    _, height, width, _ = heatmaps.shape
    xp = heatmaps.__array_namespace__()
    row, column = _peaks(heatmaps)
    patch = _around(heatmaps, row, column).astype(np.float32)
    is_inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    offset = xp.where(is_inside[..., None], place(patch), 0)
    centre = xp.stack([column, row], axis=-1).astype(np.float32) + 0.5
    return stride * (centre + offset), patch[..., 1, 1]


def read_maps(maps: Array, heatmaps: Array) -> Array:
    """Returns [batch, joints]: what each map says where its heat map has its peak.

    The mean over the 3x3 cells around the peak, weighed by the heat map.

    Args:
        maps: [batch, height, width, joints].
        heatmaps: Likewise.
    """
    _, height, width, _ = heatmaps.shape
    row, column = _peaks(heatmaps)
    row, column = row.clip(1, height - 2), column.clip(1, width - 2)
    xp = heatmaps.__array_namespace__()
    weights = xp.maximum(_around(heatmaps, row, column), 1e-6)
    values = _around(maps, row, column)
    return (weights * values).sum((-2, -1)) / weights.sum((-2, -1))


def upsample(heatmaps: Array, stride: int) -> Array:
    """Returns the maps at the input's size, by cubic interpolation.

    Beyond a map is its lowest value. Where the border went on, as resizing an image has
    it, what peaks within a cell of it would peak at the border itself: of 8 cells of 8
    pixels up to 7 pixels off.

    Args:
        heatmaps: [batch, height, width, joints].
        stride: By how much each side grows.
    """
    rows, columns = (_cubic(size, stride) for size in heatmaps.shape[1:3])
    xp = heatmaps.__array_namespace__()
    lowest = heatmaps.min((1, 2), keepdims=True)
    maps = xp.einsum("ih,bhwj->biwj", rows, heatmaps - lowest)
    return xp.einsum("kw,biwj->bikj", columns, maps) + lowest


def smoothed(heatmaps: Array, smoothing: Smoothing) -> Array:
    """Returns the maps; those with a low peak are smoothed, and keep its height.

    A joint that is hidden or cut off may be in many places, and its map is low and
    wide: the cell in which most of it lies nearby is a better guess than the highest.

    Args:
        heatmaps: [batch, height, width, joints].
        smoothing: How far, and what lies beyond a map's edge.
    """
    _, height, width, _ = heatmaps.shape
    xp = heatmaps.__array_namespace__()
    maps = xp.moveaxis(heatmaps, 3, 1).copy()  # one after the other: 2 times as fast
    rows, columns = (_gaussian(size, smoothing.deviation) for size in (height, width))
    if smoothing.is_open:  # the mean over the part of the window that is in the map
        rows = rows / rows.sum(axis=1, keepdims=True)
        columns = columns / columns.sum(axis=0)
    smooth = rows @ xp.maximum(maps, 0) @ columns
    peaks = maps.max((2, 3), keepdims=True)
    highest = xp.maximum(smooth.max((2, 3), keepdims=True), 1e-9)
    is_low = (peaks < UNSURE_PEAK) & (peaks > 0)
    return xp.moveaxis(xp.where(is_low, smooth * (peaks / highest), maps), 1, 3)


@functools.cache
def _gaussian(size: int, deviation: float) -> np.ndarray:
    """Returns [size, size] weights of a Gaussian around each cell; 0 lies outside."""
    cells = np.arange(size)
    squares = ((cells[:, None] - cells) / (deviation * size)) ** 2
    return np.exp(-squares / 2).astype(np.float32)


def _cubic(size: int, stride: int) -> np.ndarray:
    """Returns [stride * size, size] weights of Keys' cubic."""
    places = (np.arange(size * stride) + 0.5) / stride - 0.5
    t = np.abs(places[:, None] - np.arange(size))
    near = ((1.5 * t - 2.5) * t) * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0)).astype(np.float32)


def _peaks(heatmaps: Array) -> tuple[Array, Array]:
    """The row and the column of each map's largest cell, [batch, joints]."""
    batch, height, width, joints = heatmaps.shape
    cells = heatmaps.reshape(batch, height * width, joints).argmax(axis=1)
    return cells // width, cells % width


def _around(maps: Array, row: Array, column: Array) -> Array:
    """The cells around each map's (row, column), [batch, joints, 3, 3].

    Beyond the border are those at the border.
    """
    batch, height, width, joints = maps.shape
    steps = np.arange(-1, 2)
    rows = row[..., None, None] + steps.reshape(1, 1, 3, 1)
    columns = column[..., None, None] + steps.reshape(1, 1, 1, 3)
    return maps[
        np.arange(batch).reshape(-1, 1, 1, 1),
        rows.clip(0, height - 1),
        columns.clip(0, width - 1),
        np.arange(joints).reshape(1, -1, 1, 1),
    ]


def _argmax(patch: Array) -> Array:
    """The peak's cell."""
    return patch.__array_namespace__().zeros_like(patch[..., 0, :2])


def _quarter(patch: Array) -> Array:
    """A quarter cell towards the larger neighbour (Newell et al., ECCV 2016)."""
    slope_x = patch[..., 1, 2] - patch[..., 1, 0]
    slope_y = patch[..., 2, 1] - patch[..., 0, 1]
    xp = patch.__array_namespace__()
    return 0.25 * xp.sign(xp.stack([slope_x, slope_y], axis=-1))


def _dark(patch: Array) -> Array:
    """The maximum of the log map's Taylor expansion (Zhang et al., CVPR 2020).

    Exact for a Gaussian. Where the expansion has no maximum, the peak's cell. The
    paper's smoothing of the map beforehand is left out: it helps against noise that
    is independent from cell to cell, and costs accuracy where noise is as smooth as
    the map.
    """
    xp = patch.__array_namespace__()
    floor = xp.maximum(1e-6 * patch[..., 1, 1], np.finfo(np.float32).tiny)
    log = xp.log(xp.maximum(patch, floor[..., None, None]))
    dx = (log[..., 1, 2] - log[..., 1, 0]) / 2
    dy = (log[..., 2, 1] - log[..., 0, 1]) / 2
    dxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    dyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    dxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy**2
    is_maximum = (determinant > 1e-6) & (dxx < 0)
    divisor = xp.where(is_maximum, determinant, 1)
    newton = xp.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1)
    offset = xp.clip(newton / divisor[..., None], -1, 1)
    return xp.where(is_maximum[..., None], offset, 0)


# Upsampled: the peak of the map at the input's size (Wei et al., CVPR 2016).
# Smoothed: dark, see `smoothed`. Fingers lie side by side, and are smoothed less.
SMOOTHED = {
    "smoothed": Smoothing(1 / 12),
    "smoothed_open": Smoothing(1 / 12, is_open=True),
    "smoothed_less": Smoothing(1 / 16),
}
DECODES = {
    "argmax": _argmax,
    "quarter": _quarter,
    "dark": _dark,
    "smoothed": _dark,
    "smoothed_open": _dark,
    "smoothed_less": _dark,
    "upsampled": _argmax,
}
