"""BN and the ReLU behind it, as one function with its gradient in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.conv import Conv, Part

MOMENTUM = 0.9
EPSILON = nn.BatchNorm.epsilon


def conv_norm_relu(
    conv: Conv, *parts: Part, train: bool, norm_name: str | None
) -> Float[Array, "batch height width features"]:
    """Returns relu(BN(conv(parts))), as part of the module that calls it.

    Args:
        conv: The convolution; its `plain` and `dtype` hold for BN as well.
        parts: What it convolves.
        train: Whether BN uses and updates with the statistics of the batch.
        norm_name: Of the module of BN; None for none.
    """
    if norm_name is None:
        return nn.relu(conv(*parts))
    if conv.plain:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=MOMENTUM,
            dtype=conv.dtype,
            name=norm_name,
        )
        return nn.relu(norm(conv(*parts)))
    norm_relu = NormRelu(dtype=conv.dtype, name=norm_name)
    return norm_relu(*conv.apart(*parts), train=train)


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
    def __call__(
        self,
        x: Float[Array, "batch height width features"],
        bias: Float[Array, " features"],
        *,
        train: bool,
    ) -> Float[Array, "batch height width features"]:
        """Returns the maps.

        Args:
            x: Of a convolution, without its bias.
            bias: Of that convolution.
            train: See `conv_norm_relu`.
        """
        shape = bias.shape
        scale = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("bias", nn.initializers.zeros, shape)
        running = [
            self.variable("batch_stats", name, value, shape, jnp.float32)
            for name, value in (("mean", jnp.zeros), ("var", jnp.ones))
        ]
        if not train:
            mean, var = (stored.value for stored in running)
            factor = scale * jax.lax.rsqrt(var + EPSILON)
            return _scale_relu(x, factor, (bias - mean) * factor + shift)
        y, mean, var = norm_relu(x, scale, shift)
        if not self.is_initializing():
            for stored, value in zip(running, (mean + bias, var), strict=True):
                stored.value = MOMENTUM * stored.value + (1 - MOMENTUM) * value
        return y


def _widen(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _of_channels(values: Array) -> Float[Array, "1 1 1 features"]:
    return values.reshape(1, 1, 1, -1)


def _scale_relu(x: Array, factor: Array, shift: Array) -> Array:
    y = x * _of_channels(factor) + _of_channels(shift)
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
    wide = _widen(x)
    mean = jnp.mean(wide, axis=(0, 1, 2))
    var = jnp.mean((wide - _of_channels(mean)) ** 2, axis=(0, 1, 2))
    inverse = jax.lax.rsqrt(var + EPSILON)
    y = _scale_relu(x, scale * inverse, shift - mean * scale * inverse)
    return (y, mean, var), (x, y, mean, inverse, scale)


def _backward(
    saved: tuple[Array, ...], gradients: Normed
) -> tuple[Array, Array, Array]:
    x, y, mean, inverse, scale = saved
    gradient, wide = _widen(jnp.where(y > 0, gradients[0], 0)), _widen(x)
    cells = x.size // x.shape[-1]
    of_shift = jnp.sum(gradient, axis=(0, 1, 2))
    of_scale = inverse * (jnp.sum(gradient * wide, axis=(0, 1, 2)) - mean * of_shift)
    # scale inverse (gradient - mean of it - normalised x times mean of their product)
    slope = _of_channels(inverse * of_scale / cells)
    of_x = (
        gradient - (wide - _of_channels(mean)) * slope - _of_channels(of_shift) / cells
    )
    return (_of_channels(scale * inverse) * of_x).astype(x.dtype), of_scale, of_shift


norm_relu.defvjp(_forward, _backward)
