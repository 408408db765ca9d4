"""The collection `memory`, and what it means that it is kept per sample.

Each value in it is one state for all samples, [height, width, channels], or one a slot
of the batch, [batch, height, width, channels]. Nothing else asks which.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from cmbjax.models.losses import AnyArray

Memory = Any  # a nested dict of values
Bound = float | Float[Array, ""]  # r of Eq. 2, at least 1; a number costs less


def is_written(module: nn.Module) -> bool:
    """Whether the call that a module is in writes the memory."""
    return module.is_mutable_collection("memory") and not module.is_initializing()


def is_per_sample(value: Any) -> bool:
    """Whether a value has a slot for each sample."""
    return value.ndim == 4


def num_slots(memory: Memory) -> int | None:
    """Returns the samples that a memory is kept for; None where all share it."""
    slots = {len(x) for x in jax.tree.leaves(memory) if is_per_sample(x)}
    return slots.pop() if slots else None


def frozen(memory: Memory) -> Memory:
    """Returns what a reader that does not write gets: the mean over the slots."""
    return jax.tree.map(
        lambda value: jnp.mean(value, axis=0) if is_per_sample(value) else value, memory
    )


def reset(memory: Memory, starts: Bool[AnyArray, " batch"]) -> Memory:
    """Returns the memory with the slots at zero whose sample begins a sequence.

    Of several samples a slot, one after the other, only the first may begin one.
    """

    def from_zero(value: Any) -> Array:
        of_slots = starts[:: len(starts) // len(value)]
        return jnp.where(_along_slots(of_slots), 0, value)

    return jax.tree.map(from_zero, memory)


def keep(old: Memory, new: Memory, is_real: Bool[AnyArray, " batch"]) -> Memory:
    """Returns the new memory without what samples that only fill a batch up left.

    A shared memory is all new: its batches are not filled up.
    """

    def choose(before: Any, after: Any) -> Array:
        if not is_per_sample(before):
            return after
        return jnp.where(_along_slots(is_real), after, before)

    return jax.tree.map(choose, old, new)


def batch_mean(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "height width channels"]:
    """Returns the mean over samples; as a product, XLA on CPU being slow at the sum."""
    if len(x) == 1:
        return x[0]
    weights = jnp.full(len(x), 1 / len(x))
    mean = jnp.matmul(weights, x.reshape(len(x), -1), precision="highest")
    return mean.reshape(x.shape[1:])


def _along_slots(flags: Bool[AnyArray, " batch"]) -> Bool[AnyArray, "batch 1 1 1"]:
    return flags[:, None, None, None]
