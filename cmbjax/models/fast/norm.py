"""BN and the ReLU behind it, with the gradient in closed form; BN as a factor."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax import runtime
from cmbjax.models.layers import EPSILON, MOMENTUM, along_channels, widened


class NormRelu(nn.Module, kw_only=True):
    """relu(BN(x + bias)); parameters and statistics are those of `nn.BatchNorm`.

    The batch's mean takes the bias of the convolution away again: it is not added in
    the first place, and its gradient is zero, not the rounding that is left of it.

    Attributes:
        dtype: Of the maps; statistics are float32.

    Variables:
        params/scale, params/bias: [features].
        batch_stats/mean, batch_stats/var: [features]. Written in training.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def variables_of(
        self, features: int
    ) -> tuple[Array, Array, nn.Variable, nn.Variable]:
        """Returns scale, bias, running mean and running variance."""
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,))
        var = self.variable("batch_stats", "var", jnp.ones, (features,))
        return jnp.asarray(scale), jnp.asarray(bias), mean, var

    def __call__(
        self,
        x: Float[Array, "batch height width features"],
        conv_bias: Float[Array, " features"],
    ) -> Float[Array, "batch height width features"]:
        """Returns the maps, by the statistics of the batch, and updates the running.

        Args:
            x: Of a convolution, without its bias.
            conv_bias: Of that convolution.
        """
        scale, bias, running_mean, running_var = self.variables_of(len(conv_bias))
        y, mean, var = norm_relu(x, scale, bias)
        if not self.is_initializing():
            pairs = ((running_mean, mean + conv_bias), (running_var, var))
            for running, value in pairs:
                running.value = MOMENTUM * running.value + (1 - MOMENTUM) * value
        return y

    def folded(
        self, conv_bias: Float[Array, " features"]
    ) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
        """Returns BN with running statistics: a factor of the filters, and a bias."""
        scale, bias, mean, var = self.variables_of(len(conv_bias))
        factor = scale * jax.lax.rsqrt(var.value + EPSILON)
        return factor, (conv_bias - mean.value) * factor + bias


def _scale_relu(x: Array, factor: Array, shift: Array) -> Array:
    y = x * along_channels(factor) + along_channels(shift)
    return nn.relu(y).astype(x.dtype)


Normed = tuple[
    Float[Array, "batch height width features"],
    Float[Array, " features"],
    Float[Array, " features"],
]


@jax.custom_vjp
def norm_relu(
    x: Float[Array, "batch height width features"],
    scale: Float[Array, " features"],
    shift: Float[Array, " features"],
) -> Normed:
    """Returns relu(scale (x - mean) / sqrt(var + epsilon) + shift), mean and var.

    Mean and variance are those of the batch; what becomes of them is not
    differentiated.
    """
    return _forward(x, scale, shift)[0]


def _forward(x: Array, scale: Array, shift: Array) -> tuple[Normed, tuple[Array, ...]]:
    wide = widened(x)
    mean = jnp.mean(wide, axis=(0, 1, 2))
    var = jnp.mean((wide - along_channels(mean)) ** 2, axis=(0, 1, 2))
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = _scale_relu(x, scale * inverse, shift - mean * scale * inverse)
    return (y, mean, var), (x, y, mean, inverse, scale)


def _backward(
    saved: tuple[Array, ...], gradients: Normed
) -> tuple[Array, Array, Array]:
    x, y, mean, inverse, scale = saved
    gradient, wide = widened(jnp.where(y > 0, gradients[0], 0)), widened(x)
    cells = x.size // x.shape[-1]
    of_shift = jnp.sum(gradient, axis=(0, 1, 2))
    of_scale = inverse * (jnp.sum(gradient * wide, axis=(0, 1, 2)) - mean * of_shift)
    # scale inverse (gradient - mean of it - normalised x times mean of their product)
    slope = along_channels(inverse * of_scale / cells)
    centred = wide - along_channels(mean)
    of_x = gradient - centred * slope - along_channels(of_shift / cells)
    of_x = (along_channels(scale * inverse) * of_x).astype(x.dtype)
    return runtime.computed_once(of_x), of_scale, of_shift


norm_relu.defvjp(_forward, _backward)
