"""The layers that our network is made of, and the forms in which they are computed.

A `Form` is the one way to have the same network computed otherwise: the parameters and
what they mean stay. `PLAIN` here is the reference; `fast/` has the forms that are used.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

MOMENTUM = 0.9  # of BN's running statistics
EPSILON = nn.BatchNorm.epsilon
BatchNorm = functools.partial(nn.BatchNorm, momentum=MOMENTUM)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Upsampled(NamedTuple):
    """An input of a convolution: `x` with each cell repeated twice along both axes.

    Attributes:
        x: [batch, height / 2, width / 2, channels].
    """

    x: Array


Part = Array | Upsampled


@dataclasses.dataclass(frozen=True)
class Form:
    """How layers are computed; this form computes them as they are written.

    Subclasses give the same values and gradients, to rounding.
    """

    def convolve(
        self, parts: Sequence[Part], kernel: Float[Array, "size size channels features"]
    ) -> Float[Array, "batch height width features"]:
        """Returns the convolution of the concatenation of parts, of their size.

        Args:
            parts: What is concatenated; one of batch 1 stands for all samples.
            kernel: The filters.
        """
        maps = [
            repeat(part.x) if isinstance(part, Upsampled) else part for part in parts
        ]
        batch = max(map(len, maps))
        maps = [jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in maps]
        x = jnp.concatenate(maps, axis=-1).astype(kernel.dtype)
        return convolve(x, kernel)

    def conv_norm_relu(
        self, conv: "Conv", parts: Sequence[Part], *, train: bool, norm_name: str
    ) -> Float[Array, "batch height width features"]:
        """Returns relu(BN(conv(parts))), as part of the module that calls it."""
        norm = BatchNorm(
            use_running_average=not train, dtype=conv.dtype, name=norm_name
        )
        return nn.relu(norm(conv(*parts)))

    def max_pool(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width channels"]:
        """Returns the maximum of each 2x2 square."""
        return nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))


PLAIN = Form()


class Conv(nn.Module, kw_only=True):
    """Convolves the concatenation of parts; the parameters are those of `nn.Conv`.

    Attributes:
        features: Channels of the output.
        kernel_size: Odd; the output is of the input's size.
        kernel_init: Of the filters.
        dtype: Of the computation.
        form: How it is computed.
    """

    features: int
    kernel_size: int = 3
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    form: Form = PLAIN

    @nn.compact
    def parameters(
        self, *parts: Part
    ) -> tuple[Float[Array, "size size channels features"], Float[Array, " features"]]:
        """Returns kernel and bias, in float32."""
        channels = sum(map(channels_of, parts))
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return jnp.asarray(kernel), jnp.asarray(bias)

    def __call__(
        self, *parts: Part
    ) -> Float[Array, "batch_or_1 height width features"]:
        """Returns the convolution; of batch 1 if every part is."""
        kernel, bias = self.parameters(*parts)
        maps = self.form.convolve(parts, kernel.astype(self.dtype))
        return maps + along_channels(bias.astype(maps.dtype))


def conv_norm_relu(
    conv: Conv, *parts: Part, train: bool, norm_name: str | None
) -> Float[Array, "batch height width features"]:
    """Returns relu(BN(conv(parts))), as part of the module that calls it.

    Args:
        conv: The convolution; its form and dtype hold for BN as well.
        parts: What it convolves.
        train: Whether BN uses and updates with the statistics of the batch.
        norm_name: Of the module of BN; None for none.
    """
    if norm_name is None:
        return nn.relu(conv(*parts))
    # Profiles name what a module's own call computes, and this is none.
    with jax.named_scope(str(conv.name)):
        return conv.form.conv_norm_relu(conv, parts, train=train, norm_name=norm_name)


def channels_of(part: Part) -> int:
    """Returns the channels that a part has in the concatenation."""
    return (part.x if isinstance(part, Upsampled) else part).shape[-1]


def widened(x: Array) -> Array:
    """Returns x in float32; in double precision where it is that already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def along_channels(values: Float[Array, " features"]) -> Float[Array, "1 1 1 features"]:
    """Returns values that stand for one channel each."""
    return values.reshape(1, 1, 1, -1)


def repeat(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Repeats each cell twice along both axes (nearest upsampling)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels features"],
    padding: Sequence[tuple[int, int]] | None = None,
) -> Float[Array, "batch height width features"]:
    """Returns the convolution, of x's size unless `padding` says otherwise."""
    padding = padding or [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS
    )
