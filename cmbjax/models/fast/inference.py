"""A trained network for use: what is constant computed beforehand, compiled once.

Training computes BN, and the memory's share of the input controllers, for every batch.
Of a trained network they are constants: BN with running statistics is a factor and a
bias of the convolution before it, and a frozen memory's convolution is a map to add.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cmbjax.models import memory as memories
from cmbjax.models.fast.forms import FAST, WINOGRAD
from cmbjax.models.layers import Form
from cmbjax.models.network import Network, Outputs
from cmbjax.runtime import CPU_LIBRARY, keep_compiled

Variables = Mapping[str, Any]
Frozen = Callable[[Any], Outputs]  # of depth [batch, side, side, frames]
Rolling = Callable[[Any, Variables], tuple[Outputs, Variables]]


def freeze(
    model: Network, variables: Variables, *, r: float, form: Form | None = None
) -> Frozen:
    """Returns the network with frozen memory as a function of the depth alone.

    Args:
        model: The network.
        variables: Parameters, memory and statistics.
        r: Of Eq. 2, as it was in training.
        form: In which a network that has forms is computed; by default the fastest on
            this machine.
    """
    model = in_form(model, form)
    variables = {**variables, "memory": memories.frozen(variables.get("memory", {}))}
    if hasattr(model, "memory_mode"):
        model = model.clone(memory_mode="shared")

    def network(depth: Array) -> Outputs:
        with jax.ensure_compile_time_eval():
            outputs: Any = model.apply(
                variables, depth, train=False, r=r, method="outputs"
            )
        return outputs

    return network


def roll(
    model: Network, variables: Variables, *, r: float, form: Form | None = None
) -> Rolling:
    """Returns the network as a function of the depth and the memory, that returns both.

    Without a memory it is {}.

    Args:
        model: See `freeze`.
        variables: See `freeze`.
        r: See `freeze`.
        form: See `freeze`.
    """
    model = in_form(model, form)

    def step(depth: Array, memory: Variables) -> tuple[Outputs, Variables]:
        with jax.ensure_compile_time_eval():
            outputs, new = model.apply(
                {**variables, "memory": memory},
                depth,
                train=False,
                r=r,
                method="outputs",
                mutable=["memory"],
            )
        return outputs, new.get("memory", {})

    return step


def fastest() -> Form:
    """Returns the form that is fastest on this machine."""
    return WINOGRAD if jax.default_backend() == "cpu" else FAST


def in_form(model: Network, form: Form | None = None) -> Network:
    """Returns the network in a form, by default the fastest; or as it is."""
    return model.clone(form=form or fastest()) if hasattr(model, "form") else model


def compile_for(
    network: Frozen, *, side: int, batch_size: int = 1, num_frames: int = 1
) -> Frozen:
    """Returns a network compiled for inputs of one shape.

    Args:
        network: What `freeze` returned.
        side: Of the input, pixels.
        batch_size: Inputs at once.
        num_frames: Of each input; see `Network`.

    The compiled program is kept on disk: see `runtime.keep_compiled`.
    """
    keep_compiled()
    depth = jax.ShapeDtypeStruct((batch_size, side, side, num_frames), jnp.float32)
    lowered = jax.jit(network).lower(depth)
    on_cpu = jax.default_backend() == "cpu"
    return lowered.compile(compiler_options=CPU_LIBRARY if on_cpu else None)
