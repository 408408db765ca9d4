"""The light hourglass with three memory blocks (Sec. 4, Table 1)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.cmb import ConvolutionalMemoryBlock, MemoryMode

STRIDE = 2  # image pixels per heat-map cell
HEAD_CELLS = 32  # the 3-D head sees maps of at most this side


class PoseNet(nn.Module, kw_only=True):
    """Regresses one heat map a joint from a depth image.

    Attributes:
        num_joints: Heat maps K.
        blocks: Whether there are memory blocks at all (Table 6, Ours w/o CMB).
        width: Multiplies every channel count.
        capacity: c_m as a multiple of the block's own channels (Table 6, Half, Double).
        memory_mode: See `ConvolutionalMemoryBlock`.
        duplicate_input: See `ConvolutionalMemoryBlock`.
        trunk_norm: Whether BN follows each 3x3 convolution of the trunk. Table 1 has
            none.
        head3d: Whether two layers of 1024 on the heat maps regress 3-D joints as well
            (Sec. 5.1, ITOP).
    """

    num_joints: int
    blocks: bool = True
    width: float = 1.0
    capacity: float = 1.0
    memory_mode: MemoryMode = "shared"
    duplicate_input: tuple[str, ...] = ()
    trunk_norm: bool = False
    head3d: bool = False

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
    ):
        """Returns heat maps at half the side of `depth`.

        Args:
            depth: Normalised depth; the side is a multiple of 8.
            train: See `ConvolutionalMemoryBlock`.
            r: See `ConvolutionalMemoryBlock`.

        Returns:
            The heat maps; with `head3d` also joints: x and y as fractions of the crop
            from its centre, z in normalised depth.

        Raises:
            ValueError: The side is not a multiple of 8.
        """
        if depth.shape[1] % 8 or depth.shape[1] != depth.shape[2]:
            raise ValueError(
                "depth must be square with a side that is a multiple of 8, "
                f"got {list(depth.shape)}"
            )

        def conv(name: str, features: int, x: Array) -> Array:
            features = round(features * self.width)
            init = nn.initializers.he_normal()
            x = nn.Conv(features, (3, 3), kernel_init=init, name=name)(x)
            if self.trunk_norm:
                x = nn.BatchNorm(
                    use_running_average=not train, momentum=0.9, name=f"{name}_norm"
                )(x)
            return nn.relu(x)

        def block(name: str, x: Array) -> Array:
            if not self.blocks:
                return x
            features = x.shape[-1]
            return ConvolutionalMemoryBlock(
                features=features,
                memory_features=round(features * self.capacity),
                memory_mode=self.memory_mode,
                duplicate_input=self.duplicate_input,
                name=name,
            )(x, train=train, r=r)

        x = conv("conv1_2", 32, conv("conv1_1", 32, depth))
        x = block("cmb1", halve(x))
        conv2_1 = conv("conv2_1", 64, x)
        x = block("cmb2", halve(conv2_1))
        conv3_2 = conv("conv3_2", 128, conv("conv3_1", 128, x))
        x = block("cmb3", halve(conv3_2))
        x = conv("conv4_2", 256, conv("conv4_1", 256, x))
        x = conv("conv5", 128, jnp.concatenate([double(x), conv3_2], axis=-1))
        x = conv("conv6", 64, jnp.concatenate([double(x), conv2_1], axis=-1))
        # Small, so that training starts from empty maps and not from noise.
        init = nn.initializers.normal(0.01)
        heatmaps = nn.Conv(self.num_joints, (1, 1), kernel_init=init, name="conv7")(x)
        if not self.head3d:
            return heatmaps
        return heatmaps, self._head(heatmaps)

    def _head(self, heatmaps: Array) -> Float[Array, "batch joints xyz=3"]:
        pool = -(-heatmaps.shape[1] // HEAD_CELLS)
        x = nn.avg_pool(heatmaps, (pool, pool), strides=(pool, pool))
        x = x.reshape(len(x), -1)
        for layer in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(1024, name=layer)(x))
        return nn.Dense(3 * self.num_joints, name="fc3")(x).reshape(
            -1, self.num_joints, 3
        )


def halve(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height/2 width/2 channels"]:
    """Takes the maximum of each 2x2 square."""
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def double(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch 2*height 2*width channels"]:
    """Repeats each cell twice along both axes (nearest upsampling)."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
