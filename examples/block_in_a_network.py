"""The memory block inside another Flax network, trained with Optax.

The task: say which of two noisy patterns an image shows. What matters is how the memory
travels: it is state, as batch statistics are, and the jitted step returns it.

python examples/block_in_a_network.py
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from cmbjax.models import CMB

OPTIMIZER = optax.adam(1e-2)
State = dict[str, Any]  # params, memory, batch_stats


class Classifier(nn.Module):
    """A convolution, a memory block, the mean over cells, two classes."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, r: float) -> jax.Array:
        """Returns [batch, 2] logits."""
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(images))
        x = CMB(features=8)(x, train=train, r=r)
        return nn.Dense(2)(x.mean(axis=(1, 2)))


def draw(key: jax.Array, number: int = 32) -> tuple[jax.Array, jax.Array]:
    """Returns noisy images [number, 16, 16, 1] of columns or of rows, and which."""
    keys = jax.random.split(key)
    labels = jax.random.bernoulli(keys[0], shape=(number,)).astype(int)
    columns = jnp.broadcast_to(jnp.sin(jnp.arange(16.0)), (16, 16))
    patterns = jnp.stack([columns, columns.T])[labels][..., None]
    return patterns + jax.random.normal(keys[1], patterns.shape), labels


@functools.partial(jax.jit, static_argnames="r")
def train_step(
    state: State, opt_state: Any, images: jax.Array, labels: jax.Array, *, r: float
) -> tuple[State, Any, jax.Array]:
    """Returns the next state, its memory among it, and the loss."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, new = Classifier().apply(
            {**state, "params": params},
            images,
            train=True,
            r=r,
            mutable=["memory", "batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new

    (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    params = optax.apply_updates(state["params"], updates)
    return {**new, "params": params}, opt_state, loss


def main(num_steps: int = 60) -> float:
    """Trains, and returns the share of new images that are told apart."""
    key = jax.random.key(0)
    images, _ = draw(key)
    state = Classifier().init(key, images, train=True, r=1.0)
    opt_state = OPTIMIZER.init(state["params"])
    for step in range(num_steps):
        batch = draw(jax.random.fold_in(key, step))
        r = 1.0 if step < num_steps // 2 else 3.0  # until the memory holds something
        state, opt_state, loss = train_step(state, opt_state, *batch, r=r)
        if step % 20 == 0:
            print(f"step {step}: loss {loss:.3f}")
    images, labels = draw(jax.random.fold_in(key, num_steps))
    # The memory is read and not written: it is not among the mutable collections.
    logits: Any = Classifier().apply(state, images, train=False, r=3.0)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    print(f"{100 * accuracy:.0f} % of new images told apart")
    return accuracy


if __name__ == "__main__":
    main()
