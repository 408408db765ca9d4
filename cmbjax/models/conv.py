"""Convolutions of concatenated maps, each part in its cheapest exact form.

The plain form concatenates the parts and convolves them; it is the reference. The
rewritten form gives the same to rounding, from the same parameters, with less work:

(a) a part that is the same for all samples, [1, h, w, c], is convolved once a batch;
(b) `Convolved` takes the place of a part that was convolved elsewhere, with others;
(c) a part that comes twice is convolved once, with the sum of its filters;
(d) `Doubled`, a map upsampled twice by repetition, is convolved before it is upsampled:
    four 2x2 convolutions of the small map, 4/9 of the work;
(e) BN with running statistics is a factor and a bias: see `deploy.fold`.

Which library computes a convolution on CPU, forth and back, is `runtime.CPU_LIBRARY`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Doubled(NamedTuple):
    """A part: `x` with each cell repeated twice along both axes.

    Attributes:
        x: [batch, height / 2, width / 2, channels].
    """

    x: Array


class Convolved(NamedTuple):
    """A part of which the convolution is known.

    Attributes:
        x: [batch or 1, height, width, features]: what the part adds to the output.
        channels: Channels of the part itself.
    """

    x: Array
    channels: int


Part = Array | Doubled | Convolved


class Conv(nn.Module, kw_only=True):
    """Convolves the concatenation of parts; the parameters are those of `nn.Conv`.

    Attributes:
        features: Channels of the output.
        kernel_size: Odd; the output is of the input's size.
        kernel_init: Of the filters.
        dtype: Of the computation.
        plain: Whether to concatenate and convolve, without any rewriting.
    """

    features: int
    kernel_size: int = 3
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def apart(
        self, *parts: Part
    ) -> tuple[
        Float[Array, "batch_or_1 height width features"], Float[Array, " features"]
    ]:
        """Returns the convolution and the bias that is still to be added."""
        channels = sum(map(channels_of, parts))
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        convolve = convolve_plainly if self.plain else convolve_parts
        return convolve(parts, jnp.asarray(kernel, self.dtype)), jnp.asarray(bias)

    def __call__(
        self, *parts: Part
    ) -> Float[Array, "batch_or_1 height width features"]:
        """Returns the convolution; of batch 1 if every part is."""
        maps, bias = self.apart(*parts)
        return maps + bias.astype(maps.dtype).reshape(1, 1, 1, -1)


def channels_of(part: Part) -> int:
    """Returns the channels that a part has in the concatenation."""
    if isinstance(part, Convolved):
        return part.channels
    return (part.x if isinstance(part, Doubled) else part).shape[-1]


def double(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Repeats each cell twice along both axes (nearest upsampling)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def convolve_plainly(
    parts: Sequence[Part], kernel: Float[Array, "size size channels features"]
) -> Float[Array, "batch height width features"]:
    """Returns the convolution of the concatenation, as it is written."""
    maps = []
    for part in parts:
        assert not isinstance(part, Convolved)
        maps.append(double(part.x) if isinstance(part, Doubled) else part)
    batch = max(len(x) for x in maps)
    maps = [jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in maps]
    x = jnp.concatenate(maps, axis=-1).astype(kernel.dtype)
    return convolve(x, kernel)


def convolve_parts(
    parts: Sequence[Part],
    kernel: Float[Array, "size size channels features"],
    convolve_part: Callable[[Part, Array], Array] | None = None,
) -> Float[Array, "batch_or_1 height width features"]:
    """Returns the same from the parts, added up in the order of the cheapest.

    Args:
        parts: What is concatenated.
        kernel: The filters of the concatenation.
        convolve_part: Convolves one part; by default in the way cheapest in XLA.
    """
    convolve_part = convolve_part or _convolve_part
    filters: dict[int, tuple[Part, Array]] = {}
    start = 0
    for part in parts:
        own = kernel[:, :, start : start + channels_of(part)]
        start += channels_of(part)
        known = filters.get(id(part))
        filters[id(part)] = (part, own if known is None else known[1] + own)
    sums = [convolve_part(part, own) for part, own in filters.values()]
    batch = max(map(len, sums))
    return functools.reduce(jnp.add, [spread(x, batch) for x in sums])


def spread(
    x: Float[Array, "batch_or_1 height width features"], batch: int
) -> Float[Array, "batch height width features"]:
    """Returns x for each sample.

    As a product with ones, which costs nothing: so the gradient is one as well, where
    the sum over the first axis that a broadcast leads to is slow on CPU.
    """
    if len(x) == batch:
        return x
    ones = jnp.ones((batch, 1), x.dtype)
    repeated = jnp.matmul(ones, x.reshape(1, -1), precision="highest")
    return repeated.reshape(batch, *x.shape[1:])


def _convolve_part(part: Part, kernel: Array) -> Array:
    if isinstance(part, Convolved):
        return part.x
    if isinstance(part, Doubled):
        return convolve_doubled(part.x.astype(kernel.dtype), kernel)
    x = part.astype(kernel.dtype)
    return convolve(x, kernel) if len(kernel) == 3 else x @ kernel[0, 0]


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


def convolve_doubled(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch 2*height 2*width features"]:
    """Returns the 3x3 convolution of `double(x)` from four 2x2 convolutions of x.

    An even row 2i of the doubled map sees rows i-1, i, i of x; an odd one i, i, i+1.
    """
    batch, height, width, _ = x.shape

    def pairs(k: Array, axis: int) -> list[Array]:
        first, second, third = jnp.split(k, 3, axis=axis)
        even, odd = (first, second + third), (first + second, third)
        return [jnp.concatenate(both, axis=axis) for both in (even, odd)]

    def every_other(row: int, kernel: Array) -> Array:
        columns = [
            convolve(x, k, [(1 - row, row), (1 - column, column)])
            for column, k in enumerate(pairs(kernel, 1))
        ]
        return jnp.stack(columns, axis=3)

    rows = [every_other(row, k) for row, k in enumerate(pairs(kernel, 0))]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)
