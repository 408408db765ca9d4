"""Stacked hourglasses (Newell, Yang and Deng, ECCV 2016; Tables 2, 3 and 5: SH)."""

import functools
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.compared.norm import norm_relu
from cmbjax.models.layers import repeat
from cmbjax.models.losses import AnyArray, Batch, heatmap_loss
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs

DEPTH = 4  # of an hourglass: times that it halves its maps


class Residual(nn.Module, kw_only=True):
    """BN, ReLU and convolution three times, 1x1 to c/2, 3x3, 1x1 to c, beside a skip.

    The skip is a 1x1 convolution where it changes the number of channels.

    Attributes:
        features: Channels c of the output.
        dtype: Of the computation.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch height width features"]:
        """Returns the sum of both ways."""
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        half = self.features // 2
        y = x
        for features, size in ((half, 1), (half, 3), (self.features, 1)):
            y = norm_relu(y, train=train, dtype=self.dtype)
            y = conv(features, (size, size))(y)
        if x.shape[-1] != self.features:
            x = conv(self.features, (1, 1), name="skip")(x)
        return x + y


class StackedHourglass(Network, kw_only=True):
    """Hourglasses one after the other, each with heat maps of its own.

    Stem: 7x7 convolution to 64 by 2, BN, ReLU, residual to 128, pooling, residuals to
    128 and 256: maps at a quarter of the side. An hourglass of depth n: a residual
    beside pooling, residual, hourglass of depth n - 1 (a residual at last), residual,
    upsampling; the sum of both. Each stack: hourglass, residual, 1x1 convolution, BN,
    ReLU, 1x1 convolution to the heat maps; what it was given, plus a 1x1 convolution
    of its features, plus one of its maps, goes to the next.

    The loss is that of all stacks' maps (intermediate supervision). The authors' code
    draws Gaussians of 1.75 cells, averages predictions with those of the mirrored
    image, and moves a peak a quarter cell towards its larger neighbour.

    Attributes:
        stacks: Hourglasses.
    """

    stacks: int = 8

    stride = 4
    divisor = 64
    averages_mirrored = True
    default_decode = "quarter"
    sigma = 1.75

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the last stack's heat maps, at a quarter of the side."""
        return Outputs(self.all_maps(depth, train=train)[-1])

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the sum of all stacks' losses; see `Network`."""
        maps = self.all_maps(batch["depth"], train=True)
        joints_px, visible = batch["joints_px"], batch["visible"]
        losses = [
            heatmap_loss(m, joints_px, visible, stride=self.stride, sigma=sigma)
            for m in maps
        ]
        return sum(losses, jnp.zeros(()))

    @nn.compact
    def all_maps(
        self, depth: Float[AnyArray, "batch side side 1"], *, train: bool
    ) -> list[Float[Array, "batch cells cells joints"]]:
        """Returns each stack's heat maps."""
        depth = self.check(depth)
        features = 2 * self.scaled(128)
        conv = functools.partial(nn.Conv, kernel_size=(1, 1), dtype=self.dtype)
        relu = functools.partial(norm_relu, train=train, dtype=self.dtype)

        def residual(x: Array, features: int = features) -> Array:
            return Residual(features=features, dtype=self.dtype)(x, train=train)

        def hourglass(x: Array, depth: int) -> Array:
            low = residual(nn.max_pool(x, (2, 2), (2, 2)))
            low = hourglass(low, depth - 1) if depth > 1 else residual(low)
            return residual(x) + repeat(residual(low))

        stem = conv(self.scaled(64), kernel_size=(7, 7), strides=2, padding=3)
        x = residual(relu(stem(depth)), features // 2)
        x = residual(nn.max_pool(x, (2, 2), (2, 2)), features // 2)
        x = residual(x)
        maps = []
        for stack in range(self.stacks):
            y = relu(conv(features)(residual(hourglass(x, DEPTH))))
            heatmaps = conv(
                self.num_joints,
                kernel_init=nn.initializers.normal(0.01),
                name=f"heatmaps_{stack}",
            )(y)
            maps.append(heatmaps.astype(jnp.float32))
            if stack < self.stacks - 1:
                x = x + conv(features)(y) + conv(features)(heatmaps)
        return maps
