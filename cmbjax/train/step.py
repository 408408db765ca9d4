"""One step of training: a pure function of explicit state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cmbjax import runtime
from cmbjax.models import memory as memories
from cmbjax.models.losses import Batch
from cmbjax.models.network import Network

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
    depth = jnp.zeros((batch_size, side, side, model.num_frames))
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


def bytes_of_step(model: Network, *, side: int, batch_size: int) -> int:
    """Returns about how much memory a training step takes.

    Of every value that the network computes on the way forward, as the way back reads
    most of them; of what is computed anew there (`jax.checkpoint`, `jax.custom_vjp`)
    its results, and once what is within at once, on the way forward: what a gradient of
    its own takes on the way back is not counted. XLA needs less where it fuses some
    values, and more for what it rearranges.
    """
    optimizer = optax.identity()
    like = abstract_state(model, optimizer, side=side, batch_size=batch_size)
    depth = jax.ShapeDtypeStruct(
        (batch_size, side, side, model.num_frames), jnp.float32
    )
    rngs = {"dropout": jax.random.key(0)}
    forward = functools.partial(
        model.apply, train=True, r=R_AFTER_SWITCH, mutable=True, rngs=rngs
    )
    return sum(_bytes_of(jax.make_jaxpr(forward)(like.variables, depth).jaxpr))


def _bytes_of(jaxpr: Any) -> tuple[int, int]:
    """Returns the bytes of what stays for the way back, and of what is made anew."""
    stays, anew = 0, 0
    for equation in jaxpr.eqns:
        inner = runtime.inner_programs(equation)
        # A checkpoint, by any name, or what has a gradient of its own.
        is_anew = bool({"prevent_cse", "fwd_jaxpr_thunk"} & equation.params.keys())
        if inner and not is_anew:
            parts = [_bytes_of(part) for part in inner]
            times = equation.params.get("length", 1)  # of a scan
            stays += times * sum(within for within, _ in parts)
            anew = max(anew, *(again for _, again in parts))
        else:
            stays += runtime.bytes_of(equation.outvars)
            anew = max([anew, *map(runtime.most_at_once, inner)])
    return stays, anew


def r_at(step: int, r_switch_step: int) -> float:
    """Returns r of Eq. 2 in the step after `step` others: 1, then 3 (Sec. 3.2)."""
    return 1.0 if step < r_switch_step else R_AFTER_SWITCH


def r_for_prediction(state: TrainState, r_switch_step: int) -> float:
    """Returns r of the last step that a state has seen."""
    return r_at(max(int(state.step) - 1, 0), r_switch_step)


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "sigma", "r"),
    donate_argnames=("state",),
)
def train_step(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    sigma: float,
    r: float,
) -> tuple[TrainState, Float[Array, ""]]:
    """Returns the next state, its memory among it, and the loss of `batch`.

    Args:
        state: Donated.
        batch: See `data.views.training_view`.
        key: Of the run; each step has its own from it, for dropout.
        model: The network.
        optimizer: Of the parameters.
        sigma: Of the target heat maps' Gaussians, in cells.
        r: Of Eq. 2; see `r_at`. At 1 the step costs less.
    """

    def loss_fn(params: Variables) -> tuple[Array, Variables]:
        variables = {**state.variables, "params": params}
        return _loss(variables, batch, _key_of(state, key), model, sigma, r)

    (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return _updated(state, grads, new, optimizer), loss


def _key_of(state: TrainState, key: PRNGKeyArray) -> PRNGKeyArray:
    """Returns the key of a step: a run that was resumed draws the same."""
    return jax.random.fold_in(key, state.step)


def _loss(
    variables: Variables,
    batch: Batch,
    key: PRNGKeyArray,
    model: Network,
    sigma: float,
    r: float,
) -> tuple[Float[Array, ""], Variables]:
    """Returns the loss, and memory and statistics after the batch."""
    if model.resets_memory and "starts" in batch:
        memory = memories.reset(variables["memory"], batch["starts"])
        variables = {**variables, "memory": memory}
    loss, new = model.apply(
        variables,
        batch,
        r=r,
        sigma=sigma,
        method="loss",
        mutable=["memory", "batch_stats"],
        rngs={"dropout": key},
    )
    kept = {name: variables[name] for name in ("memory", "batch_stats")}
    return loss, {**kept, **new}


def _updated(
    state: TrainState,
    grads: Variables,
    new: Variables,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Returns the state after a step of the optimizer."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        memory=new["memory"],
        batch_stats=new["batch_stats"],
        opt_state=opt_state,
    )


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "sigma", "r", "memory_lr", "memory_steps"),
    donate_argnames=("state",),
)
def train_step_of_study(
    state: TrainState,
    batch: Batch,
    key: PRNGKeyArray,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    sigma: float,
    r: float,
    memory_lr: float = 0.0,
    memory_steps: int = 1,
) -> tuple[TrainState, Float[Array, ""]]:
    """Returns what `train_step` does, with other readings of the memory.

    Args:
        state: See `train_step`.
        batch: See `train_step`.
        key: See `train_step`.
        model: See `train_step`. With `memory_lr` its blocks are
            `ablations.OptimizedMemory`.
        optimizer: See `train_step`.
        sigma: See `train_step`.
        r: See `train_step`.
        memory_lr: Size of the gradient step that M_t takes before it is stored
            (Sec. 3.3: "M_t will be further optimized").
        memory_steps: Parts of the batch that pass through the memory one after the
            other, so that a gradient can flow from one to the next, with
            `ablations.AttachedMemory`.
    """

    def loss_fn(params: Variables, perturbations: Variables) -> tuple[Array, Variables]:
        new = {"memory": state.memory, "batch_stats": state.batch_stats}
        losses = []
        for part in range(memory_steps):
            variables = {"params": params, "perturbations": perturbations, **new}
            part_of_batch = {name: x[part::memory_steps] for name, x in batch.items()}
            part_key = jax.random.fold_in(_key_of(state, key), part)
            loss, new = _loss(variables, part_of_batch, part_key, model, sigma, r)
            losses.append(loss)
        return jnp.mean(jnp.stack(losses)), new

    perturbations = jax.tree.map(jnp.zeros_like, state.memory) if memory_lr else {}
    (loss, new), (grads, memory_grads) = jax.value_and_grad(
        loss_fn, argnums=(0, 1), has_aux=True
    )(state.params, perturbations)
    if memory_lr:
        new["memory"] = jax.tree.map(
            lambda value, grad: value - memory_lr * grad, new["memory"], memory_grads
        )
    return _updated(state, grads, new, optimizer), loss
