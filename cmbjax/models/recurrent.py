"""Convolutional recurrences in the blocks' place (Table 6, w/ ConvGRU, w/ ConvLSTM).

Each stream of frames has a state of its own: what its last frame left. A batch has one
frame of each stream, or in training several, over which the gradient flows back; into
the state from before the batch none does. A call that does not write the memory sees
each frame as the first of a sequence, its state zero. Whoever feeds the streams sets
the state to zero where a sequence begins: `memory.reset`.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.layers import widened
from cmbjax.models.memory import Bound, is_written
from cmbjax.models.posenet import PoseNet


class _Recurrence(nn.Module, kw_only=True):
    """What both have in common.

    Attributes:
        features: Channels c of the state.
        dtype: Of the computation; parameters and state are float32, or wider.
    """

    features: int
    dtype: Any = jnp.float32

    def _conv(
        self, name: str, features: int, bias_init: nn.initializers.Initializer
    ) -> nn.Conv:
        return nn.Conv(
            features, (3, 3), dtype=self.dtype, bias_init=bias_init, name=name
        )

    def _stored(self, name: str, x: Array) -> nn.Variable:
        shape = (*x.shape[:-1], self.features)
        return self.variable("memory", name, jnp.zeros, shape)

    def _read(self, state: nn.Variable, x: Array) -> Array:
        if not is_written(self):
            return jnp.zeros((*x.shape[:-1], self.features), x.dtype)
        if state.value.shape[:3] != x.shape[:3]:
            raise ValueError(
                f"the state of {self.name} is {list(state.value.shape)}, but this "
                f"batch is {list(x.shape)}: keep to the image side and the number of "
                "streams that it was made with"
            )
        return state.value.astype(x.dtype)

    def _write(self, state: nn.Variable, value: Array) -> None:
        if is_written(self):
            state.value = widened(value)


class ConvGRU(_Recurrence, kw_only=True):
    """A gated recurrent unit whose products are 3x3 convolutions (Ballas et al., 2016).

        z = sigmoid(W_z * [h, x])
        r = sigmoid(W_r * [h, x])
        n = tanh(W * [r h, x])
        h' = (1 - z) h + z n
        output = x (+) h'

    Variables:
        memory/hidden: [batch, height, width, c]. Written by every call for which the
            collection is mutable, never by `init`.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels_features"]:
        """Returns x (+) h'."""
        state = self._stored("hidden", x)
        h = self._read(state, x)
        gates = self._conv("gates", 2 * self.features, nn.initializers.zeros)
        z, r = jnp.split(nn.sigmoid(gates(jnp.concatenate([h, x], -1))), 2, axis=-1)
        candidate = self._conv("candidate", self.features, nn.initializers.zeros)
        n = jnp.tanh(candidate(jnp.concatenate([r * h, x], -1)))
        h = (1 - z) * h + z * n
        self._write(state, h)
        return jnp.concatenate([x, h.astype(x.dtype)], axis=-1)


class ConvLSTM(_Recurrence, kw_only=True):
    """A long short-term memory whose products are 3x3 convolutions (Shi et al., 2015).

        i, f, g, o = W * [x, h],  f with a bias of 1 at the start
        c' = sigmoid(f) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')
        output = x (+) h'

    Without the peepholes of the paper, whose size would be that of the maps.

    Variables:
        memory/hidden, memory/cell: [batch, height, width, c]. See `ConvGRU`.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels_features"]:
        """Returns x (+) h'."""
        hidden, cell = self._stored("hidden", x), self._stored("cell", x)
        h, c = self._read(hidden, x), self._read(cell, x)

        def forget_more(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

        gates = self._conv("gates", 4 * self.features, forget_more)
        i, f, g, o = jnp.split(gates(jnp.concatenate([x, h], -1)), 4, axis=-1)
        c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
        h = nn.sigmoid(o) * jnp.tanh(c)
        self._write(hidden, h)
        self._write(cell, c)
        return jnp.concatenate([x, h.astype(x.dtype)], axis=-1)


class RecurrentPoseNet(PoseNet, kw_only=True):
    """The network with recurrences in the blocks' place; sees frames in their order.

    Attributes:
        recurrence: `ConvGRU` or `ConvLSTM`.
        stream_frames: Frames of each stream a batch of training, one after the other.
    """

    recurrence: type[_Recurrence] = ConvGRU
    stream_frames: int = 1

    sequential: ClassVar[bool] = True
    resets_memory: ClassVar[bool] = True

    @property
    def remembers(self) -> bool:
        """Whether the memory is the paper's, of which there are readings to choose."""
        return False

    def enhance(self, name: str, x: Array, *, train: bool, r: Bound) -> Array:
        """Returns x with what a recurrence adds to it, a stream frame by frame."""
        block = self.recurrence(features=x.shape[-1], dtype=self.dtype, name=name)
        frames = self.stream_frames if train else 1
        steps = [block(x[step::frames]) for step in range(frames)]
        return jnp.stack(steps, axis=1).reshape(*x.shape[:-1], -1)
