"""3x3 convolutions with a quarter of the multiplications, for inference on CPU.

A 4x4 tile of the output is A^T [(G k G^T) * (B^T x B)] A with x the 6x6 cells it sees
(Winograd's F(4x4, 3x3); Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016). The sums around the product cost memory traffic, so few channels do
not pay for it; the filters' share is computed once, in float64. Rounding grows to about
1e-5 of the largest value.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE, SEEN = 4, 6  # cells of a tile, and of the input that it sees, along an axis
LEAST_CHANNELS = 64
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
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]])
A_T = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


def transform(
    kernel: Float[np.ndarray, "3 3 channels features"],
) -> Float[Array, "36 channels features"]:
    """Returns G k G^T of each pair of channels."""
    g = G / 24
    transformed = np.einsum("ai,bj,ijcf->bacf", g, g, kernel.astype(np.float64))
    transformed = transformed.reshape(SEEN**2, *kernel.shape[2:])
    return jnp.asarray(transformed, kernel.dtype)


def convolve(
    x: Float[Array, "batch height width channels"],
    transformed: Float[Array, "36 channels features"],
) -> Float[Array, "batch height width features"]:
    """Returns the convolution of x with a border of one cell of zeros.

    Args:
        x: Height and width are multiples of 4.
        transformed: See `transform`.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // TILE, width // TILE
    x = jnp.pad(x, ((0, 0), (1, SEEN - TILE + 1), (1, SEEN - TILE + 1), (0, 0)))

    def every_fourth(x: Array, start: int, axis: int, number: int) -> Array:
        stop = start + TILE * (number - 1) + 1
        return jax.lax.slice_in_dim(x, start, stop, TILE, axis=axis)

    sums = _combine(B_T, [every_fourth(x, i, 1, rows) for i in range(SEEN)])
    x = jnp.stack(sums)  # [6, batch, rows, width + 4, channels]
    sums = _combine(B_T, [every_fourth(x, i, 3, columns) for i in range(SEEN)])
    x = jnp.stack(sums).reshape(SEEN**2, batch * rows * columns, channels)
    product = jax.lax.dot_general(x, transformed, (((2,), (1,)), ((0,), (0,))))
    product = product.reshape(SEEN, SEEN, batch, rows, columns, -1)
    x = jnp.stack(_combine(A_T, list(product)), axis=4)
    x = jnp.stack(_combine(A_T, list(x)), axis=2)
    return x.reshape(batch, height, width, -1)


def _combine(matrix: np.ndarray, values: Sequence[Array]) -> list[Array]:
    """Multiplies with a matrix of which most elements are 0 or 1."""

    def product(row: np.ndarray) -> Array:
        parts = [int(f) * x for f, x in zip(row, values, strict=True) if f]
        return sum(parts[1:], parts[0])

    return [product(row) for row in matrix]


def pays(shape: tuple[int, ...], kernel: Array) -> bool:
    """Whether a convolution of maps of that shape is worth this form."""
    return (
        kernel.dtype == jnp.float32
        and kernel.shape[:2] == (3, 3)
        and min(kernel.shape[2:]) >= LEAST_CHANNELS
        and shape[1] % TILE == shape[2] % TILE == 0
    )
