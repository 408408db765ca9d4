"""3x3 convolutions with a quarter of the multiplications, on CPU.

A 4x4 tile of the output is A^T [(G k G^T) * (B^T x B)] A with x the 6x6 cells it sees
(Winograd's F(4x4, 3x3); Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016). The sums around the product cost memory traffic, so few channels do
not pay for it. Rounding grows to about 1e-5 of the largest value.

The gradients are its transposes, with g that of a tile: B [(G k G^T) * (A g A^T)]
B^T for the cells that it sees, and G^T [(B^T x B) * (A g A^T)] G, summed over tiles,
for the filters.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmbjax import runtime
from cmbjax.metrics import AnyArray

JaxOrNumPy = TypeVar("JaxOrNumPy", jax.Array, np.ndarray)

TILE, SEEN = 4, 6  # cells of a tile, and of the input that it sees, along an axis
LEAST_CHANNELS = 128
# Of maps whose tiles stay in the processor's cache fewer channels pay, too.
MOST_CACHED_VALUES, LEAST_CACHED_CHANNELS = 2**20, 64  # 4 MB, and 9 MB of tiles
# Interpolation at 0, 1, -1, 2, -2 and infinity.
B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = (
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]])
    / 24
)
A_T = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


def pays(shape: tuple[int, ...], kernel: Array) -> bool:
    """Whether a convolution is worth this form.

    Args:
        shape: Of the maps, [batch, height, width, channels], with the whole batch where
            devices share it: so what is computed does not depend on their number.
        kernel: The filters.
    """
    channels = kernel.shape[2:]
    is_cached = math.prod(shape[:3]) * max(channels) <= MOST_CACHED_VALUES
    return (
        kernel.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and min(channels) >= (LEAST_CACHED_CHANNELS if is_cached else LEAST_CHANNELS)
        and shape[1] % TILE == shape[2] % TILE == 0
    )


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch height width features"]:
    """Returns the convolution of x with a border of one cell of zeros.

    Args:
        x: Height and width are multiples of 4.
        kernel: The filters, float32. Of those that are known the transform is computed
            once, and here. With others there is no forward-mode derivative.
    """
    if isinstance(kernel, jax.core.Tracer):
        return _convolve_traced(x, kernel)
    return _convolve_tiles(x, _transform(np.asarray(kernel)))


def _transform(
    kernel: Float[AnyArray, "3 3 channels features"],
) -> Float[AnyArray, "36 channels features"]:
    """Returns G k G^T of each pair of channels, by NumPy if the filters are NumPy's."""
    stack = kernel.__array_namespace__().stack
    rows = stack(_combine(G, list(kernel)))  # [6, 3, channels, features]
    columns = _combine(G, [rows[:, j] for j in range(3)])
    return stack(columns).reshape(SEEN**2, *kernel.shape[2:])


def _convolve_tiles(
    x: Float[Array, "batch height width channels"],
    transformed: Float[AnyArray, "36 channels features"],
) -> Float[Array, "batch height width features"]:
    product = jax.lax.dot_general(_seen(x), transformed, (((2,), (1,)), ((0,), (0,))))
    (batch, height, width, _), features = x.shape, transformed.shape[2]
    product = product.reshape(
        SEEN, SEEN, batch, height // TILE, width // TILE, features
    )
    x = jnp.stack(_combine(A_T, list(product)), axis=4)
    x = jnp.stack(_combine(A_T, list(x)), axis=2)
    return x.reshape(batch, height, width, features)


@jax.custom_vjp
def _convolve_traced(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "3 3 channels features"],
) -> Float[Array, "batch height width features"]:
    return _convolve_tiles(x, _transform(kernel))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x = runtime.computed_once(x)
    return _convolve_traced(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    tiles = _spread(runtime.computed_once(gradient))
    seen = jax.lax.dot_general(tiles, _transform(kernel), (((2,), (2,)), ((0,), (0,))))
    product = jax.lax.dot_general(_seen(x), tiles, (((1,), (1,)), ((0,), (0,))))
    product = product.reshape(SEEN, SEEN, *kernel.shape[2:])  # [column, row, ...]
    columns = jnp.stack(_combine(G.T, list(product)))
    rows = _combine(G.T, [columns[:, i] for i in range(SEEN)])
    of_x = runtime.computed_once(_added(seen, x.shape))
    return of_x, jnp.stack(rows)


_convolve_traced.defvjp(_forward, _backward)


def _seen(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "36 tiles channels"]:
    """Returns B^T x B of what each tile sees."""
    batch, height, width, channels = x.shape
    rows, columns = height // TILE, width // TILE
    x = jnp.pad(x, ((0, 0), (1, SEEN - TILE + 1), (1, SEEN - TILE + 1), (0, 0)))

    def every_fourth(x: Array, start: int, axis: int, number: int) -> Array:
        stop = start + TILE * (number - 1) + 1
        return jax.lax.slice_in_dim(x, start, stop, TILE, axis=axis)

    sums = _combine(B_T, [every_fourth(x, i, 1, rows) for i in range(SEEN)])
    x = jnp.stack(sums)  # [6, batch, rows, width + 4, channels]
    sums = _combine(B_T, [every_fourth(x, i, 3, columns) for i in range(SEEN)])
    return jnp.stack(sums).reshape(SEEN**2, batch * rows * columns, channels)


def _spread(
    gradient: Float[Array, "batch height width features"],
) -> Float[Array, "36 tiles features"]:
    """Returns A g A^T of each tile."""
    batch, height, width, features = gradient.shape
    tiles = gradient.reshape(batch, height // TILE, TILE, width // TILE, TILE, features)
    rows = jnp.stack(_combine(A_T.T, [tiles[:, :, i] for i in range(TILE)]))
    columns = _combine(A_T.T, [rows[:, :, :, :, j] for j in range(TILE)])
    return jnp.stack(columns).reshape(SEEN**2, -1, features)


def _added(
    seen: Float[Array, "36 tiles channels"], shape: tuple[int, ...]
) -> Float[Array, "batch height width channels"]:
    """Returns the sum of B s B^T of all tiles, each where it sees: `_seen` transposed.

    Args:
        seen: Of each tile.
        shape: Of the map.
    """
    batch, height, width, channels = shape

    def along(axis: int, parts: Sequence[Array]) -> Array:
        # A tile sees one cell of the tile before it, its own four, one of the next.
        before, *own, after = _combine(B_T.T, parts)
        own[0] += _shifted(after, 1, axis)
        own[-1] += _shifted(before, -1, axis)
        return jnp.stack(own, axis=axis + 1)

    seen = seen.reshape(SEEN, SEEN, batch, height // TILE, width // TILE, channels)
    columns = along(3, list(seen))  # [6, batch, rows, columns, 4, channels]
    return along(1, list(columns)).reshape(shape)


def _shifted(x: Array, by: int, axis: int) -> Array:
    """Returns x moved along an axis, with zeros where nothing moves to."""
    margins = [(0, 0, 0)] * x.ndim
    margins[axis] = (by, -by, 0)  # a negative margin is cut off
    return jax.lax.pad(x, jnp.zeros((), x.dtype), margins)


def _combine(matrix: np.ndarray, values: Sequence[JaxOrNumPy]) -> list[JaxOrNumPy]:
    """Multiplies with a matrix, without its zeros and ones."""

    def product(row: np.ndarray) -> JaxOrNumPy:
        parts = [
            x if f == 1 else float(f) * x for f, x in zip(row, values, strict=True) if f
        ]
        return sum(parts[1:], parts[0])

    return [product(row) for row in matrix]
