"""Memory blocks and networks that are changed in one thing, to see what it is worth."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models import memory
from cmbjax.models.cmb import ConvolutionalMemoryBlock
from cmbjax.models.memory import Bound
from cmbjax.models.posenet import PoseNet


class HalfMemory(ConvolutionalMemoryBlock, kw_only=True):
    """A memory of half as many channels (Sec. 5.2, Table 6: Half)."""

    capacity = 0.5

    @property
    def memory_channels(self) -> int:
        """Channels c_m of the memory."""
        return max(1, round(self.features * self.capacity))


class DoubleMemory(HalfMemory, kw_only=True):
    """A memory of twice as many channels (Table 6: Double)."""

    capacity = 2.0


class InputForMemory(ConvolutionalMemoryBlock, kw_only=True):
    """Controllers that read x where the paper has M_{t-1} (Sec. 5.3, Ours w/ Convs).

    Eqs. 3 and 4 stand, so every weight is used. There is no memory.
    """

    without_memory: ClassVar[tuple[str, ...]] = ("input", "memory")
    remembers = False

    def phi(
        self, name: str, features: int, x: Array, maps: Array, *, train: bool
    ) -> Array:
        """Returns what a controller makes of x alone."""
        maps = x if name in self.without_memory else maps
        return super().phi(name, features, x, maps, train=train)

    def read(self, shape: tuple[int, ...]) -> Array:
        """Returns what nobody looks at."""
        return jnp.zeros((1, *shape[1:]), self.dtype)

    def write(self, M_t: Array) -> None:
        """Stores nothing."""


class InputForAll(InputForMemory, kw_only=True):
    """x in place of M_t as well: w/ Convs to the letter.

    Two of three controllers reach no output.
    """

    without_memory: ClassVar[tuple[str, ...]] = ("input", "memory", "output")


class ConstantMemory(ConvolutionalMemoryBlock, kw_only=True):
    """A memory that is a parameter, learned like any other, and that nothing writes.

    It is what a memory gives that carries nothing from sample to sample.

    Variables:
        params/constant: [height, width, c_m].
    """

    remembers = False

    def read(self, shape: tuple[int, ...]) -> Array:
        """Returns the parameter."""
        return self.param("constant", nn.initializers.uniform(1.0), shape[1:])[None]

    def write(self, M_t: Array) -> None:
        """Stores nothing."""


class RunningMean(ConvolutionalMemoryBlock, kw_only=True):
    """A memory that moves towards M_t by a small part of the way.

    Attributes:
        rate: Part of M_t that is written, the rest being M_{t-1}.
    """

    rate: float = 0.01

    def write(self, M_t: Float[Array, "batch height width c_m"]) -> None:
        """Stores the mean of what is there and M_t."""
        if not memory.is_written(self):
            return
        before: Array = self.get_variable("memory", "value")
        if not memory.is_per_sample(before):
            before = before[None]
        super().write(before + self.rate * (M_t - before))


class AttachedMemory(ConvolutionalMemoryBlock, kw_only=True):
    """A memory that the gradient flows into, where M_{t-1} is of the same step."""

    def read(self, shape: tuple[int, ...]) -> Array:
        """Returns M_{t-1}."""
        return self.stored(shape)


class OptimizedMemory(ConvolutionalMemoryBlock, kw_only=True):
    """A memory that can take a gradient step before it is stored (Sec. 3.3).

    "M_t will be further optimized": see `train.step.train_step_of_study`.

    Variables:
        perturbations/value: Optional, shaped like the memory, and added to M_t where
            Eq. 4 reads it; the gradient in it is the gradient in M_t.
    """

    def phi(
        self, name: str, features: int, x: Array, maps: Array, *, train: bool
    ) -> Array:
        """Returns what a controller makes of x and other maps."""
        if name == "output" and self.has_variable("perturbations", "value"):
            perturbation: Array = self.get_variable("perturbations", "value")
            is_shared = self.memory_mode == "shared"
            maps += perturbation[None] if is_shared else perturbation
        return super().phi(name, features, x, maps, train=train)


class WithoutBlocks(PoseNet, kw_only=True):
    """No memory blocks at all (Table 6, Ours w/o CMB)."""

    @property
    def remembers(self) -> bool:
        """Whether there is a memory."""
        return False

    def enhance(self, name: str, x: Array, *, train: bool, r: Bound) -> Array:
        """Returns x."""
        return x


class InOrder(PoseNet, kw_only=True):
    """Sees frames in the order of their recording (Table 6, Ours w/ Sequence)."""

    sequential: ClassVar[bool] = True
