"""One step of training, and of prediction: pure functions of explicit state."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cmbjax.heatmaps import joints_to_heatmaps
from cmbjax.models.posenet import STRIDE

Variables = Any  # a nested dict of arrays
Batch = dict[str, Array]

R_AFTER_SWITCH = 3.0  # once the memory holds something (Sec. 3.2)
# Of a unit of normalised depth (1 m for bodies) beside a heat map's squared error.
DEPTH_WEIGHT = 10.0


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
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    side: int,
    batch_size: int,
) -> TrainState:
    """Returns the state before the first step; the memory is random (Sec. 3.4)."""
    depth = jnp.zeros((batch_size, side, side, 1))
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
    model: nn.Module,
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


def heatmap_loss(
    heatmaps: Float[Array, "batch cells cells joints"],
    joints_px: Float[Array, "batch joints xy=2"],
    visible: Bool[Array, "batch joints"],
    *,
    sigma: float,
) -> Float[Array, ""]:
    """Returns the squared error, summed over cells, averaged over visible joints.

    Args:
        heatmaps: Predictions.
        joints_px: Pixels of the input; a joint outside it asks for an empty map.
        visible: Joints without a label ask for nothing.
        sigma: Of the target's Gaussian, in cells. An empty map costs pi sigma^2.
    """
    targets = joints_to_heatmaps(
        joints_px, visible, side=heatmaps.shape[1], stride=STRIDE, sigma=sigma
    )
    squares = jnp.sum((heatmaps - targets) ** 2, axis=(1, 2))
    return jnp.sum(squares * visible) / jnp.maximum(jnp.sum(visible), 1)


def joints_loss(
    joints: Float[Array, "batch joints xyz=3"], batch: Batch
) -> Float[Array, ""]:
    """Returns the 3-D head's mean absolute error; joints without a depth do not count.

    Args:
        joints: x, y as fractions of the crop from its centre, z in normalised depth.
        batch: See `pipeline.prepare_training`.
    """
    xy = batch["joints_px"] / batch["depth"].shape[1] - 0.5
    targets = jnp.concatenate([xy, batch["joints_z"][..., None]], axis=-1)
    counted = batch["visible"][..., None] & jnp.isfinite(targets)
    errors = jnp.where(counted, jnp.abs(joints - jnp.where(counted, targets, 0)), 0)
    return jnp.sum(errors) / jnp.maximum(jnp.sum(counted), 1)


def depth_maps_loss(
    depth_maps: Float[Array, "batch cells cells joints"],
    batch: Batch,
    *,
    sigma: float,
) -> Float[Array, ""]:
    """Returns the depth maps' mean absolute error around each joint.

    Args:
        depth_maps: Predictions, in normalised depth.
        batch: See `pipeline.prepare_training`.
        sigma: Of the Gaussian that weighs the cells around a joint, in cells.
    """
    joints_z = batch["joints_z"]
    counted = batch["visible"] & jnp.isfinite(joints_z)
    weights = joints_to_heatmaps(
        batch["joints_px"],
        counted,
        side=depth_maps.shape[1],
        stride=STRIDE,
        sigma=sigma,
    )
    joints_z = jnp.where(counted, joints_z, 0)
    errors = jnp.abs(depth_maps - joints_z[:, None, None])
    return jnp.sum(weights * errors) / jnp.maximum(jnp.sum(weights), 1)


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "sigma", "r", "memory_lr"),
    donate_argnames=("state",),
)
def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    sigma: float,
    r: float,
    memory_lr: float = 0.0,
) -> tuple[TrainState, Float[Array, ""]]:
    """Returns the next state, its memory among it, and the loss of `batch`.

    Args:
        state: Donated.
        batch: See `pipeline.prepare_training`.
        model: The network.
        optimizer: Of the parameters.
        sigma: See `heatmap_loss`.
        r: Of Eq. 2; see `r_at`. At 1 the step costs less.
        memory_lr: Size of the gradient step that M_t takes before it is stored
            (Sec. 3.3: "M_t will be further optimized").
    """

    def loss_fn(params, perturbations):
        variables = {**state.variables, "params": params}
        if memory_lr:
            variables["perturbations"] = perturbations
        outputs, new = model.apply(
            variables,
            batch["depth"],
            train=True,
            r=r,
            mutable=["memory", "batch_stats"],
        )
        heatmaps, *joints = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = heatmap_loss(heatmaps, batch["joints_px"], batch["visible"], sigma=sigma)
        for predicted in joints:
            if predicted.ndim == 4:
                depth_loss = depth_maps_loss(predicted, batch, sigma=sigma)
                loss += DEPTH_WEIGHT * depth_loss
            else:
                loss += joints_loss(predicted, batch)
        return loss, new

    at_zero = jax.tree.map(jnp.zeros_like, state.memory)
    (loss, new), (grads, memory_grads) = jax.value_and_grad(
        loss_fn, argnums=(0, 1), has_aux=True
    )(state.params, at_zero)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    next_state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        memory=jax.tree.map(
            lambda value, grad: value - memory_lr * grad,
            new.get("memory", {}),
            memory_grads,
        ),
        batch_stats=new.get("batch_stats", {}),
        opt_state=opt_state,
    )
    return next_state, loss


@functools.partial(jax.jit, static_argnames=("model", "r", "rolling"))
def eval_step(
    variables: dict[str, Variables],
    depth: Float[Array, "batch side side 1"],
    real: Bool[Array, " batch"],
    *,
    model: nn.Module,
    r: float,
    rolling: bool,
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
    """
    memory = variables["memory"]
    if not rolling:
        return model.apply(variables, depth, train=False, r=r), memory
    outputs, new = model.apply(variables, depth, train=False, r=r, mutable=["memory"])

    def keep(old, written):
        slots = old.ndim == 4  # per_sample: one slot a sample
        kept = real[:, None, None, None] if slots else jnp.any(real)
        return jnp.where(kept, written, old)

    return outputs, jax.tree.map(keep, memory, new.get("memory", {}))
