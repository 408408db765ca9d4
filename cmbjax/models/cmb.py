"""The convolutional memory block (Wang et al., IJCAI 2018, Sec. 3)."""

import functools
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models import memory
from cmbjax.models.fast.forms import FAST
from cmbjax.models.layers import Conv, Form, Part, conv_norm_relu, widened
from cmbjax.models.memory import Bound

MemoryMode = Literal["shared", "per_sample"]


class Controller(nn.Module, kw_only=True):
    """phi of Eqs. 1, 2 and 4, Fig. 3: 3x3 conv, BN, ReLU, 1x1 conv, BN, ReLU.

    Attributes:
        features: Channels of both convolutions.
        dtype: Of the computation; parameters and statistics are float32.
        form: How the layers are computed.
    """

    features: int
    dtype: Any = jnp.float32
    form: Form = FAST

    @nn.compact
    def __call__(
        self, *parts: Part, train: bool
    ) -> Float[Array, "batch height width features"]:
        """Returns phi of the concatenation of parts."""
        conv = functools.partial(
            Conv, features=self.features, dtype=self.dtype, form=self.form
        )
        layer = functools.partial(conv_norm_relu, train=train)
        x = layer(conv(kernel_size=3, name="Conv_0"), *parts, norm_name="BatchNorm_0")
        return layer(conv(kernel_size=1, name="Conv_1"), x, norm_name="BatchNorm_1")


class ConvolutionalMemoryBlock(nn.Module, kw_only=True):
    """Enhances feature maps with what earlier batches left in a memory.

    With (+) the concatenation of channels, M the memory and r >= 1:

        C_I = phi_i(x (+) M_{t-1})                                   (Eq. 1)
        C_M = phi_m(x (+) clip_[1/r, r](M_{t-1} / x) * x)            (Eq. 2)
        M_t = C_M + C_I                                              (Eq. 3)
        C_O = phi_o(x (+) M_t)                                       (Eq. 4)
        output = x (+) C_O

    Where the memory has another number of channels than x, Eq. 2 takes a 1x1
    convolution of x and a ReLU in place of the two x around the clip. No gradient flows
    into M_{t-1}. What studies change of the block is in `ablations.py`.

    Attributes:
        features: Channels of C_O; the output has those of x besides.
        memory_mode: "shared": every sample reads one M, and the batch mean of M_t is
            written. "per_sample": slot b holds what the b-th sample of the last batch
            left; a reader that does not write gets the mean over the slots.
        dtype: Of the computation; parameters, memory and statistics are float32,
            or wider if that is.
        form: How the layers are computed.

    Class attributes:
        remembers: Whether there is a memory that is written.

    Variables:
        memory/value: [height, width, c_m], or [batch, height, width, c_m] per sample.
            Written by every call for which the collection is mutable, never by `init`.
    """

    features: int
    memory_mode: MemoryMode = "shared"
    dtype: Any = jnp.float32
    form: Form = FAST

    remembers: ClassVar[bool] = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        train: bool,
        r: Bound,
    ) -> Float[Array, "batch height width channels_features"]:
        """Returns x (+) C_O.

        Args:
            x: Feature maps.
            train: Whether BN uses and updates with the statistics of the batch.
            r: Bound of Eq. 2, at least 1; may be traced. 1 keeps the memory out of it,
                and costs less where it is a number.

        Raises:
            ValueError: The memory is of another height, width or batch size; there is
                no such `memory_mode`; or r is a number below 1.
        """
        if self.memory_mode not in get_args(MemoryMode):
            modes = ", ".join(get_args(MemoryMode))
            raise ValueError(
                f"memory_mode must be one of {modes}, got {self.memory_mode!r}"
            )
        c_m = self.memory_channels
        phi = functools.partial(self.phi, train=train)
        x_projected = self.project(x, c_m)

        M = self.read((*x.shape[:-1], c_m))
        C_I = phi("input", c_m, x, M)  # Eq. 1
        C_M = phi("memory", c_m, x, similar_memory(M, x_projected, r))  # Eq. 2
        M_t = C_M + C_I  # Eq. 3
        C_O = phi("output", self.features, x, M_t)  # Eq. 4
        self.write(M_t)
        return jnp.concatenate([x, C_O], axis=-1)

    @property
    def memory_channels(self) -> int:
        """Channels c_m of the memory."""
        return self.features

    def phi(
        self, name: str, features: int, x: Array, maps: Array, *, train: bool
    ) -> Float[Array, "batch height width features"]:
        """Returns what a controller makes of x and other maps."""
        controller = Controller(
            features=features, dtype=self.dtype, form=self.form, name=name
        )
        return controller(x, maps, train=train)

    def project(self, x: Array, channels: int) -> Array:
        """Returns x with as many channels as the memory has, nowhere negative.

        M_t is a sum of ReLUs: where a linear projection is negative, Eq. 2 would bound
        it by a memory that never is.
        """
        if channels == x.shape[-1]:
            return x
        conv = Conv(
            features=channels,
            kernel_size=1,
            kernel_init=nn.initializers.lecun_normal(),
            dtype=self.dtype,
            form=self.form,
            name="project",
        )
        return nn.relu(conv(x))

    def read(
        self, shape: tuple[int, ...]
    ) -> Float[Array, "batch_or_1 height width c_m"]:
        """Returns M_{t-1}, as constant as the input."""
        return jax.lax.stop_gradient(self.stored(shape))

    def stored(
        self, shape: tuple[int, ...]
    ) -> Float[Array, "batch_or_1 height width c_m"]:
        """Returns what the memory holds, made at random at the start (Sec. 3.4).

        Args:
            shape: Of the maps that it is for: [batch, height, width, c_m].
        """
        shared = self.memory_mode == "shared"

        def start() -> Array:  # M_t is a sum of ReLUs, hence positive
            return jax.random.uniform(
                self.make_rng("params"), shape[1:] if shared else shape
            )

        value = jnp.asarray(self.variable("memory", "value", start).value)
        if not memory.is_written(self):
            value = memory.frozen(value)
        expected = shape[1:] if shared or not memory.is_written(self) else shape
        if value.shape != expected:
            raise ValueError(
                f"the {self.memory_mode} memory of {self.name or 'the block'} is "
                f"{list(value.shape)}, but this batch needs {list(expected)}: keep to "
                "the image side and, where a per_sample memory is written, to the "
                "batch size that it was made with"
            )
        return value if value.ndim == len(shape) else value[None]

    def write(self, M_t: Float[Array, "batch height width c_m"]) -> None:
        """Stores M_t, of a shared memory its mean over the batch."""
        if memory.is_written(self):
            value = widened(M_t)
            shared = self.memory_mode == "shared"
            self.put_variable(
                "memory", "value", memory.batch_mean(value) if shared else value
            )


CMB = ConvolutionalMemoryBlock


def similar_memory(
    memory: Float[Array, "*#shape"],
    x: Float[Array, "*shape"],
    r: Bound,
) -> Float[Array, "*shape"]:
    """Returns clip_[1/r, r](M / x) * x of Eq. 2 without a quotient; 0 where x is 0.

    Raises:
        ValueError: r is a number below 1.
    """
    if isinstance(r, int | float):
        if not r >= 1:
            raise ValueError(f"r must be at least 1, got {r}")
        if r == 1:
            return x
    low, high = x / r, x * r
    return jnp.clip(
        memory.astype(x.dtype), jnp.minimum(low, high), jnp.maximum(low, high)
    )
