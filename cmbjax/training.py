"""One step of training, and of prediction: pure functions of explicit state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cmbjax.losses import Batch
from cmbjax.models.network import Network, mirrored

Variables = Any  # a nested dict of arrays

R_AFTER_SWITCH = 3.0  # once the memory holds something (Sec. 3.2)


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        step: Steps done.
        params: Weights.
        memory: M of each block; empty where the network has none.
        batch_stats: BN's running statistics; empty where there are none.
        opt_state: Of the optimizer.
    """

    step: Int[Array, ""]
    params: Variables
    memory: Variables
    batch_stats: Variables
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Variables]:
        """The collections that `model.apply` reads."""
        return {
            "params": self.params,
            "memory": self.memory,
            "batch_stats": self.batch_stats,
        }


def create_state(
    key: PRNGKeyArray,
    model: Network,
    optimizer: optax.GradientTransformation,
    *,
    side: int,
    batch_size: int,
) -> TrainState:
    """Returns the state before the first step; the memory is random (Sec. 3.4)."""
    depth = jnp.zeros((batch_size, side, side, model.clip))
    variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(key, depth)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        memory=variables.get("memory", {}),
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(params),
    )


def abstract_state(
    model: Network,
    optimizer: optax.GradientTransformation,
    *,
    side: int,
    batch_size: int,
) -> TrainState:
    """Returns the shapes of `create_state`, to restore a checkpoint into."""
    create = functools.partial(
        create_state, model=model, optimizer=optimizer, side=side, batch_size=batch_size
    )
    return jax.eval_shape(create, jax.random.key(0))


def r_at(step: int, r_switch_step: int) -> float:
    """Returns r of Eq. 2 in the step after `step` others: 1, then 3 (Sec. 3.2)."""
    return 1.0 if step < r_switch_step else R_AFTER_SWITCH


def r_known(state: TrainState, r_switch_step: int) -> float:
    """Returns r of the last step that a state has seen: the one to predict with."""
    return r_at(max(int(state.step) - 1, 0), r_switch_step)


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "sigma", "r", "memory_lr", "memory_steps"),
    donate_argnames=("state",),
)
def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    sigma: float,
    r: float,
    memory_lr: float = 0.0,
    memory_steps: int = 1,
) -> tuple[TrainState, Float[Array, ""]]:
    """Returns the next state, its memory among it, and the loss of `batch`.

    Args:
        state: Donated.
        batch: See `pipeline.prepare_training`.
        model: The network.
        optimizer: Of the parameters.
        sigma: Of the target heat maps' Gaussians, in cells.
        r: Of Eq. 2; see `r_at`. At 1 the step costs less.
        memory_lr: Size of the gradient step that M_t takes before it is stored
            (Sec. 3.3: "M_t will be further optimized").
        memory_steps: Parts of the batch that pass through the memory one after the
            other, so that a gradient can flow from one to the next.
    """
    key = jax.random.fold_in(jax.random.key(0), state.step)  # of dropout

    def loss_fn(params, perturbations):
        memory = state.memory
        if model.restarts and "starts" in batch:
            memory = restart(memory, batch["starts"])
        new = {"memory": memory, "batch_stats": state.batch_stats}
        losses = []
        for part in range(memory_steps):
            variables = {"params": params, **new}
            if memory_lr:
                variables["perturbations"] = perturbations
            loss, written = model.apply(
                variables,
                jax.tree.map(lambda x: x[part::memory_steps], batch),  # noqa: B023
                r=r,
                sigma=sigma,
                method="loss",
                mutable=["memory", "batch_stats"],
                rngs={"dropout": jax.random.fold_in(key, part)},
            )
            losses.append(loss)
            new |= written
        return sum(losses) / memory_steps, new

    at_zero = jax.tree.map(jnp.zeros_like, state.memory)
    (loss, new), (grads, memory_grads) = jax.value_and_grad(
        loss_fn, argnums=(0, 1), has_aux=True
    )(state.params, at_zero)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    next_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        memory=jax.tree.map(
            lambda value, grad: value - memory_lr * grad, new["memory"], memory_grads
        ),
        batch_stats=new["batch_stats"],
        opt_state=opt_state,
    )
    return next_state, loss


def restart(memory: Variables, starts: Bool[Array, " batch"]) -> Variables:
    """Returns the memory with the slots at zero whose sample begins a sequence."""

    def clear(value):
        return jnp.where(starts[:, None, None, None], 0, value)

    return jax.tree.map(clear, memory)


@functools.partial(jax.jit, static_argnames=("model", "r", "rolling", "mirror"))
def eval_step(
    variables: dict[str, Variables],
    depth: Float[Array, "batch side side clip"],
    real: Bool[Array, " batch"],
    *,
    model: Network,
    r: float,
    rolling: bool,
    mirror: tuple[int, ...] | None = None,
) -> tuple[Any, Variables]:
    """Returns what the network gives for a batch, and the memory after it.

    Args:
        variables: Parameters, memory and statistics.
        depth: Normalised depth.
        real: False for samples that only fill the batch up: they leave no trace in the
            memory.
        model: The network.
        r: Of Eq. 2.
        rolling: Whether the memory is written, as in training. Frozen otherwise.
        mirror: Joints' places in the mirrored image, to average with what is seen
            there; with frozen memory.
    """
    memory = variables["memory"]
    if not rolling:
        outputs = model.apply(variables, depth, train=False, r=r)
        if mirror is None:
            return outputs, memory
        other = model.apply(variables, depth[:, :, ::-1], train=False, r=r)
        other = mirrored(other, mirror)
        return jax.tree.map(lambda a, b: (a + b) / 2, outputs, other), memory
    outputs, new = model.apply(variables, depth, train=False, r=r, mutable=["memory"])

    def keep(old, written):
        slots = old.ndim == 4  # per_sample: one slot a sample
        kept = real[:, None, None, None] if slots else jnp.any(real)
        return jnp.where(kept, written, old)

    return outputs, jax.tree.map(keep, memory, new.get("memory", {}))
