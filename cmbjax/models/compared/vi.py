"""Viewpoint-invariant pose estimation (Haque et al., ECCV 2016; Table 4: VI)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from cmbjax.models.compared.norm import norm_relu
from cmbjax.models.compared.regression import MeanPose
from cmbjax.models.fast.cpu import eigen_convolution
from cmbjax.models.losses import AnyArray, Batch, batch_targets
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs, scaled

VOXELS = 40  # along each side of a volume
EXTENT = 0.5  # of a glimpse and its volume: fractions of the crop, and depth ranges
NOTHING = 2.0  # behind all that a volume holds
UNIT = 0.1  # of offsets, in units of a pose
VGG = (2, 2, 3, 3, 3)  # convolutions of 64, 128, 256, 512, 512 channels


def glimpse(
    depth: Float[Array, "side side"], joint: Float[Array, "xyz=3"], voxels: int
) -> Float[Array, "voxels voxels"]:
    """Returns the depth around a joint, relative to it; `NOTHING` where there is none.

    That is beyond the image, in holes, and where all is out of the depth range.
    """
    side = len(depth)
    around = ((jnp.arange(voxels) + 0.5) / voxels - 0.5) * EXTENT
    columns, rows = ((around + joint[i] + 0.5) * side - 0.5 for i in (0, 1))
    grid = jnp.meshgrid(rows, columns, indexing="ij")
    patch = map_coordinates(depth, grid, order=0, mode="constant", cval=1.0)
    return jnp.where(patch < 1, patch - joint[2], NOTHING)


def voxelise(
    relative: Float[Array, "voxels voxels"],
) -> Float[Array, "voxels voxels voxels"]:
    """Returns the surface as occupancy; each reading is shared by two voxels."""
    voxels = len(relative)
    centres = ((jnp.arange(voxels) + 0.5) / voxels - 0.5) * EXTENT
    off = (relative[..., None] - centres.reshape(1, 1, -1)) * voxels / EXTENT
    return jnp.maximum(0, 1 - jnp.abs(off))


def embed(
    volume: Float[Array, "height width depth"],
) -> Float[Array, "height width 2"]:
    """Returns a volume as it is seen from the front: how much, and how far away.

    The occupancy summed along the depth alone would be a silhouette.
    """
    centres = jnp.linspace(-1, 1, volume.shape[-1]).reshape(1, 1, -1)
    mass = jnp.sum(volume, axis=-1)
    distance = jnp.sum(volume * centres, axis=-1) / jnp.maximum(mass, 1e-6)
    return jnp.stack([mass, distance], axis=-1)


def transform(
    volume: Float[Array, "height width depth"], theta: Float[Array, "3 4"]
) -> Float[Array, "height width depth"]:
    """Samples a volume where an affine map of its own coordinates says, trilinearly.

    Coordinates are -1 and 1 at the outermost voxels' centres.
    """
    axes = [jnp.linspace(-1, 1, size) for size in volume.shape]
    grid = jnp.stack([*jnp.meshgrid(*axes, indexing="ij"), jnp.ones(volume.shape)])
    places = jnp.tensordot(theta, grid, axes=1, precision="highest")
    sizes = jnp.array(volume.shape).reshape(3, 1, 1, 1)
    return map_coordinates(volume, list((places + 1) / 2 * (sizes - 1)), order=1)


class Refinement(nn.Module, kw_only=True):
    """One step: glimpses, embeddings, VGG-16, LSTM, offsets; see `ViewpointInvariant`.

    Attributes:
        num_joints: Joints K.
        width: Multiplies every channel count.
        deep: Whether joints move in depth, too.
        train: Whether BN uses and updates with the statistics of the batch.
        dtype: Of the convolutions.
    """

    num_joints: int
    width: float
    deep: bool
    train: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, carry: tuple[Array, Any], depth: Float[Array, "batch side side"]
    ) -> tuple[tuple[Array, Any], tuple[Array, Array, Array]]:
        """Returns the next state; the pose before, offsets and visibility logits."""
        pose, memory = carry
        pose = jax.lax.stop_gradient(pose)
        voxels = VOXELS  # whatever the width

        def conv(x: Array, features: int) -> Array:
            x = nn.Conv(
                scaled(features, self.width),
                (3, 3),
                dtype=self.dtype,
                conv_general_dilated_cls=eigen_convolution,
            )(x)
            return norm_relu(x, train=self.train, dtype=self.dtype)

        def pool(x: Array) -> Array:
            return nn.max_pool(x, (2, 2), (2, 2)) if min(x.shape[1:3]) > 1 else x

        def look(image: Array, joints: Array) -> Array:
            return jax.vmap(lambda joint: glimpse(image, joint, voxels))(joints)

        patch = jax.vmap(look)(depth, pose).reshape(-1, voxels, voxels)
        x = jnp.clip(patch[..., None], -1, 1)
        for _ in range(4):
            x = pool(conv(x, 32))
        theta = nn.Dense(
            12,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda *_: jnp.eye(3, 4).ravel(),
            name="theta",
        )(x.reshape(len(x), -1).astype(jnp.float32))
        turned = jax.vmap(transform)(jax.vmap(voxelise)(patch), theta.reshape(-1, 3, 4))
        seen = jax.vmap(embed)(turned)
        x = seen.reshape(len(depth), self.num_joints, voxels, voxels, 2)
        x = jnp.moveaxis(x, 1, 3).reshape(len(depth), voxels, voxels, -1)
        for group, number in enumerate(VGG):
            for _ in range(number):
                x = conv(x, min(64 * 2**group, 512))
            x = pool(x)
        x = x.reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(scaled(2048, self.width), dtype=self.dtype)(x))
        cell = nn.OptimizedLSTMCell(scaled(2048, self.width))
        memory, x = cell(memory, x.astype(jnp.float32))
        outputs = nn.Dense(
            4 * self.num_joints,
            kernel_init=nn.initializers.normal(0.01),
            name="outputs",
        )(x)
        offsets = outputs[:, self.num_joints :].reshape(len(x), -1, 3)
        visible = outputs[:, : self.num_joints]
        moves = jnp.array([1.0, 1.0, float(self.deep)]).reshape(1, 1, 3)
        return (pose + UNIT * moves * offsets, memory), (pose, offsets, visible)


class ViewpointInvariant(Network, kw_only=True):
    """Refines a pose from the mean one on, looking at each joint in three dimensions.

    Around each joint's estimate a glimpse of the depth becomes a volume of voxels; a
    spatial transformer turns it (by an affine map that the glimpse tells, the identity
    at first); seen from the front it is an embedding, of how much there is and how far
    away, two channels a joint. VGG-16 and
    an LSTM over the steps say of each joint if it is visible and where it moves. The
    loss is, summed over steps, the cross-entropy of the visibility and the squared
    error of visible joints' offsets, which go as far as a glimpse.

    No code was published. From the paper, by way of those who restate it: glimpses,
    voxels, the transformer before VGG-16, LSTM of 2048, offsets and their loss. From
    memory: ten steps. The transformer's four convolutions are those of a student's
    reimplementation. Ours: a glimpse spans half of the crop at one resolution, where
    the original's gets coarser outwards; trilinear sampling in voxels; BN, with
    statistics of each step, and the usual initial scale, as the original's weights of
    0.001 do not train from scratch here; offsets in tenths of the crop and of the depth
    range, bounded in the loss, half of which came of a few wrong depths. The gradient
    does not flow from a step into the pose before it.

    Attributes:
        steps: Refinements.
    """

    steps: int = 10

    heads3d = ("none", "dense")
    stride = None

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the joints after the last step, and how surely each is visible."""
        pose, (_, _, visible) = self._refine(depth, train=train)
        dimensions = 3 if self.head3d == "dense" else 2
        return Outputs(joints=pose[..., :dimensions], scores=nn.sigmoid(visible[-1]))

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the sum over steps; see `Network`."""
        label, is_known = batch_targets(batch)
        _, (poses, offsets, logits) = self._refine(
            batch["depth"], label, is_known, train=True
        )
        if self.head3d == "none":
            is_known = is_known.at[..., 2].set(False)
        reach = EXTENT / 2  # to where a glimpse reaches
        aims = jnp.clip(label[None] - poses, -reach, reach) / UNIT
        off = jnp.where(is_known[None], offsets - aims, 0)
        squares = jnp.sum(off**2) / jnp.maximum(jnp.sum(is_known[..., 0]), 1)
        visible = batch["visible"][None]
        return squares + jnp.sum(
            jnp.mean(nn.softplus(logits) - logits * visible, axis=(1, 2))
        )

    @nn.compact
    def _refine(
        self, depth: AnyArray, *labels: Array, train: bool
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        """Returns the last pose; all steps' poses before, offsets and visibility."""
        depth = self.check(depth)
        mean_pose = MeanPose(num_joints=self.num_joints)
        start = mean_pose(*labels)
        pose = jnp.broadcast_to(start[None], (len(depth), *start.shape))
        features = self.scaled(2048)
        zeros = jnp.zeros((len(depth), features))
        # As a loop, which is compiled once, and keeps no step's volumes.
        steps = nn.scan(
            nn.remat(Refinement, prevent_cse=False),
            variable_broadcast="params",
            variable_axes={"batch_stats": 0},
            split_rngs={"params": False},
            in_axes=nn.broadcast,
            length=self.steps,
        )(
            num_joints=self.num_joints,
            width=self.width,
            deep=self.head3d == "dense",
            train=train,
            dtype=self.dtype,
            name="refinement",
        )
        (pose, _), each_step = steps((pose, (zeros, zeros)), depth[..., 0])
        return pose, each_step
