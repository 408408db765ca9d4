"""Part heat map regression (Bulat and Tzimiropoulos, ECCV 2016; Tables 2, 3, 5: PHR).

The authors published trained weights and no code of the training. The architecture is
known from ports of these weights, and its count of parameters agrees; the targets are
assumptions.
"""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.compared.hourglass import Residual
from cmbjax.models.compared.norm import norm_relu
from cmbjax.models.fast.cpu import ConvTranspose, eigen_convolution
from cmbjax.models.layers import BatchNorm
from cmbjax.models.losses import AnyArray, Batch, heatmap_loss
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs

# Channels within and behind, number and stride of the detector's bottlenecks.
GROUPS = ((64, 256, 3, 1), (128, 512, 8, 2), (256, 1024, 36, 2), (512, 2048, 3, 1))
DEPTH = 4  # of the regressor's hourglass
CELL = 4  # pixels of a cell of the regressor, whose last layer enlarges it
# Pixels of the input, whatever its side, as cells have as many: at 256 these are what
# the method has, and at 64 a fourth of them would fall between cells.
DISC = 10.0  # radius of the detector's targets
GAUSSIAN = 5.0  # deviation of the regressor's


class Bottleneck(nn.Module, kw_only=True):
    """1x1, 3x3, 1x1 convolution, each with BN, beside a skip (He et al., CVPR 2016).

    Attributes:
        inner: Channels of the first two convolutions.
        features: Channels of the output.
        stride: Of the 3x3 convolution.
        train: Whether BN uses and updates with the statistics of the batch.
        dtype: Of the computation.
    """

    inner: int
    features: int
    stride: int = 1
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        """Returns the maps, as `nn.scan` has it."""
        conv = functools.partial(
            nn.Conv, dtype=self.dtype, conv_general_dilated_cls=eigen_convolution
        )
        norm = functools.partial(
            BatchNorm, use_running_average=not self.train, dtype=self.dtype
        )
        y = nn.relu(norm()(conv(self.inner, (1, 1))(x)))
        padding = "SAME" if self.stride == 1 else 1
        y = conv(self.inner, (3, 3), strides=self.stride, padding=padding)(y)
        y = norm()(conv(self.features, (1, 1))(nn.relu(norm()(y))))
        if x.shape != y.shape:
            x = norm()(conv(self.features, (1, 1), strides=self.stride)(x))
        return nn.relu(x + y), None


