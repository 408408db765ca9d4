"""Losses of heat maps, depth maps and joints; a joint without a label asks for nothing.

Batches are those of `data.batches`: see `data.views.training_view`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Batch = dict[str, Any]  # arrays by name
AnyArray = jax.Array | np.ndarray

# Of a unit of normalised depth (1 m for bodies) beside a heat map's squared error.
DEPTH_WEIGHT = 10.0


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


def heatmap_loss(
    heatmaps: Float[Array, "batch cells cells joints"],
    joints_px: Float[Array, "batch joints xy=2"],
    visible: Bool[Array, "batch joints"],
    *,
    stride: int,
    sigma: float,
) -> Float[Array, ""]:
    """Returns the squared error, summed over cells, averaged over visible joints.

    Args:
        heatmaps: Predictions.
        joints_px: Pixels of the input; a joint outside it asks for an empty map.
        visible: Joints without a label ask for nothing.
        stride: Input pixels per cell.
        sigma: Of the target's Gaussian, in cells. An empty map costs pi sigma^2.
    """
    targets = joints_to_heatmaps(
        joints_px.astype(heatmaps.dtype),
        visible,
        side=heatmaps.shape[1],
        stride=stride,
        sigma=sigma,
    )
    squares = jnp.sum((heatmaps - targets) ** 2, axis=(1, 2))
    return jnp.sum(squares * visible) / jnp.maximum(jnp.sum(visible), 1)


def joint_targets(
    joints_px: Float[Array, "*batch joints xy=2"],
    joints_z: Float[Array, "*batch joints"],
    visible: Bool[Array, "*batch joints"],
    *,
    side: int,
) -> tuple[Float[Array, "*batch joints xyz=3"], Bool[Array, "*batch joints xyz=3"]]:
    """Returns joints in units of regression, and which of their values are known.

    Args:
        joints_px: Pixels of the input.
        joints_z: Normalised depth, NaN where it is not known.
        visible: Nothing is known of other joints.
        side: Of the input, in pixels.

    Returns:
        x, y as fractions of the crop from its centre, z as it came; 0 where not known.
    """
    joints = jnp.concatenate([joints_px / side - 0.5, joints_z[..., None]], axis=-1)
    is_known = visible[..., None] & jnp.isfinite(joints)
    return jnp.where(is_known, joints, 0), is_known


def batch_targets(
    batch: Batch,
) -> tuple[Float[Array, "batch joints xyz=3"], Bool[Array, "batch joints xyz=3"]]:
    """Returns `joint_targets` of a batch's (middle) frames."""
    return joint_targets(
        batch["joints_px"],
        batch["joints_z"],
        batch["visible"],
        side=batch["depth"].shape[1],
    )


def joints_loss(
    joints: Float[Array, "batch joints xyz=3"], batch: Batch
) -> Float[Array, ""]:
    """Returns the 3-D head's mean absolute error; joints without a depth do not count.

    Args:
        joints: x, y as fractions of the crop from its centre, z in normalised depth.
        batch: See `data.views.training_view`.
    """
    targets, is_known = batch_targets(batch)
    errors = jnp.where(is_known, jnp.abs(joints - targets), 0)
    return jnp.sum(errors) / jnp.maximum(jnp.sum(is_known), 1)


def depth_maps_loss(
    depth_maps: Float[Array, "batch cells cells joints"],
    batch: Batch,
    *,
    stride: int,
    sigma: float,
) -> Float[Array, ""]:
    """Returns the depth maps' mean absolute error around each joint.

    Args:
        depth_maps: Predictions, in normalised depth.
        batch: See `data.views.training_view`.
        stride: Input pixels per cell.
        sigma: Of the Gaussian that weighs the cells around a joint, in cells.
    """
    joints_z = batch["joints_z"]
    counted = batch["visible"] & jnp.isfinite(joints_z)
    weights = joints_to_heatmaps(
        batch["joints_px"].astype(depth_maps.dtype),
        counted,
        side=depth_maps.shape[1],
        stride=stride,
        sigma=sigma,
    )
    joints_z = jnp.where(counted, joints_z, 0)
    errors = jnp.abs(depth_maps - joints_z[:, None, None])
    return jnp.sum(weights * errors) / jnp.maximum(jnp.sum(weights), 1)
