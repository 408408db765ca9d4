import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax.models.ieml import (
    IEML,
    best_states,
    cut_patches,
    geometry,
    log_partition,
    matching_loss,
    propose,
)
from cmbjax.skeletons import BODY15
from tests.models.test_ief import make_batch

TREE = (1, -1, 1, 2)  # joints 0 and 2 hang on the root 1, joint 3 on joint 2


def scores(unary, pairwise):
    """The score of every choice of states, in the order of itertools.product."""
    states = range(unary.shape[2])
    return np.array(
        [
            [
                sum(unary[b, j, s] for j, s in enumerate(choice))
                + sum(
                    pairwise[b, j, choice[j], choice[parent]]
                    for j, parent in enumerate(TREE)
                    if parent >= 0
                )
                for choice in itertools.product(states, repeat=4)
            ]
            for b in range(len(unary))
        ]
    )


def test_dynamic_programming_agrees_with_trying_everything(key):
    unary = jax.random.normal(key, (3, 4, 4))
    pairwise = jax.random.normal(jax.random.key(1), (3, 4, 4, 4))
    everything = scores(np.asarray(unary), np.asarray(pairwise))
    choices = list(itertools.product(range(4), repeat=4))
    best = [choices[i] for i in everything.argmax(axis=1)]
    np.testing.assert_array_equal(best_states(unary, pairwise, TREE), best)
    np.testing.assert_allclose(
        log_partition(unary, pairwise, TREE),
        np.log(np.exp(everything).sum(axis=1)),
        rtol=1e-5,
    )
    cold = log_partition(unary, pairwise, TREE, temperature=1e-3)
    np.testing.assert_allclose(cold, everything.max(axis=1), atol=0.02)


def test_proposals_are_the_highest_maxima_by_hand():
    maps = jnp.zeros((1, 8, 8, 1)) - 1
    # Three maxima of their own; what lies beside the first is none.
    maps = maps.at[0, 2, 3, 0].set(0.9).at[0, 2, 4, 0].set(0.8)
    maps = maps.at[0, 6, 1, 0].set(0.5).at[0, 6, 6, 0].set(0.7)
    found = propose(maps)
    np.testing.assert_allclose(found.heights[0, 0, :3], [0.9, 0.7, 0.5])
    cells = (np.asarray(found.places[0, 0, :3]) + 0.5) * 8
    np.testing.assert_allclose(cells, [[3.5, 2.5], [6.5, 6.5], [1.5, 6.5]], atol=1e-5)
    # One maximum alone, and four proposals that are none.
    slope = -jnp.abs(jnp.arange(8.0) - 3)
    single = slope.reshape(1, 8, 1, 1) + slope.reshape(1, 1, 8, 1)
    np.testing.assert_array_equal(propose(single).real, [[[1, 0, 0, 0, 0]]])


def test_geometry_by_hand():
    places = jnp.zeros((1, 2, 1, 2)).at[0, 1, 0].set(jnp.array([0.1, -0.2]))
    offsets = jnp.zeros((2, 2, 2, 2)).at[1, 0, 1].set(jnp.array([0.1, -0.1]))
    precisions = jnp.full((2, 2, 2, 2), 2.0)
    biases = jnp.zeros((2, 2, 2)).at[1, 1, 1].set(7.0)
    terms = geometry(places, (-1, 0), offsets, precisions, biases)[0, 1]
    # One tenth and two tenths off; template 0 expects this of a parent's template 1,
    # but for a tenth.
    np.testing.assert_allclose(
        terms, [[-2 * (1 + 4), -2 * 1], [-10, -10 + 7]], rtol=1e-4, atol=1e-5
    )


def test_matching_weighs_right_and_wrong_alike_by_hand():
    matches = jnp.array([[[[2.0, -1.0], [0.0, 1.0], [3.0, 3.0]]]])
    right = jnp.array([[[True, False, False]]])
    wrong = jnp.array([[[False, True, True]]])

    def log1p(x):
        return np.log1p(np.exp(x))

    expected = log1p(-2.0) + ((log1p(0.0) + log1p(1.0)) / 2 + log1p(3.0)) / 2
    np.testing.assert_allclose(
        matching_loss(matches, right, wrong), expected, rtol=1e-5
    )


def test_patch_is_a_third_of_the_side_relative_to_its_middle():
    ramp = jnp.broadcast_to(jnp.arange(24.0).reshape(1, 1, 24) / 24, (1, 24, 24))
    patch = cut_patches(ramp, jnp.zeros((1, 1, 1, 2)), cells=8)[0, 0, 0]
    np.testing.assert_allclose(patch[0], (np.arange(8) - 4) / 24, atol=1e-6)


def test_tree_is_that_of_the_joint_set_or_a_chain():
    assert IEML(num_joints=15)._tree == BODY15.parents
    assert IEML(num_joints=3)._tree == (-1, 0, 1)
    assert IEML(num_joints=3, parents=(1, -1, 1))._tree == (1, -1, 1)


@pytest.fixture(scope="module")
def initialised():
    model = IEML(num_joints=3, width=0.05)
    init = jax.jit(functools.partial(model.init, train=True))
    return model, init(jax.random.key(0), jnp.zeros((4, 64, 64, 1)))


def test_loss_and_gradient_are_finite_with_missing_labels(initialised):
    model, variables = initialised

    @jax.jit
    def loss(params, batch):
        return model.apply(
            {**variables, "params": params},
            batch,
            r=1.0,
            sigma=1.0,
            method="loss",
            mutable=["batch_stats"],
        )[0]

    batch = make_batch()
    for visible in (batch["visible"], jnp.zeros_like(batch["visible"])):
        value, gradient = jax.value_and_grad(loss)(
            variables["params"], batch | {"visible": visible}
        )
        assert np.isfinite(value)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    # The likelihood that a label has is at most 1.
    assert value >= 0


def test_chosen_proposal_is_refined_within_its_cell(initialised):
    model, _ = initialised
    cells = np.mgrid[:16, :16].astype(np.float32)

    def bump(x, y, height):
        square = (cells[1] + 0.5 - x) ** 2 + (cells[0] + 0.5 - y) ** 2
        return height * np.exp(-square / (2 * 1.5**2))

    one = np.maximum(bump(4.3, 5.6, 1.0), bump(12.6, 9.4, 0.5))
    maps = np.stack([one] * 3, axis=-1)[None]
    chosen = np.array([[[4.5, 5.5], [12.5, 9.5], [12.5, 9.5]]]) / 16 - 0.5
    outputs = (maps, chosen.astype(np.float32))
    found = model.decode(outputs, side=64, decode="dark")
    expected = 4 * np.array([[4.3, 5.6], [12.6, 9.4], [12.6, 9.4]])
    np.testing.assert_allclose(found.joints_px[0], expected, atol=0.05)
    np.testing.assert_allclose(found.scores[0], [0.96, 0.49, 0.49], atol=0.02)
    coarse = model.decode(outputs, side=64, decode="argmax")
    np.testing.assert_allclose(coarse.joints_px[0], 64 * (chosen[0] + 0.5))
