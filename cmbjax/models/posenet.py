"""The light hourglass with three memory blocks (Sec. 4, Table 1)."""

from typing import Literal, get_args

from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.cmb import ConvolutionalMemoryBlock, MemoryMode
from cmbjax.models.fast.forms import FAST
from cmbjax.models.layers import Conv, Form, Part, Upsampled, conv_norm_relu, widened
from cmbjax.models.losses import AnyArray
from cmbjax.models.memory import Bound
from cmbjax.models.network import Network, Outputs

HEAD_CELLS = 32  # the dense 3-D head sees maps of at most this side

Head3d = Literal["none", "dense", "maps"]


class PoseNet(Network, kw_only=True):
    """Regresses one heat map a joint from a depth image, at half its side.

    Attributes:
        block: The memory block.
        memory_mode: Of the blocks: "shared" or "per_sample".
        trunk_norm: Whether BN follows each 3x3 convolution of the trunk. Table 1 has
            none.
        head3d: What gives the joints' depth, if the network is to: "dense", two layers
            of 1024 on the heat maps that regress 3-D joints (Sec. 5.1, ITOP), or
            "maps", beside each heat map a map of the joint's depth, read where the
            joint is.
        form: How the layers are computed.
    """

    block: type[ConvolutionalMemoryBlock] = ConvolutionalMemoryBlock
    memory_mode: MemoryMode = "shared"
    trunk_norm: bool = False
    form: Form = FAST

    heads3d = get_args(Head3d)

    @property
    def remembers(self) -> bool:
        """Whether the blocks have a memory."""
        return self.block.remembers

    @nn.compact
    def outputs(
        self,
        depth: Float[AnyArray, "batch side side 1"],
        *,
        train: bool,
        r: Bound,
    ) -> Outputs:
        """Returns heat maps at half the side of `depth`, and what `head3d` gives."""
        depth = self.check(depth)
        pool = self.form.max_pool

        def conv(name: str, features: int, *parts: Part) -> Array:
            return conv_norm_relu(
                Conv(
                    features=self.scaled(features),
                    dtype=self.dtype,
                    form=self.form,
                    name=name,
                ),
                *parts,
                train=train,
                norm_name=f"{name}_norm" if self.trunk_norm else None,
            )

        def cmb(name: str, x: Array) -> Array:
            return self.enhance(name, x, train=train, r=r)

        # Table 1, row by row; at the right the side of 192 pixels, and the channels.
        x = conv("conv1_1", 32, depth)  # 192, 32
        x = conv("conv1_2", 32, x)  # 192, 32
        x = cmb("cmb1", pool(x))  # 96, 64
        conv2_1 = conv("conv2_1", 64, x)  # 96, 64
        x = cmb("cmb2", pool(conv2_1))  # 48, 128
        x = conv("conv3_1", 128, x)  # 48, 128
        conv3_2 = conv("conv3_2", 128, x)  # 48, 128
        x = cmb("cmb3", pool(conv3_2))  # 24, 256
        x = conv("conv4_1", 256, x)  # 24, 256
        x = conv("conv4_2", 256, x)  # 24, 256
        x = conv("conv5", 128, Upsampled(x), conv3_2)  # 48, 384 -> 128
        x = conv("conv6", 64, Upsampled(x), conv2_1)  # 96, 192 -> 64
        heatmaps = self.maps("conv7", x)  # 96, joints

        if self.head3d == "maps":
            return Outputs(heatmaps, depth_maps=self.maps("depth", x))
        if self.head3d == "dense":
            return Outputs(heatmaps, joints=self.regress(heatmaps))
        return Outputs(heatmaps)

    def enhance(self, name: str, x: Array, *, train: bool, r: Bound) -> Array:
        """Returns x with what a memory block adds to it."""
        block = self.block(
            features=x.shape[-1],
            memory_mode=self.memory_mode,
            dtype=self.dtype,
            form=self.form,
            name=name,
        )
        return block(x, train=train, r=r)

    def maps(self, name: str, x: Array) -> Float[Array, "batch cells cells joints"]:
        """Returns a map a joint, by a 1x1 convolution."""
        conv = Conv(
            features=self.num_joints,
            kernel_size=1,
            # Small, so that training starts from empty maps and not from noise.
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            form=self.form,
            name=name,
        )
        return widened(conv(x))

    def regress(self, heatmaps: Array) -> Float[Array, "batch joints xyz=3"]:
        """Returns joints in units of regression, by two layers of 1024."""
        pool = -(-heatmaps.shape[1] // HEAD_CELLS)
        x = nn.avg_pool(
            heatmaps,
            window_shape=(pool, pool),
            strides=(pool, pool),
            padding="SAME",  # no cell is left out where the side is no multiple
            count_include_pad=False,
        )
        x = x.reshape(len(x), -1)
        for layer in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(1024, name=layer)(x))
        return nn.Dense(3 * self.num_joints, name="fc3")(x).reshape(
            -1, self.num_joints, 3
        )
