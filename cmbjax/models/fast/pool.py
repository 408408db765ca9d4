"""Pooling whose gradient is fast on CPU."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmbjax import runtime


@jax.custom_vjp
def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Returns the maximum of each 2x2 square, as `nn.max_pool` does on even sides.

    The gradient goes to the first of equal maxima, in the order of rows. Equal maxima
    are everywhere: where the background is far, the input is constant.
    """
    return functools.reduce(jnp.maximum, _corners(x))


def _corners(x: Array) -> list[Float[Array, "batch rows columns channels"]]:
    """Returns the four cells of each square, in the order of rows."""
    return [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _forward(x: Array) -> tuple[Array, Array]:
    return max_pool(x), x


def _backward(x: Array, gradient: Array) -> tuple[Array]:
    gradient = runtime.computed_once(gradient)
    # No corner is compared with the maximum: XLA may compute x anew, and round it in
    # another way, for one of both.
    a, b, c, d = _corners(x)
    above, below = (b > a).astype(jnp.int8), 2 + (d > c).astype(jnp.int8)
    is_below = jnp.maximum(c, d) > jnp.maximum(a, b)
    first = runtime.computed_once(jnp.where(is_below, below, above))
    # One selection of each cell. Four maps that are stacked XLA computes four times.
    of_cell = jnp.arange(4, dtype=jnp.int8).reshape(1, 1, 2, 1, 2, 1)
    is_first = first[:, :, None, :, None] == of_cell
    shares = jnp.where(is_first, gradient[:, :, None, :, None], 0)
    return (shares.reshape(x.shape),)


max_pool.defvjp(_forward, _backward)


def max_pool_3x3(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Returns the maxima of 3x3 cells around every other: `nn.max_pool`, stride 2.

    The gradient goes to the first of equal maxima, in the order of rows.
    """
    for axis in (2, 1):
        size = x.shape[axis]
        sides = [(0, 0)] * x.ndim
        sides[axis] = (size % 2, 1)
        padded = jnp.pad(x, sides, constant_values=-jnp.inf)
        slices = [
            jax.lax.slice_in_dim(padded, i, i + size - 1 + size % 2, 2, axis)
            for i in range(3)
        ]
        x = functools.reduce(lambda a, b: jnp.where(a >= b, a, b), slices)
    return x
