"""Layers equal to Flax's, in the form that XLA computes fast on CPU.

XLA leaves to plain loops of its own, which are 10 to 40 times slower than Eigen: the
gradients of convolutions inside of a scan, convolutions of maps that are smaller than
the filters, transposed convolutions, and the gradient of pooling. Convolutions over
time and space, and their gradients, it computes slowly as well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax import runtime
from cmbjax.models.layers import DIMENSIONS


def eigen_convolution() -> Callable[..., Array]:
    """Returns what `nn.Conv` takes as `conv_general_dilated_cls`.

    On CPU it computes convolutions of odd filters and stride 1 in a scan, of small maps
    or of clips by Eigen, with their gradients; all else is XLA's.
    """
    return _convolve


def _convolve(
    x: Array, kernel: Array, strides: Any, padding: Any, **options: Any
) -> Array:
    ones = {*strides, *options["lhs_dilation"], *options["rhs_dilation"]} == {1}
    same = ones and padding == "SAME" and options["feature_group_count"] == 1
    odd = kernel.ndim in (4, 5) and all(size % 2 for size in kernel.shape[:-2])
    if not (same and odd and jax.default_backend() == "cpu"):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if kernel.ndim == 5:
        return _convolve_clips(x, kernel)
    return x @ kernel[0, 0] if kernel.shape[:2] == (1, 1) else _convolve_same(x, kernel)


def _convolve_clips(x: Array, kernel: Array) -> Array:
    """Convolves [batch, frames, height, width, channels] over time and space.

    The frames that a filter reaches become channels of a convolution over space.
    """
    size, frames = kernel.shape[0], x.shape[1]
    reach = size // 2
    padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0), (0, 0), (0, 0)))
    reached = [padded[:, i : i + frames] for i in range(size)]
    maps = jnp.concatenate(reached, axis=-1).reshape(
        -1, *x.shape[2:4], size * x.shape[4]
    )
    filters = jnp.moveaxis(kernel, 0, 2)
    filters = filters.reshape(*filters.shape[:2], maps.shape[3], kernel.shape[4])
    return _convolve_same(maps, filters).reshape(*x.shape[:4], -1)


@jax.custom_vjp
def _convolve_same(x: Array, kernel: Array) -> Array:
    """Convolves in a form that is always Eigen's, as are both gradients.

    Small maps are padded before; behind a barrier, since XLA would take the padding
    into the convolution.
    """
    rows, columns = _margins(kernel)
    if kernel.shape[0] > x.shape[1] or kernel.shape[1] > x.shape[2]:
        sides = ((0, 0), (rows, rows), (columns, columns), (0, 0))
        x = jax.lax.optimization_barrier(jnp.pad(x, sides))
        rows, columns = 0, 0
    return _padded(x, kernel, rows, columns)


def _padded(x: Array, kernel: Array, rows: int, columns: int) -> Array:
    padding = [(rows, rows), (columns, columns)]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=DIMENSIONS
    )


def _margins(kernel: Array) -> tuple[int, int]:
    return kernel.shape[0] // 2, kernel.shape[1] // 2


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x = runtime.computed_once(x)
    return _convolve_same(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = runtime.computed_once(gradient)
    of_x = _convolve_same(gradient, jnp.swapaxes(kernel[::-1, ::-1], 2, 3))
    # Channels take the place of samples, and the gradient that of the filters.
    swapped = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = _padded(*swapped, *_margins(kernel))
    return of_x, of_kernel.transpose(1, 2, 0, 3)


_convolve_same.defvjp(_forward, _backward)


class ConvTranspose(nn.Module, kw_only=True):
    """Enlarges maps: `nn.ConvTranspose` of stride `times` and filters of that size.

    Each cell becomes a square of its own: a product.

    Attributes:
        features: Channels of the output.
        times: How much larger each side becomes.
        kernel_init: Of the filters.
        dtype: Of the computation.
    """

    features: int
    times: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch {self.times}*height {self.times}*width features"]:
        """Returns the enlarged maps."""
        batch, height, width, channels = x.shape
        shape = (self.times, self.times, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = (jnp.asarray(a, self.dtype) for a in (x, kernel, bias))
        # Flax has it that the filter's last row makes the square's first.
        squares = jnp.einsum("bhwc,ijcf->bhiwjf", x, kernel[::-1, ::-1])
        size = (batch, height * self.times, width * self.times, self.features)
        return squares.reshape(size) + bias.reshape(1, 1, 1, -1)
