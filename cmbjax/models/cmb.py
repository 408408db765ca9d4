"""The convolutional memory block (Wang et al., IJCAI 2018, Sec. 3)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

MemoryMode = Literal["shared", "per_sample"]


class Controller(nn.Module, kw_only=True):
    """phi of Eqs. 1, 2 and 4, Fig. 3: 3x3 conv, BN, ReLU, 1x1 conv, BN, ReLU.

    Attributes:
        features: Channels of both convolutions.
    """

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch height width features"]:
        """Returns phi(x)."""
        for kernel_size in ((3, 3), (1, 1)):
            x = nn.Conv(
                self.features, kernel_size, kernel_init=nn.initializers.he_normal()
            )(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return x


class ConvolutionalMemoryBlock(nn.Module, kw_only=True):
    """Enhances feature maps with what earlier batches left in a memory.

    With (+) the concatenation of channels, M the memory and r >= 1:

        C_I = phi_i(x (+) M_{t-1})                                   (Eq. 1)
        C_M = phi_m(x (+) clip_[1/r, r](M_{t-1} / x) * x)            (Eq. 2)
        M_t = C_M + C_I                                              (Eq. 3)
        C_O = phi_o(x (+) M_t)                                       (Eq. 4)
        output = x (+) C_O

    No gradient flows into M_{t-1}. Where `memory_features` differs from the channels
    of x, Eq. 2 takes a 1x1 convolution of x in place of the two x around the clip.

    Attributes:
        features: Channels of C_O; the output has those of x besides.
        memory_features: Channels c_m of the memory; `features` by default.
        memory_mode: "shared": every sample reads one M, and the batch mean of M_t is
            written. "per_sample": slot b holds what the b-th sample of the last batch
            left; a reader that does not write gets the mean over the slots.
        duplicate_input: Controllers that read x where the paper has the memory, out
            of "input", "memory" and "output" (Sec. 5.3, Ours w/ Convs).

    Variables:
        memory/value: [height, width, c_m], or [batch, height, width, c_m] per sample.
            Written by every call for which the collection is mutable, never by `init`.
        perturbations/value: Optional, shaped like the memory and added to M_t; the
            gradient in it is the gradient in M_t.
    """

    features: int
    memory_features: int | None = None
    memory_mode: MemoryMode = "shared"
    duplicate_input: tuple[str, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        train: bool,
        r: float | Float[Array, ""],
    ) -> Float[Array, "batch height width channels_features"]:
        """Returns x (+) C_O.

        Args:
            x: Feature maps.
            train: Whether BN uses and updates with the statistics of the batch.
            r: Bound of Eq. 2, at least 1; may be traced. 1 keeps the memory out of it.

        Raises:
            ValueError: The memory is of another height, width or batch size.
        """
        c_m = self.memory_features or self.features
        own = x if c_m == x.shape[-1] else nn.Conv(c_m, (1, 1), name="project")(x)
        has_memory = not {"input", "memory"} <= set(self.duplicate_input)
        memory = self._read(x.shape[:-1] + (c_m,)) if has_memory else own

        def controlled(name: str, other: jax.Array, features: int) -> jax.Array:
            other = own if name in self.duplicate_input else other
            both = jnp.concatenate([x, other], axis=-1)
            return Controller(features=features, name=name)(both, train=train)

        c_input = controlled("input", memory, c_m)
        c_memory = controlled("memory", similar_memory(memory, own, r), c_m)
        new_memory = c_memory + c_input
        if self.has_variable("perturbations", "value"):
            perturbation: jax.Array = self.get_variable("perturbations", "value")
            new_memory += jnp.broadcast_to(perturbation, new_memory.shape)
        c_output = controlled("output", new_memory, self.features)
        if has_memory and self._writes():
            shared = self.memory_mode == "shared"
            value = jnp.mean(new_memory, axis=0) if shared else new_memory
            self.put_variable("memory", "value", value)
        return jnp.concatenate([x, c_output], axis=-1)

    def _writes(self) -> bool:
        return self.is_mutable_collection("memory") and not self.is_initializing()

    def _read(self, shape: tuple[int, ...]) -> Float[Array, "batch height width c_m"]:
        shared = self.memory_mode == "shared"
        stored = self.variable(
            "memory",
            "value",
            # Sec. 3.4: random at the start. M_t is a sum of ReLUs, hence positive.
            lambda: jax.random.uniform(
                self.make_rng("params"), shape[1:] if shared else shape
            ),
        ).value
        expected = shape if self._writes() and not shared else shape[1:]
        if not shared and not self._writes():
            stored = jnp.mean(stored, axis=0)
        if stored.shape != expected:
            raise ValueError(
                f"the {self.memory_mode} memory of {self.name or 'the block'} is "
                f"{list(stored.shape)}, but this batch needs {list(expected)}: keep to "
                "the image side and, where a per_sample memory is written, to the "
                "batch size that it was made with"
            )
        return jnp.broadcast_to(jax.lax.stop_gradient(stored), shape)


CMB = ConvolutionalMemoryBlock


def similar_memory(
    memory: Float[Array, "*shape"],
    x: Float[Array, "*shape"],
    r: float | Float[Array, ""],
) -> Float[Array, "*shape"]:
    """Returns clip_[1/r, r](M / x) * x of Eq. 2 without a quotient; 0 where x is 0."""
    low, high = x / r, x * r
    return jnp.clip(memory, jnp.minimum(low, high), jnp.maximum(low, high))
