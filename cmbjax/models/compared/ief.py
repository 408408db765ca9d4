"""Iterative error feedback (Carreira et al., CVPR 2016; Table 4: IEF)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.compared.norm import norm_relu
from cmbjax.models.compared.regression import MeanPose
from cmbjax.models.losses import AnyArray, Batch, batch_targets
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs, scaled

STEPS = 4
# Of one step, in units of a pose: fractions of the crop (20 pixels of 224) and
# normalised depth.
LARGEST = np.array([20 / 224, 20 / 224, 0.2], np.float32)
FALLOFF = 0.001 * 224**2  # of a rendered joint's Gaussian, with fractions of the crop

# Channels of 1x1; of 1x1 before 3x3, and 3x3; likewise 5x5; of 1x1 behind the pooling.
Inceptions = tuple[tuple[int, int, int, int, int, int], ...]
GOOGLENET: tuple[Inceptions, ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def bounded(step: Float[Array, "batch joints xyz"]) -> Float[Array, "batch joints xyz"]:
    """Returns steps of at most length 1 in the image, and of at most 1 in depth."""
    xy, z = jnp.clip(step[..., :2], -1e6, 1e6), step[..., 2:]  # has a square
    square = jnp.sum(xy**2, axis=-1, keepdims=True)
    return jnp.concatenate(
        [xy / jnp.sqrt(jnp.maximum(square, 1)), jnp.clip(z, -1, 1)], axis=-1
    )


def render(
    pose: Float[Array, "batch joints xyz"], side: int
) -> Float[Array, "batch side side joints"]:
    """Draws a wide Gaussian around each joint, from -50 / 128 to 50 / 128."""
    places = (jnp.arange(side) + 0.5) / side - 0.5
    x, y = (
        jnp.exp(-FALLOFF * (places.reshape(1, -1, 1) - pose[:, None, :, i]) ** 2)
        for i in (0, 1)
    )
    return (100 * y[:, :, None] * x[:, None] - 50) / 128


class GoogLeNet(nn.Module, kw_only=True):
    """Szegedy et al., CVPR 2015, without its side branches, down to the last pooling.

    Attributes:
        width: Multiplies every channel count.
        norm: Whether BN follows each convolution.
        dtype: Of the computation.
    """

    width: float
    norm: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Float[Array, "batch features"]:
        """Returns the means over cells."""

        def conv(x: Array, features: int, size: int, stride: int = 1) -> Array:
            x = nn.Conv(
                scaled(features, self.width),
                (size, size),
                strides=stride,
                dtype=self.dtype,
            )(x)
            return (
                norm_relu(x, train=train, dtype=self.dtype) if self.norm else nn.relu(x)
            )

        def pool(x: Array, stride: int = 2) -> Array:
            return nn.max_pool(x, (3, 3), (stride, stride), "SAME")

        x = pool(conv(x, 64, 7, 2))
        x = pool(conv(conv(x, 64, 1), 192, 3))
        for i, group in enumerate(GOOGLENET):
            x = pool(x) if i else x
            for single, before3, three, before5, five, pooled in group:
                ways = [
                    conv(x, single, 1),
                    conv(conv(x, before3, 1), three, 3),
                    conv(conv(x, before5, 1), five, 5),
                    conv(pool(x, 1), pooled, 1),
                ]
                x = jnp.concatenate(ways, axis=-1)
        return jnp.mean(x, axis=(1, 2))


class IEF(Network, kw_only=True):
    """Corrects a pose, beginning with the mean one, in four steps of limited length.

    The network sees the depth, the pose as one map a joint, and a map of the crop's
    centre, and says where each joint is to move. In training the pose is not its own
    but follows the shortest path to the label (fixed path consolidation), and the loss
    is the squared error of each step.

    As in the authors' code are the rendering, the four steps and the trunk, which is
    known by name alone. Ours: the bound of 20 pixels holds for predicted steps, too,
    where the original bounds their targets; all steps are trained from the start,
    where the original adds one after the other; BN; and the joints' depth (`head3d`
    "dense"), which moves by at most a fifth of the depth range a step. How others have
    brought this method to three dimensions is not published.

    Attributes:
        norm: Whether there is BN.
    """

    norm: bool = True

    heads3d = ("none", "dense")
    stride = None

    @property
    def dimensions(self) -> int:
        """Coordinates of a joint."""
        return 3 if self.head3d == "dense" else 2

    @property
    def largest(self) -> Float[Array, "1 1 xyz"]:
        """The longest step there is, of each coordinate."""
        return jnp.array(LARGEST[: self.dimensions]).reshape(1, 1, -1)

    def setup(self) -> None:
        """Makes the layers, which training and prediction call in unlike ways."""
        self.trunk = GoogLeNet(width=self.width, norm=self.norm, dtype=self.dtype)
        self.steps = nn.Dense(
            self.dimensions * self.num_joints,
            kernel_init=nn.initializers.normal(0.01),
        )
        self.mean_pose = MeanPose(num_joints=self.num_joints)

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the joints after the last step."""
        depth = self.check(depth)
        start = self.mean_pose()[None, :, : self.dimensions]
        pose = jnp.broadcast_to(start, (len(depth), *start.shape[1:]))
        for _ in range(STEPS):
            step = bounded(self.predicted_step(depth, pose, train=train))
            pose = pose + self.largest * step
        return Outputs(joints=pose)

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the squared error of all steps along the path; see `Network`."""
        depth = self.check(batch["depth"])
        label, is_known = batch_targets(batch)
        start = self.mean_pose(label, is_known)[None, :, : self.dimensions]
        label, is_known = (
            label[..., : self.dimensions],
            is_known[..., : self.dimensions],
        )
        poses, targets = path(start, label, self.largest)
        predicted = self.predicted_step(
            jnp.concatenate([depth] * STEPS), jnp.concatenate(poses), train=True
        )
        counted = jnp.concatenate([is_known] * STEPS)
        squares = (predicted - jnp.concatenate(targets)) ** 2
        return jnp.sum(squares * counted) / jnp.maximum(jnp.sum(counted), 1)

    def predicted_step(
        self,
        depth: Float[Array, "batch side side 1"],
        pose: Float[Array, "batch joints xyz"],
        *,
        train: bool,
    ) -> Float[Array, "batch joints xyz"]:
        """Returns where each joint is to move, in units of the longest step."""
        side = depth.shape[1]
        centre = jnp.zeros((len(depth), 1, 2))
        inputs = [depth, render(pose, side), render(centre, side)]
        features = self.trunk(jnp.concatenate(inputs, axis=-1), train=train)
        predicted = self.steps(features.astype(jnp.float32))
        return predicted.reshape(len(depth), self.dimensions, -1).swapaxes(1, 2)


def path(
    start: Float[Array, "1 joints xyz"],
    label: Float[Array, "batch joints xyz"],
    largest: Float[Array, "1 1 xyz"],
) -> tuple[list[Array], list[Array]]:
    """Returns the poses before each step of the path to the label, and these steps.

    Steps are in units of the largest.
    """
    pose = jnp.broadcast_to(start, label.shape)
    poses, steps = [], []
    for _ in range(STEPS):
        poses.append(pose)
        steps.append(bounded((label - pose) / largest))
        pose = pose + largest * steps[-1]
    return poses, steps
