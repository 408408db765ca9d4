"""BN as all compared networks have it."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array

from cmbjax.models.layers import BatchNorm


def norm_relu(x: Array, *, train: bool, dtype: Any, name: str | None = None) -> Array:
    """Returns relu(BN(x))."""
    return nn.relu(BatchNorm(use_running_average=not train, dtype=dtype, name=name)(x))
