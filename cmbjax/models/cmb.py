"""The convolutional memory block (Wang et al., IJCAI 2018, Sec. 3)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax.models.conv import Conv, Convolved, Part, convolve
from cmbjax.models.norm import conv_norm_relu

MemoryMode = Literal["shared", "per_sample"]


class Controller(nn.Module, kw_only=True):
    """phi of Eqs. 1, 2 and 4, Fig. 3: 3x3 conv, BN, ReLU, 1x1 conv, BN, ReLU.

    Attributes:
        features: Channels of both convolutions.
        norm: Whether there is BN.
        dtype: See `Conv`.
        plain: See `Conv`.
    """

    features: int
    norm: bool = True
    dtype: Any = jnp.float32
    plain: bool = False

    @nn.compact
    def __call__(
        self, *parts: Part, train: bool
    ) -> Float[Array, "batch height width features"]:
        """Returns phi of the concatenation of parts."""
        for layer, kernel_size in enumerate((3, 1)):
            conv = Conv(
                features=self.features,
                kernel_size=kernel_size,
                dtype=self.dtype,
                plain=self.plain,
                name=f"Conv_{layer}",
            )
            norm_name = f"BatchNorm_{layer}" if self.norm else None
            x = conv_norm_relu(conv, *parts, train=train, norm_name=norm_name)
            parts = (x,)
        return x


class ConvolutionalMemoryBlock(nn.Module, kw_only=True):
    """Enhances feature maps with what earlier batches left in a memory.

    With (+) the concatenation of channels, M the memory and r >= 1:

        C_I = phi_i(x (+) M_{t-1})                                   (Eq. 1)
        C_M = phi_m(x (+) clip_[1/r, r](M_{t-1} / x) * x)            (Eq. 2)
        M_t = C_M + C_I                                              (Eq. 3)
        C_O = phi_o(x (+) M_t)                                       (Eq. 4)
        output = x (+) C_O

    Where `memory_features` differs from the channels
    of x, Eq. 2 takes a 1x1 convolution of x in place of the two x around the clip.

    Attributes:
        features: Channels of C_O; the output has those of x besides.
        memory_features: Channels c_m of the memory; `features` by default.
        memory_mode: "shared": every sample reads one M, and the batch mean of M_t is
            written. "per_sample": slot b holds what the b-th sample of the last batch
            left; a reader that does not write gets the mean over the slots.
        memory_rate: Part of M_t that is written, the rest being M_{t-1}; 1 in the
            paper. Less makes the memory a running mean.
        memory_constant: Whether the memory is a parameter, learned like any other and
            never written: what a memory gives that carries nothing from sample to
            sample.
        memory_gradient: Whether the gradient flows into M_{t-1}, where that comes from
            the same step (see `training.train_step`, memory_steps).
        duplicate_input: Controllers that read x where the paper has the memory, out
            of "input", "memory" and "output" (Sec. 5.3, Ours w/ Convs).
        norm: Whether the controllers have BN; without it they are those of a trained
            block whose BN was folded into the convolutions.
        dtype: Of the computation; parameters, memory and statistics are float32.
        plain: Whether to compute as written above, for comparison. The rewritten
            form is described in `conv.py`.

    Variables:
        memory/value: [height, width, c_m], or [batch, height, width, c_m] per sample.
            Written by every call for which the collection is mutable, never by `init`.
        params/constant: [height, width, c_m], with `memory_constant`, in place of it.
        perturbations/value: Optional, shaped like the memory and added to M_t; the
            gradient in it is the gradient in M_t.
        frozen/value: Optional, [height, width, c_m]: the memory's half of the input
            controller's 3x3 convolution, computed beforehand.
    """

    features: int
    memory_features: int | None = None
    memory_mode: MemoryMode = "shared"
    memory_rate: float = 1.0
    memory_constant: bool = False
    memory_gradient: bool = False
    duplicate_input: tuple[str, ...] = ()
    norm: bool = True
    dtype: Any = jnp.float32
    plain: bool = False

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
            r: Bound of Eq. 2, at least 1; may be traced. 1 keeps the memory out of it,
                and costs less where it is a number.

        Raises:
            ValueError: The memory is of another height, width or batch size.
        """
        c_m = self.memory_features or self.features
        own = x
        if c_m != x.shape[-1]:
            own = Conv(
                features=c_m,
                kernel_size=1,
                kernel_init=nn.initializers.lecun_normal(),
                dtype=self.dtype,
                plain=self.plain,
                name="project",
            )(x)
        has_memory = not {"input", "memory"} <= set(self.duplicate_input)
        has_memory &= not self.memory_constant
        if self.memory_constant:
            shape = (*x.shape[1:-1], c_m)
            memory = self.param("constant", nn.initializers.uniform(1.0), shape)[None]
        else:
            memory = self._read(x.shape[:-1] + (c_m,)) if has_memory else own
        if self.has_variable("frozen", "value"):
            frozen: jax.Array = self.get_variable("frozen", "value")
            before: Part = Convolved(frozen[None], c_m)
        else:
            before = memory
        outside = isinstance(r, int | float) and r == 1  # the memory is out of Eq. 2
        readers = {*self.duplicate_input, *(["memory"] if outside else [])}
        shares = self._shares_of(x, twice=readers if own is x else set())

        def controlled(name: str, other: Part, features: int) -> jax.Array:
            controller = Controller(
                features=features,
                norm=self.norm,
                dtype=self.dtype,
                plain=self.plain,
                name=name,
            )
            parts: tuple[Part, ...] = (x, own if name in readers else other)
            if name in shares:
                share = shares[name]
                parts = (share,) if share.channels > x.shape[-1] else (share, parts[1])
            return controller(*parts, train=train)

        c_input = controlled("input", before, c_m)
        c_memory = controlled("memory", similar_memory(memory, own, r), c_m)
        new_memory = c_memory + c_input
        if self.has_variable("perturbations", "value"):
            perturbation: jax.Array = self.get_variable("perturbations", "value")
            new_memory += jnp.broadcast_to(perturbation, new_memory.shape)
        c_output = controlled("output", new_memory, self.features)
        if has_memory and self._writes():
            written = new_memory.astype(jnp.float32)
            if self.memory_mode == "shared":
                written = batch_mean(written)
            if self.memory_rate != 1:
                stored = memory if self.memory_mode == "per_sample" else memory[0]
                written = stored + self.memory_rate * (written - stored)
            self.put_variable("memory", "value", written)
        return jnp.concatenate([x, c_output], axis=-1)

    def _shares_of(self, x: jax.Array, twice: set[str]) -> dict[str, Convolved]:
        """Convolves x once for the 3x3 convolutions of all three controllers.

        Args:
            x: See `__call__`.
            twice: Controllers both of whose halves are x.
        """
        if self.plain or self.is_initializing():
            return {}
        channels = x.shape[-1]
        filters = {}
        for name in ("input", "memory", "output"):
            kernel: jax.Array = self.get_variable("params", name)["Conv_0"]["kernel"]
            both = kernel[:, :, channels:] if name in twice else 0
            filters[name] = kernel[:, :, :channels] + both
        together = jnp.concatenate(list(filters.values()), axis=-1)
        convolved = convolve(x.astype(self.dtype), jnp.asarray(together, self.dtype))
        shares, start = {}, 0
        for name, kernel in filters.items():
            end = start + kernel.shape[-1]
            known = channels * (2 if name in twice else 1)
            shares[name] = Convolved(convolved[..., start:end], known)
            start = end
        return shares

    def _writes(self) -> bool:
        return self.is_mutable_collection("memory") and not self.is_initializing()

    def _read(
        self, shape: tuple[int, ...]
    ) -> Float[Array, "batch_or_1 height width c_m"]:
        shared = self.memory_mode == "shared"
        stored = self.variable(
            "memory",
            "value",
            # Sec. 3.4: random at the start. M_t is a sum of ReLUs, hence positive.
            lambda: jax.random.uniform(
                self.make_rng("params"), shape[1:] if shared else shape
            ),
        ).value
        stored = jnp.asarray(stored)
        slots = self._writes() and not shared
        if not shared and not slots:
            stored = jnp.mean(stored, axis=0)
        expected = shape if slots else shape[1:]
        if stored.shape != expected:
            raise ValueError(
                f"the {self.memory_mode} memory of {self.name or 'the block'} is "
                f"{list(stored.shape)}, but this batch needs {list(expected)}: keep to "
                "the image side and, where a per_sample memory is written, to the "
                "batch size that it was made with"
            )
        stored = stored if slots else stored[None]
        return stored if self.memory_gradient else jax.lax.stop_gradient(stored)


CMB = ConvolutionalMemoryBlock


def batch_mean(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "height width channels"]:
    """Returns the mean over samples; as a product, XLA on CPU being slow at the sum."""
    if len(x) == 1:
        return x[0]
    weights = jnp.full(len(x), 1 / len(x))
    mean = jnp.matmul(weights, x.reshape(len(x), -1), precision="highest")
    return mean.reshape(x.shape[1:])


def similar_memory(
    memory: Float[Array, "*#shape"],
    x: Float[Array, "*shape"],
    r: float | Float[Array, ""],
) -> Float[Array, "*shape"]:
    """Returns clip_[1/r, r](M / x) * x of Eq. 2 without a quotient; 0 where x is 0."""
    low, high = x / r, x * r
    return jnp.clip(
        memory.astype(x.dtype), jnp.minimum(low, high), jnp.maximum(low, high)
    )
