"""Weights that a training starts from, in place of random ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from cmbjax.train.step import TrainState


class Taken(NamedTuple):
    """What was taken over, by name, and what was not, by name with the reason."""

    names: list[str]
    left: dict[str, str]

    def describe(self, source: str) -> str:
        """Returns lines that say so."""
        number = len(self.names) + len(self.left)
        lines = [f"--init_from={source}: {len(self.names)} of {number} arrays taken"]
        lines += [f"  not {name}: {why}" for name, why in sorted(self.left.items())]
        return "\n".join(lines)


def take_over(
    state: TrainState, variables: Mapping[str, Any]
) -> tuple[TrainState, Taken]:
    """Returns a state that begins with other variables, wherever they fit.

    An array is taken over if it has the name and the shape of one of the network's: so
    another head, joint count or input side keeps the rest. The optimizer begins anew.

    Args:
        state: Before the first step.
        variables: Parameters, memory and statistics of a trained network.

    Raises:
        ValueError: No parameter fits.
    """
    source, target = (
        traverse_util.flatten_dict(dict(x), sep="/")
        for x in (variables, state.variables)
    )
    names, left = [], {}
    for name, value in target.items():
        if name not in source:
            left[name] = "there is none of that name"
        elif source[name].shape != value.shape:
            left[name] = f"{list(source[name].shape)} there, {list(value.shape)} here"
        else:
            names.append(name)
            target[name] = _placed(source[name], value)
    if not any(name.startswith("params/") for name in names):
        raise ValueError("no parameter fits: it is another network")
    tree = traverse_util.unflatten_dict(target, sep="/")
    collections = {name: tree.get(name, {}) for name in state.variables}
    return state._replace(**collections), Taken(names, left)


def _placed(value: jax.Array, like: jax.Array) -> jax.Array:
    """Returns a value as an array that lies where another does."""
    return jax.device_put(jnp.asarray(value, like.dtype), like.sharding)