class PartHeatmapRegression(Network, kw_only=True):
    """A detector of each joint's surroundings, and a regressor that sees its answer.

    The detector, ResNet-152, says for each pixel which joints are near; the regressor,
    an hourglass, makes heat maps of the image and that, both at the input's own size.
    They are trained together from the start, where the authors start from ImageNet.
    Predictions are averaged with those of the mirrored image.

    The detector's loss is the mean cross-entropy with a disc around each joint (10
    pixels), the regressor's the squared error of a Gaussian (5 pixels), in parts of
    what an empty map costs, so that both are of one size.
    """

    stride = 1
    divisor = 64
    averages_mirrored = True
    default_decode = "argmax"
    sigma = GAUSSIAN

    def drawn(self, maps: np.ndarray) -> np.ndarray:
        """Returns maps as the last layer can draw them at best.

        It makes 4 x 4 pixels of all maps of as many numbers as there are joints: of
        what is in all cells the part in the best linear space of so many dimensions.
        That is of these maps, so that fewer at a time are drawn a little better: argmax
        of 439 poses of UTD-MHAD at 64 px is 0.93 px off in batches of 16 and of all,
        0.87 in batches of 4, 0.75 one by one.
        """
        batch, side, _, joints = maps.shape
        cells = side // CELL
        squares = maps.reshape(batch, cells, CELL, cells, CELL, joints)
        rows = squares.transpose(0, 1, 3, 2, 4, 5).reshape(-1, CELL * CELL * joints)
        _, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
        best = vectors[:, -joints:]
        fitted = (rows @ best @ best.T).reshape(batch, cells, cells, CELL, CELL, joints)
        return fitted.transpose(0, 1, 3, 2, 4, 5).reshape(maps.shape).astype(np.float32)

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the regressor's heat maps."""
        return Outputs(self.both(depth, train=train)[1])

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the sum of the detector's and the regressor's loss."""
        logits, maps = self.both(batch["depth"], train=True)
        side, visible = maps.shape[1], batch["visible"]
        centres = jnp.arange(side).reshape(1, -1, 1) + 0.5
        x, y = jnp.split(batch["joints_px"], 2, axis=-1)
        columns = (centres - jnp.swapaxes(x, 1, 2)) ** 2
        rows = (centres - jnp.swapaxes(y, 1, 2)) ** 2
        disc = rows[:, :, None] + columns[:, None] <= DISC**2
        entropy = nn.softplus(logits) - logits * disc
        mean = jnp.mean(entropy, axis=(1, 2))
        detected = jnp.sum(mean * visible) / jnp.maximum(jnp.sum(visible), 1)
        regressed = heatmap_loss(
            maps, batch["joints_px"], visible, stride=self.stride, sigma=sigma
        )
        return detected + regressed / (jnp.pi * sigma**2)

    @nn.compact
    def both(
        self, depth: Float[AnyArray, "batch side side 1"], *, train: bool
    ) -> tuple[
        Float[Array, "batch side side joints"], Float[Array, "batch side side joints"]
    ]:
        """Returns the detector's logits and the regressor's heat maps."""
        depth = self.check(depth)
        logits = self.detect(depth, train)
        detected = jnp.concatenate([depth, nn.sigmoid(logits)], axis=-1)
        return logits, self.regress(detected, train)

    def detect(self, depth: Array, train: bool) -> Array:
        """Returns the detector's logits."""
        stem = nn.Conv(
            self.scaled(64),
            (7, 7),
            strides=2,
            padding=3,
            dtype=self.dtype,
            name="stem",
        )
        x = norm_relu(stem(depth), train=train, dtype=self.dtype, name="stem_norm")
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for group, (inner, features, number, stride) in enumerate(GROUPS):
            block = {
                "inner": self.scaled(inner),
                "features": self.scaled(features),
                "train": train,
                "dtype": self.dtype,
            }
            first = Bottleneck(**block, stride=stride, name=f"group{group}_first")
            x, _ = first(x)
            # As a loop, which is compiled once.
            following = nn.scan(
                Bottleneck,
                variable_axes={"params": 0, "batch_stats": 0},
                split_rngs={"params": True},
                length=number - 1,
            )(**block, name=f"group{group}_others")
            x, _ = following(x, None)
        x = nn.Conv(self.num_joints, (1, 1), dtype=self.dtype, name="scores")(x)
        return self._enlarge(x, 16, "detector_maps")

    def regress(self, detected: Array, train: bool) -> Array:
        """Returns the regressor's heat maps."""
        relu = functools.partial(norm_relu, train=train, dtype=self.dtype)
        conv = functools.partial(nn.Conv, dtype=self.dtype)
        narrow, wide = 2 * self.scaled(128), 2 * self.scaled(256)

        def residuals(x: Array, *features: int) -> Array:
            for count in features:
                x = Residual(features=count, dtype=self.dtype)(x, train=train)
            return x

        def hourglass(x: Array, depth: int) -> Array:
            low = residuals(nn.max_pool(x, (2, 2), (2, 2)), narrow, narrow, narrow)
            low = hourglass(low, depth - 1) if depth > 1 else residuals(low, wide)
            low = residuals(low, wide)
            up = ConvTranspose(features=wide, times=2, dtype=self.dtype)
            return up(low) + residuals(x, narrow, narrow, wide)

        x = relu(conv(self.scaled(64), (7, 7), strides=2, padding=3)(detected))
        x = residuals(x, narrow // 2)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = residuals(x, narrow // 2, narrow // 2, narrow)
        x = hourglass(x, DEPTH)
        for features in (wide, narrow):
            x = relu(conv(features, (1, 1))(x))
        x = conv(self.num_joints, (1, 1), name="heatmaps")(x)
        return self._enlarge(x, CELL, "regressor_maps")

    def _enlarge(self, x: Array, times: int, name: str) -> Array:
        """Brings maps to the input's size by a transposed convolution."""
        maps = ConvTranspose(
            features=self.num_joints,
            times=times,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name=name,
        )(x)
        return maps.astype(jnp.float32)
