"""Joints <-> heat maps.

A heat map's cell (row, column) has its centre at the image's pixel
(stride * (column + 0.5), stride * (row + 0.5)). Rows and columns appear only here.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cmbjax.registry import pick

AnyArray = jax.Array | np.ndarray


def joints_to_heatmaps(
    joints_px: Float[AnyArray, "batch joints xy=2"],
    visible: Bool[AnyArray, "batch joints"],
    *,
    side: int,
    stride: int,
    sigma: float,
) -> Float[Array, "batch {side} {side} joints"]:
    """Draws a Gaussian of height 1 around each joint.

    Args:
        joints_px: Pixels of the network's input; may lie outside it.
        visible: An invisible joint's map is zero.
        side: Cells along each side of a map.
        stride: Input pixels per cell.
        sigma: Standard deviation, in cells.

    Returns:
        exp(-d^2 / (2 sigma^2)) for the distance d, in cells, to each cell's centre.
    """
    cells = jnp.where(visible[..., None], joints_px / stride, jnp.inf)
    centres = jnp.arange(side)[None, :, None, None] + 0.5
    offsets = centres - cells[:, None]
    columns, rows = jnp.moveaxis(jnp.exp(-(offsets**2) / (2 * sigma**2)), -1, 0)
    return rows[:, :, None] * columns[:, None]


@functools.partial(jax.jit, static_argnames=("stride", "decode"))
def heatmaps_to_joints(
    heatmaps: Float[AnyArray, "batch height width joints"],
    *,
    stride: int,
    decode: str = "argmax",
) -> tuple[Float[Array, "batch joints xy=2"], Float[Array, "batch joints"]]:
    """Finds the peak of each heat map.

    Args:
        heatmaps: One map a joint.
        stride: Input pixels per cell.
        decode: A name in `DECODES`: how to place the joint within its cell.

    Returns:
        Pixels, and the peaks' heights. A map without a peak gives its first cell.

    Raises:
        ValueError: No such decode.
    """
    place = pick(DECODES, "decode", decode)
    if decode == "upsampled":
        heatmaps, stride = upsample(jnp.asarray(heatmaps), stride), 1
    _, height, width, _ = heatmaps.shape
    row, column = _peaks(heatmaps)
    patch = _around(jnp.asarray(heatmaps), row, column)
    inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    offset = jnp.where(inside[..., None], place(patch), 0.0)
    centre = jnp.stack([column, row], axis=-1) + 0.5
    return stride * (centre + offset), patch[..., 1, 1]


@functools.partial(jax.jit, static_argnames=("side", "stride", "sigma", "decode"))
def quantise(
    joints_px: Float[AnyArray, "batch joints xy=2"],
    visible: Bool[AnyArray, "batch joints"],
    *,
    side: int,
    stride: int,
    sigma: float,
    decode: str = "argmax",
) -> Float[Array, "batch joints xy=2"]:
    """Returns what a perfect network's heat maps decode to: a result's ceiling.

    The arguments are those of `joints_to_heatmaps` and `heatmaps_to_joints`.
    """
    heatmaps = joints_to_heatmaps(
        joints_px, visible, side=side, stride=stride, sigma=sigma
    )
    return heatmaps_to_joints(heatmaps, stride=stride, decode=decode)[0]


@jax.jit
def read_maps(
    maps: Float[AnyArray, "batch height width joints"],
    heatmaps: Float[AnyArray, "batch height width joints"],
) -> Float[Array, "batch joints"]:
    """Returns what each map says where its heat map has its peak.

    The mean over the 3x3 cells around the peak, weighed by the heat map.
    """
    _, height, width, _ = heatmaps.shape
    row, column = _peaks(heatmaps)
    row = jnp.clip(row, 1, height - 2)
    column = jnp.clip(column, 1, width - 2)
    weights = jnp.maximum(_around(jnp.asarray(heatmaps), row, column), 1e-6)
    values = _around(jnp.asarray(maps), row, column)
    return jnp.sum(weights * values, (-2, -1)) / jnp.sum(weights, (-2, -1))


def _peaks(heatmaps: AnyArray) -> tuple[Array, Array]:
    """The row and the column of each map's largest cell, [batch, joints]."""
    batch, height, width, joints = heatmaps.shape
    cells = jnp.reshape(heatmaps, (batch, height * width, joints))
    return jnp.divmod(jnp.argmax(cells, axis=1), width)


def _around(
    heatmaps: Float[Array, "batch height width joints"], row, column
) -> Float[Array, "batch joints 3 3"]:
    """The cells around each map's cell (row, column); wrong at the border."""
    batch, _, _, joints = heatmaps.shape
    steps = jnp.arange(-1, 2)
    return heatmaps[
        jnp.arange(batch)[:, None, None, None],
        row[..., None, None] + steps[None, None, :, None],
        column[..., None, None] + steps[None, None, None, :],
        jnp.arange(joints)[None, :, None, None],
    ]


def _argmax(patch: Float[Array, "*maps 3 3"]) -> Float[Array, "*maps xy=2"]:
    """The peak's cell."""
    return jnp.zeros((*patch.shape[:-2], 2), patch.dtype)


def _quarter(patch: Float[Array, "*maps 3 3"]) -> Float[Array, "*maps xy=2"]:
    """A quarter cell towards the larger neighbour (Newell et al., ECCV 2016)."""
    slope_x = patch[..., 1, 2] - patch[..., 1, 0]
    slope_y = patch[..., 2, 1] - patch[..., 0, 1]
    return 0.25 * jnp.sign(jnp.stack([slope_x, slope_y], axis=-1))


def _dark(patch: Float[Array, "*maps 3 3"]) -> Float[Array, "*maps xy=2"]:
    """The maximum of the log map's Taylor expansion (Zhang et al., CVPR 2020).

    Exact for a Gaussian. Where the expansion has no maximum, the peak's cell. The
    paper's smoothing of the map beforehand is left out: it helps against noise that
    is independent from cell to cell, and costs accuracy where noise is as smooth as
    the map.
    """
    floor = jnp.maximum(1e-6 * patch[..., 1, 1], jnp.finfo(patch.dtype).tiny)
    log = jnp.log(jnp.maximum(patch, floor[..., None, None]))
    dx = (log[..., 1, 2] - log[..., 1, 0]) / 2
    dy = (log[..., 2, 1] - log[..., 0, 1]) / 2
    dxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    dyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    dxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy**2
    is_maximum = (determinant > 1e-6) & (dxx < 0)
    divisor = jnp.where(is_maximum, determinant, 1.0)
    newton = jnp.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1)
    offset = jnp.clip(newton / divisor[..., None], -1, 1)
    return jnp.where(is_maximum[..., None], offset, 0.0)


def upsample(
    heatmaps: Float[Array, "batch height width joints"], stride: int
) -> Float[Array, "batch rows columns joints"]:
    """Returns the maps at the input's size, by cubic interpolation."""
    batch, height, width, joints = heatmaps.shape
    shape = (batch, stride * height, stride * width, joints)
    return jax.image.resize(heatmaps, shape, "cubic")


# Upsampled: the peak of the map at the input's size (Wei et al., CVPR 2016).
DECODES = {
    "argmax": _argmax,
    "quarter": _quarter,
    "dark": _dark,
    "upsampled": _argmax,
}
