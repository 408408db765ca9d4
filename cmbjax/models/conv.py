"""Convolutions of concatenated maps, each part in its cheapest exact form.

The plain form concatenates the parts and convolves them; it is the reference. The
rewritten form gives the same to rounding, from the same parameters, with less work:

(a) a part that is the same for all samples, [1, h, w, c], is convolved once a batch;
(b) `Convolved` takes the place of a part that was convolved elsewhere, with others;
(c) a part that comes twice is convolved once, with the sum of its filters;
(d) `Doubled`, a map upsampled twice by repetition, is convolved before it is upsampled:
    four 2x2 convolutions of the small map, 4/9 of the work;
(e) BN with running statistics is a factor and a bias: see `fold_norm`;
(f) on CPU the filter gradient is one matrix product of 4x4 patches of x with 2x2
    patches of the output's gradient.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Smaller maps have so many channels that XLA's own filter gradient is faster.
LEAST_CELLS_OF_PRODUCT = 24 * 24


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
    def __call__(
        self, *parts: Part
    ) -> Float[Array, "batch_or_1 height width features"]:
        """Returns the convolution; of batch 1 if every part is."""
        channels = sum(map(channels_of, parts))
        shape = (self.kernel_size, self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        convolve = convolve_plainly if self.plain else convolve_parts
        kernel = jnp.asarray(kernel, self.dtype)
        bias = jnp.asarray(bias, self.dtype).reshape(1, 1, 1, -1)
        return convolve(parts, kernel) + bias


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
    return _convolve(x, kernel, len(kernel) // 2)


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
    return functools.reduce(jnp.add, sorted(sums, key=len))


def _convolve_part(part: Part, kernel: Array) -> Array:
    if isinstance(part, Convolved):
        return part.x
    if isinstance(part, Doubled):
        return convolve_doubled(part.x.astype(kernel.dtype), kernel)
    x = part.astype(kernel.dtype)
    return convolve_padded(x, kernel) if len(kernel) == 3 else x @ kernel[0, 0]


def _convolve(x: Array, kernel: Array, padding: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(padding, padding)] * 2, dimension_numbers=DIMENSIONS
    )


def convolve_doubled(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch 2*height 2*width features"]:
    """Returns the 3x3 convolution of `double(x)` from 2x2 convolutions of x.

    An even row 2i of the doubled map sees rows i-1, i, i of x; an odd one i, i, i+1.
    """
    batch, height, width, _ = x.shape
    features = kernel.shape[-1]

    def pairs(k: Array, axis: int) -> list[Array]:
        first, second, third = jnp.split(k, 3, axis=axis)
        even, odd = (first, second + third), (first + second, third)
        return [jnp.concatenate(both, axis=axis) for both in (even, odd)]

    phases = [phase for rows in pairs(kernel, 0) for phase in pairs(rows, 1)]
    # [batch, height + 1, width + 1, 4 features]
    all_four = convolve_padded(x, jnp.concatenate(phases, axis=-1))

    def phase(row: int, column: int) -> Array:
        start = (2 * row + column) * features
        return all_four[
            :, row : row + height, column : column + width, start : start + features
        ]

    rows = [jnp.stack([phase(row, 0), phase(row, 1)], axis=3) for row in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, features)


@jax.custom_vjp
def convolve_padded(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "size size channels features"],
) -> Float[Array, "batch out_height out_width features"]:
    """Returns the convolution of x with a border of one cell of zeros."""
    return _convolve(x, kernel, 1)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_padded(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    transposed = jax.linear_transpose(lambda x: _convolve(x, kernel, 1), x)
    return *transposed(gradient), filter_gradient(x, gradient)


convolve_padded.defvjp(_forward, _backward)


def filter_gradient(
    x: Float[Array, "batch height width channels"],
    gradient: Float[Array, "batch out_height out_width features"],
) -> Float[Array, "size size channels features"]:
    """Returns the gradient in the filters of `convolve_padded`."""
    size = x.shape[1] + 3 - gradient.shape[1]
    patch = 1 if size == 2 else 2
    cells = gradient.shape[1] * gradient.shape[2]
    fits = gradient.shape[1] % patch == gradient.shape[2] % patch == 0

    def by_xla(x: Array, gradient: Array) -> Array:
        shape = (size, size, x.shape[-1], gradient.shape[-1])
        kernel = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda k: _convolve(x, k, 1), kernel)(gradient)[0]

    if not fits or (size == 3 and cells < LEAST_CELLS_OF_PRODUCT):
        return by_xla(x, gradient)
    by_product = functools.partial(_filter_gradient_by_product, size=size, patch=patch)
    return jax.lax.platform_dependent(x, gradient, cpu=by_product, default=by_xla)


def _filter_gradient_by_product(
    x: Array, gradient: Array, *, size: int, patch: int
) -> Array:
    """Multiplies patches of x with the patches of the gradient that they lead to.

    With patches of 2x2 outputs the 4x4 taps of x hold the nine of each output: four
    copies of x instead of nine, and a wider product, for 16/9 of the multiplications.
    Sample by sample, so that the copies stay in the cache.
    """
    channels, features = x.shape[-1], gradient.shape[-1]
    height, width = (n // patch for n in gradient.shape[1:3])
    reach = patch + size - 1  # twice the patch, so 2x2 patches of x have all taps
    contract_cells = (((0, 1), (0, 1)), ((), ()))

    def patches(x: Array, rows: int, columns: int) -> Array:
        x = x.reshape(rows, patch, columns, patch, -1).transpose(0, 2, 1, 3, 4)
        return x.reshape(rows, columns, -1)

    def add_sample(total: Array, sample: tuple[Array, Array]) -> tuple[Array, None]:
        x, gradient = sample
        x = patches(jnp.pad(x, ((1, 1), (1, 1), (0, 0))), height + 1, width + 1)
        corners = [x[i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
        products = jax.lax.dot_general(
            jnp.concatenate(corners, axis=-1),
            patches(gradient, height, width),
            contract_cells,
            preferred_element_type=jnp.float32,
        )
        return total + products, None

    zeros = jnp.zeros((reach**2 * channels, patch**2 * features), jnp.float32)
    products, _ = jax.lax.scan(add_sample, zeros, (x, gradient))
    products = products.reshape(2, 2, patch, patch, channels, patch, patch, features)
    products = products.transpose(0, 2, 1, 3, 4, 5, 6, 7)  # corner and place in it
    products = products.reshape(reach, reach, channels, patch, patch, features)
    shifts = range(patch)
    outputs = [
        products[i : i + size, j : j + size, :, i, j] for i in shifts for j in shifts
    ]
    return functools.reduce(jnp.add, outputs).astype(x.dtype)
