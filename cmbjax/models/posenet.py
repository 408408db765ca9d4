"""The light hourglass with three memory blocks (Sec. 4, Table 1)."""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.cmb import ConvolutionalMemoryBlock, MemoryMode
from cmbjax.models.conv import Conv, Doubled, Part
from cmbjax.models.network import Network
from cmbjax.models.norm import conv_norm_relu
from cmbjax.models.recurrent import ConvGRU, ConvLSTM

HEAD_CELLS = 32  # the dense 3-D head sees maps of at most this side

Head3d = Literal["none", "dense", "maps"]
RECURRENCES = {"gru": ConvGRU, "lstm": ConvLSTM}


class PoseNet(Network, kw_only=True):
    """Regresses one heat map a joint from a depth image.

    Attributes:
        num_joints: See `Network`, as of `width`, `head3d` and `dtype`.
        blocks: Whether there are memory blocks at all (Table 6, Ours w/o CMB).
        recurrence: "gru" or "lstm" in place of the blocks (Table 6, Ours w/ ConvGRU,
            w/ ConvLSTM), or "none".
        in_order: Whether frames come in the order of their recording (Table 6, Ours w/
            Sequence); with a recurrence they always do.
        capacity: c_m as a multiple of the block's own channels (Table 6, Half, Double).
        memory_mode: See `ConvolutionalMemoryBlock`.
        memory_rate: See `ConvolutionalMemoryBlock`.
        memory_constant: See `ConvolutionalMemoryBlock`.
        memory_gradient: See `ConvolutionalMemoryBlock`.
        duplicate_input: See `ConvolutionalMemoryBlock`.
        trunk_norm: Whether BN follows each 3x3 convolution of the trunk. Table 1 has
            none.
        head3d: What gives the joints' depth, if the network is to: "dense", two layers
            of 1024 on the heat maps that regress 3-D joints (Sec. 5.1, ITOP), or
            "maps", beside each heat map a map of the joint's depth, read where the
            joint is.
        norm: See `ConvolutionalMemoryBlock`.
        plain: See `ConvolutionalMemoryBlock`.
    """

    blocks: bool = True
    recurrence: str = "none"
    in_order: bool = False
    capacity: float = 1.0
    memory_mode: MemoryMode = "shared"
    memory_rate: float = 1.0
    memory_constant: bool = False
    memory_gradient: bool = False
    duplicate_input: tuple[str, ...] = ()
    trunk_norm: bool = False
    norm: bool = True
    plain: bool = False

    heads3d = get_args(Head3d)

    @property
    def sequential(self) -> bool:
        """See `Network`."""
        return self.in_order or self.restarts

    @property
    def restarts(self) -> bool:
        """See `Network`."""
        return self.recurrence != "none"

    @nn.compact
    def __call__(
        self,
        depth: Float[Array, "batch side side 1"],
        *,
        train: bool,
        r: float | Float[Array, ""],
    ) -> (
        Float[Array, "batch cells cells joints"]
        | tuple[
            Float[Array, "batch cells cells joints"], Float[Array, "batch joints xyz=3"]
        ]
        | tuple[
            Float[Array, "batch cells cells joints"],
            Float[Array, "batch cells cells joints"],
        ]
    ):
        """Returns heat maps at half the side of `depth`.

        Args:
            depth: Normalised depth; the side is a multiple of 8.
            train: See `ConvolutionalMemoryBlock`.
            r: See `ConvolutionalMemoryBlock`.

        Returns:
            The heat maps; with the dense head also joints: x and y as fractions of the
            crop from its centre, z in normalised depth; with maps also those of z.

        Raises:
            ValueError: The side is not a multiple of 8, or there is no such head.
        """
        self.check(depth)

        def conv(name: str, features: int, *parts: Part) -> Array:
            return conv_norm_relu(
                Conv(
                    features=round(features * self.width),
                    dtype=self.dtype,
                    plain=self.plain,
                    name=name,
                ),
                *parts,
                train=train,
                norm_name=f"{name}_norm" if self.trunk_norm and self.norm else None,
            )

        def block(name: str, x: Array) -> Array:
            if not self.blocks:
                return x
            features = x.shape[-1]
            if self.recurrence != "none":
                return RECURRENCES[self.recurrence](
                    features=features, dtype=self.dtype, name=name
                )(x)
            return ConvolutionalMemoryBlock(
                features=features,
                memory_features=round(features * self.capacity),
                memory_mode=self.memory_mode,
                memory_rate=self.memory_rate,
                memory_constant=self.memory_constant,
                memory_gradient=self.memory_gradient,
                duplicate_input=self.duplicate_input,
                norm=self.norm,
                dtype=self.dtype,
                plain=self.plain,
                name=name,
            )(x, train=train, r=r)

        def pool(x: Array) -> Array:
            if not self.plain:
                return halve(x)
            return nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))

        x = conv("conv1_2", 32, conv("conv1_1", 32, depth))
        x = block("cmb1", pool(x))
        conv2_1 = conv("conv2_1", 64, x)
        x = block("cmb2", pool(conv2_1))
        conv3_2 = conv("conv3_2", 128, conv("conv3_1", 128, x))
        x = block("cmb3", pool(conv3_2))
        x = conv("conv4_2", 256, conv("conv4_1", 256, x))
        x = conv("conv5", 128, Doubled(x), conv3_2)
        x = conv("conv6", 64, Doubled(x), conv2_1)

        def maps(name: str) -> Array:
            return Conv(
                features=self.num_joints,
                kernel_size=1,
                # Small, so that training starts from empty maps and not from noise.
                kernel_init=nn.initializers.normal(0.01),
                dtype=self.dtype,
                plain=self.plain,
                name=name,
            )(x).astype(jnp.float32)

        heatmaps = maps("conv7")
        if self.head3d == "none":
            return heatmaps
        joints = maps("depth") if self.head3d == "maps" else self._head(heatmaps)
        return heatmaps, joints

    def _head(self, heatmaps: Array) -> Float[Array, "batch joints xyz=3"]:
        pool = -(-heatmaps.shape[1] // HEAD_CELLS)
        x = nn.avg_pool(heatmaps, window_shape=(pool, pool), strides=(pool, pool))
        x = x.reshape(len(x), -1)
        for layer in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(1024, name=layer)(x))
        return nn.Dense(3 * self.num_joints, name="fc3")(x).reshape(
            -1, self.num_joints, 3
        )


@jax.custom_vjp
def halve(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Takes the maximum of each 2x2 square, as `nn.max_pool` does.

    The gradient goes to the first of equal maxima, in the order of rows. XLA's pooling
    gives the same and costs more on CPU.
    """
    return functools.reduce(jnp.maximum, _corners(x))


def _corners(x: Array) -> list[Float[Array, "batch rows columns channels"]]:
    """Returns the four cells of each square, in the order of rows."""
    return [x[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]


def _halve_forward(x: Array) -> tuple[Array, Array]:
    return halve(x), x


def _halve_backward(x: Array, gradient: Array) -> tuple[Array]:
    corners = _corners(x)
    maxima = functools.reduce(jnp.maximum, corners)
    shares, is_free = [], jnp.ones_like(gradient, bool)
    for corner in corners:
        is_first = is_free & (corner == maxima)
        shares.append(jnp.where(is_first, gradient, 0))
        is_free &= ~is_first
    rows = [jnp.stack(shares[i : i + 2], axis=3) for i in (0, 2)]
    return (jnp.stack(rows, axis=2).reshape(x.shape),)


halve.defvjp(_halve_forward, _halve_backward)
