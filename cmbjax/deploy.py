"""Trained variables -> a network for use: folded, of fixed shapes, compiled once.

Training computes BN, and the memory's share of the input controllers, for every batch.
Of a trained network they are constants: BN with running statistics is a factor and a
bias of the convolution before it, and a frozen memory's convolution is a map to add.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from cmbjax import winograd
from cmbjax.models.conv import (
    DIMENSIONS,
    Conv,
    Convolved,
    Doubled,
    Part,
    convolve,
    convolve_parts,
)
from cmbjax.models.norm import EPSILON
from cmbjax.models.posenet import PoseNet
from cmbjax.runtime import CPU_LIBRARY, keep_compiled

Variables = Mapping[str, Any]
Outputs = Any  # heat maps, or heat maps and joints with a 3-D head


def freeze(
    model: nn.Module, variables: Variables, *, r: float
) -> Callable[[Float[Array, "batch side side 1"]], Outputs]:
    """Returns the network with frozen memory as a function of the depth alone.

    Args:
        model: The network. Of a `PoseNet` everything constant is folded, others are
            applied as they are.
        variables: Parameters, memory and statistics.
        r: Of Eq. 2, as it was in training.
    """
    if isinstance(model, PoseNet) and not model.restarts:
        model, variables = fold(model, variables)
        model = model.clone(memory_mode="shared")
        memory = frozen_memory(variables["memory"])
        variables = {**variables, "memory": memory}
        shares = {name: _memory_share(variables, name) for name in memory}
        variables = {**variables, "frozen": shares}
    return lambda depth: model.apply(variables, depth, train=False, r=r)


def frozen_memory(memory: Variables) -> Variables:
    """Returns what a frozen network reads: of per_sample the mean over its slots."""
    return jax.tree.map(
        lambda value: value if value.ndim == 3 else jnp.mean(value, axis=0), memory
    )


def rolling(
    model: nn.Module, variables: Variables, *, r: float
) -> Callable[
    [Float[Array, "batch side side 1"], Variables], tuple[Outputs, Variables]
]:
    """Returns the network as a function of the depth and the memory, that returns both.

    Args:
        model: Of a `PoseNet` BN is folded, others are applied as they are.
        variables: See `freeze`.
        r: See `freeze`.
    """
    if isinstance(model, PoseNet):
        model, variables = fold(model, variables)

    def step(depth: Array, memory: Variables) -> tuple[Outputs, Variables]:
        known = {**variables, "memory": memory}
        outputs, new = model.apply(known, depth, train=False, r=r, mutable=["memory"])
        return outputs, new["memory"]

    return step


def compile_for(
    network: Callable[[Float[Array, "batch side side 1"]], Outputs],
    *,
    side: int,
    batch_size: int = 1,
    frames: int = 1,
) -> Callable[[Float[Array, "batch side side 1"]], Outputs]:
    """Returns a network compiled for inputs of one shape.

    Args:
        network: What `freeze` returned.
        side: Of the input, pixels.
        batch_size: Inputs at once.
        frames: Of each input; see `Preparation.clip`.

    The compiled program is kept on disk: see `runtime.keep_compiled`. On CPU its larger
    convolutions take the form of `winograd`.
    """
    keep_compiled()
    on_cpu = jax.default_backend() == "cpu"
    network = winograd.rewrite(network) if on_cpu else network
    depth = jax.ShapeDtypeStruct((batch_size, side, side, frames), jnp.float32)
    lowered = jax.jit(network).lower(depth)
    return lowered.compile(compiler_options=CPU_LIBRARY if on_cpu else None)


def fold(model: PoseNet, variables: Variables) -> tuple[PoseNet, dict[str, Any]]:
    """Returns the same network without BN.

    Args:
        model: The network.
        variables: Parameters, memory and statistics.
    """
    params = _fold_norms(variables["params"], variables.get("batch_stats", {}))
    folded = {"params": params, "memory": variables.get("memory", {})}
    return model.clone(norm=False), folded


def in_layers(network: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """Returns the same function in the operations that inference runtimes are fast at.

    Each convolution, of whatever size, is one; that of an upsampled map is a
    transposed convolution, for which XLA on CPU has nothing fast.

    Args:
        network: Applies a network of the plain form, which pools by a pooling layer.
    """

    def as_layer(next_fun, args, kwargs, context):
        if not isinstance(context.module, Conv):
            return next_fun(*args, **kwargs)
        layer = context.module.variables["params"]
        convolved = convolve_parts(args, layer["kernel"], _convolve_as_layer)
        return convolved + layer["bias"].reshape(1, 1, 1, -1)

    def applied(*args: Any) -> Outputs:
        with nn.intercept_methods(as_layer):
            return network(*args)

    return applied


def _convolve_as_layer(part: Part, kernel: Array) -> Array:
    if isinstance(part, Convolved):
        return part.x
    if isinstance(part, Doubled):
        # Upsampled is: apart by one row and column of zeros, and a sum over 2x2 cells.
        shifts = [
            ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)) for i in (0, 1) for j in (0, 1)
        ]
        kernel = functools.reduce(jnp.add, [jnp.pad(kernel, by) for by in shifts])
    x, dilation = (part.x, 2) if isinstance(part, Doubled) else (part, 1)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(len(kernel) // 2,) * 2] * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
    )


def _fold_norms(params: Variables, statistics: Variables) -> dict[str, Any]:
    """Folds BatchNorm_i into Conv_i, and name_norm into name, at every depth."""
    folded = {}
    for name, layer in params.items():
        norm = (
            name.replace("Conv_", "BatchNorm_") if "Conv_" in name else f"{name}_norm"
        )
        if norm in params:
            folded[name] = _fold_norm(layer, params[norm], statistics[norm])
        elif name not in statistics:
            folded[name] = layer
        elif "mean" not in statistics[name]:
            folded[name] = _fold_norms(layer, statistics[name])
    return folded


def _fold_norm(
    conv: Variables, norm: Variables, running: Variables
) -> dict[str, Array]:
    factor = norm["scale"] * jax.lax.rsqrt(running["var"] + EPSILON)
    return {
        "kernel": conv["kernel"] * factor.reshape(1, 1, 1, -1),
        "bias": (conv["bias"] - running["mean"]) * factor + norm["bias"],
    }


def _memory_share(variables: Variables, name: str) -> dict[str, Array]:
    memory = variables["memory"][name]["value"]
    kernel = variables["params"][name]["input"]["Conv_0"]["kernel"]
    half = kernel[:, :, kernel.shape[2] - memory.shape[-1] :]
    return {"value": convolve(memory[None], half)[0]}
