"""Convolutional pose machines (Wei et al., CVPR 2016; Tables 2, 3 and 5: CPM)."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.fast.cpu import eigen_convolution
from cmbjax.models.fast.pool import max_pool_3x3
from cmbjax.models.losses import AnyArray, Batch, joints_to_heatmaps
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs
from cmbjax.registry import pick

STAGES = 6
CENTRE_SIGMA = 21 / 368  # of the map of the person's centre, in sides of the input


class Layers(NamedTuple):
    """What the two variants differ in; a number pair is size and channels.

    Attributes:
        image: Of the image's features; "pool" halves the maps.
        first: Of the first stage, before the output.
        later_image: Of each later stage, applied to the image's features.
        later: Of each later stage, before the output.
        shared: Whether all stages see the same features of the image, and not the
            first its own.
    """

    image: tuple[tuple[int, int] | Literal["pool"], ...]
    first: tuple[tuple[int, int], ...]
    later_image: tuple[tuple[int, int], ...]
    later: tuple[tuple[int, int], ...]
    shared: bool


VARIANTS = {
    "9x9": Layers(
        image=((9, 128), "pool") * 3,
        first=((5, 32), (9, 512), (1, 512)),
        later_image=((5, 32),),
        later=((11, 128),) * 3 + ((1, 128),),
        shared=False,
    ),
    "vgg": Layers(
        image=(
            *((3, 64),) * 2,
            "pool",
            *((3, 128),) * 2,
            "pool",
            *((3, 256),) * 4,
            "pool",
            *((3, 512),) * 2,
            *((3, 256),) * 4,
            (3, 128),
        ),
        first=((1, 512),),
        later_image=(),
        later=((7, 128),) * 5 + ((1, 128),),
        shared=True,
    ),
}


class ConvolutionalPoseMachine(Network, kw_only=True):
    """Six stages, each of which sees the image's features and the last one's maps.

    Maps are at an eighth of the side, one a joint and one of the background. A later
    stage also sees a map of the person's centre, which is that of the crop. The loss is
    the sum of all stages' squared errors; the peak is looked for in maps brought to
    the input's size.

    Ours are the initial scale of the filters (He et al., where the original has a
    deviation of 0.01, which fades in narrower networks) and targets as wide in cells at
    every side as the original's at 368 pixels, 7 pixels: narrower ones would fall
    between the cells.

    Attributes:
        variant: A name in `VARIANTS`: "9x9" of the paper, or "vgg" of the code.
    """

    variant: str = "9x9"

    stride = 8
    default_decode = "upsampled"
    sigma = 7 / 8

    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns the last stage's heat maps of the joints."""
        return Outputs(self.all_maps(depth, train=train)[-1][..., :-1])

    def loss(self, batch: Batch, *, r: Bound, sigma: float) -> Float[Array, ""]:
        """Returns the sum of all stages' losses; the background is one more joint."""
        maps = self.all_maps(batch["depth"], train=True)
        visible = batch["visible"]
        joints = joints_to_heatmaps(
            batch["joints_px"],
            visible,
            side=maps[0].shape[1],
            stride=self.stride,
            sigma=sigma,
        )
        background = 1 - jnp.max(joints, axis=-1, keepdims=True)
        targets = jnp.concatenate([joints, background], axis=-1)
        ones = jnp.ones_like(visible[:, :1])
        counted = jnp.concatenate([visible, ones], axis=1)
        losses = [
            jnp.sum(jnp.sum((m - targets) ** 2, axis=(1, 2)) * counted) for m in maps
        ]
        return sum(losses, jnp.zeros(())) / jnp.sum(counted)

    @nn.compact
    def all_maps(
        self, depth: Float[AnyArray, "batch side side 1"], *, train: bool
    ) -> list[Float[Array, "batch cells cells joints_1"]]:
        """Returns each stage's heat maps, that of the background last."""
        depth = self.check(depth)
        layers = pick(VARIANTS, "variant", self.variant)
        drops = train and not self.is_initializing()

        def conv(x: Array, size: int, features: int) -> Array:
            return nn.relu(
                nn.Conv(
                    self.scaled(features),
                    (size, size),
                    kernel_init=nn.initializers.he_normal(),
                    dtype=self.dtype,
                    conv_general_dilated_cls=eigen_convolution,
                )(x)
            )

        def image_features() -> Array:
            x = depth
            for layer in layers.image:
                if layer == "pool" and self.variant == "9x9":
                    x = max_pool_3x3(x)
                elif layer == "pool":
                    x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
                else:
                    x = conv(x, *layer)
            return x

        def maps(x: Array, stage: int) -> Array:
            output = nn.Conv(
                self.num_joints + 1,
                (1, 1),
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
                name=f"heatmaps_{stage}",
            )(x)
            return output.astype(jnp.float32)

        features = x = image_features()
        for i, layer in enumerate(layers.first):
            x = conv(x, *layer)
            if not layers.shared and i > 0:  # both of 512 channels
                x = nn.Dropout(0.5, deterministic=not drops)(x)
        heatmaps = [maps(x, 0)]
        if not layers.shared:
            features = image_features()
        cells = heatmaps[0].shape[1]
        centre = jnp.broadcast_to(centre_map(cells), (len(depth), cells, cells, 1))
        for stage in range(1, STAGES):
            x = features
            for layer in layers.later_image:
                x = conv(x, *layer)
            x = jnp.concatenate([x, heatmaps[-1], centre], axis=-1).astype(self.dtype)
            for layer in layers.later:
                x = conv(x, *layer)
            heatmaps.append(maps(x, stage))
        return heatmaps


@functools.partial(jax.jit, static_argnames="cells")
def centre_map(cells: int) -> Float[Array, "1 cells cells 1"]:
    """Returns the Gaussian around the centre of the input that later stages see."""
    middle = jnp.full((1, 1, 2), cells / 2)
    return joints_to_heatmaps(
        middle,
        jnp.ones((1, 1), bool),
        side=cells,
        stride=1,
        sigma=CENTRE_SIGMA * cells,
    )
