"""The forms in which networks train and run: the same results with less work.

Exact, to rounding, from the same parameters:

(a) the concatenation is never made: each part is convolved with its share of the
    filters, one that comes twice only once, with the sum of both shares;
(b) a part that is the same for all samples, [1, h, w, c], is convolved once a batch;
(c) an upsampled map is convolved before it is upsampled: four 2x2 convolutions of the
    small map, 4/9 of the work;
(d) BN with the batch's statistics, and its ReLU, have their gradient in closed form;
    BN with running statistics is a factor of the filters and a bias.

And on CPU, to 1e-5 of the largest value:

(e) larger convolutions, with their gradients, are products of tiles: `winograd`.

Where everything but the input is a constant, what can be known of it beforehand is
computed once: see `inference.freeze`. Which library computes a convolution on CPU is
`runtime.CPU_LIBRARY`.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax import runtime
from cmbjax.models.fast import winograd
from cmbjax.models.fast.norm import NormRelu
from cmbjax.models.fast.pool import max_pool
from cmbjax.models.layers import (
    DIMENSIONS,
    Conv,
    Form,
    Part,
    Upsampled,
    along_channels,
    channels_of,
    convolve,
)


@dataclasses.dataclass(frozen=True)
class Fast(Form):
    """The form of (a) to (d), on whatever device."""

    def convolve(self, parts: Sequence[Part], kernel: Array) -> Array:
        """Returns the sum of the parts' convolutions; of batch 1 if every part is."""
        shares: dict[int, tuple[Part, Array]] = {}
        start = 0
        for part in parts:
            share = kernel[:, :, start : start + channels_of(part)]
            start += channels_of(part)
            if id(part) in shares:
                share = shares[id(part)][1] + share
            shares[id(part)] = (part, share)
        sums = [
            self.convolve_upsampled(part.x.astype(kernel.dtype), share)
            if isinstance(part, Upsampled)
            else self.convolve_map(part.astype(kernel.dtype), share)
            for part, share in shares.values()
        ]
        batch = max(map(len, sums))
        return functools.reduce(jnp.add, [spread(x, batch) for x in sums])

    def convolve_map(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution of one map; one with 1x1 filters is a product."""
        return convolve_stored(x, kernel)

    def convolve_upsampled(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution of a map whose cells are repeated twice."""
        return convolve_repeated(x, kernel)

    def conv_norm_relu(
        self, conv: Conv, parts: Sequence[Part], *, train: bool, norm_name: str
    ) -> Array:
        """Returns relu(BN(conv(parts))), as part of the module that calls it."""
        kernel, bias = conv.parameters(*parts)
        norm = NormRelu(dtype=conv.dtype, name=norm_name)
        if train:
            x = self.convolve(parts, kernel.astype(conv.dtype))
            return norm(x, bias)
        factor, shift = norm.folded(bias)
        folded = (kernel * along_channels(factor)).astype(conv.dtype)
        x = self.convolve(parts, folded)
        return nn.relu(x + along_channels(shift.astype(x.dtype)))

    def max_pool(self, x: Array) -> Array:
        """Returns the maximum of each 2x2 square."""
        return max_pool(x)


@dataclasses.dataclass(frozen=True)
class Winograd(Fast):
    """The form that is fastest on CPU; see `winograd`."""

    def convolve_map(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution, of larger ones in Winograd's form."""
        if winograd.pays(x.shape, kernel):
            return winograd.convolve(x, kernel)
        return super().convolve_map(x, kernel)


@dataclasses.dataclass(frozen=True)
class Layers(Fast):
    """The form for inference runtimes: each convolution and pooling is one layer.

    A convolution of an upsampled map is a transposed convolution, for which XLA on CPU
    has nothing fast.
    """

    def convolve_map(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution, of whatever size."""
        return convolve(x, kernel)

    def convolve_upsampled(self, x: Array, kernel: Array) -> Array:
        """Returns the convolution of a map whose cells are repeated twice."""
        # Repeating is: apart by one row and column of zeros, and a sum over 2x2 cells.
        shifts = [
            ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)) for i in (0, 1) for j in (0, 1)
        ]
        kernel = functools.reduce(jnp.add, [jnp.pad(kernel, by) for by in shifts])
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding=[(len(kernel) // 2,) * 2] * 2,
            lhs_dilation=(2, 2),
            dimension_numbers=DIMENSIONS,
        )

    def max_pool(self, x: Array) -> Array:
        """Returns the maximum of each 2x2 square."""
        return Form.max_pool(self, x)


FAST, WINOGRAD, LAYERS = Fast(), Winograd(), Layers()


Padding = tuple[tuple[int, int], ...] | None  # as `convolve` takes it


def _product_or_convolution(x: Array, kernel: Array, padding: Padding) -> Array:
    return x @ kernel[0, 0] if len(kernel) == 1 else convolve(x, kernel, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_stored(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels features"],
    padding: Padding = None,
) -> Float[Array, "batch height_out width_out features"]:
    """Returns the convolution, by 1x1 filters as a product.

    What its gradients read is stored: see `runtime.computed_once`. There is no
    forward-mode derivative.
    """
    return _product_or_convolution(x, kernel, padding)


def _forward(
    x: Array, kernel: Array, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    x = runtime.computed_once(x)
    return _product_or_convolution(x, kernel, padding), (x, kernel)


def _backward(
    padding: Padding, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    forward = functools.partial(_product_or_convolution, padding=padding)
    _, back = jax.vjp(forward, *saved)
    of_x, of_kernel = back(runtime.computed_once(gradient))
    return runtime.computed_once(of_x), of_kernel


convolve_stored.defvjp(_forward, _backward)


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


def convolve_repeated(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch 2*height 2*width features"]:
    """Returns the 3x3 convolution of `repeat(x)` from four 2x2 convolutions of x.

    An even row 2i of the upsampled map sees rows i-1, i, i of x; an odd one i, i, i+1.
    """
    batch, height, width, _ = x.shape

    def pairs(k: Array, axis: int) -> list[Array]:
        first, second, third = jnp.split(k, 3, axis=axis)
        even, odd = (first, second + third), (first + second, third)
        return [jnp.concatenate(pair, axis=axis) for pair in (even, odd)]

    def every_other(row: int, kernel: Array) -> Array:
        columns = [
            convolve_stored(x, k, ((1 - row, row), (1 - column, column)))
            for column, k in enumerate(pairs(kernel, 1))
        ]
        return jnp.stack(columns, axis=3)

    rows = [every_other(row, k) for row, k in enumerate(pairs(kernel, 0))]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)
