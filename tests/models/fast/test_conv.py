import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmbjax.models import MODELS, conv
from cmbjax.models.posenet import halve


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_equal_to_rounding(ours, reference, tolerance=1e-5):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
    for a, b in zip(*map(jax.tree.leaves, (ours, reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def test_doubled_map_by_hand():
    # One row, two columns, doubled to [1 1 5 5] over two rows. The filter looks at the
    # left neighbour alone, then at the one above on the right.
    x = jnp.array([1.0, 5.0]).reshape(1, 1, 2, 1)
    left = jnp.zeros((3, 3, 1, 1)).at[1, 0].set(1.0)
    above = jnp.zeros((3, 3, 1, 1)).at[0, 2].set(10.0)
    y = conv.convolve_doubled(x, left + above)
    np.testing.assert_allclose(
        y[0, ..., 0], [[0, 1, 1, 5], [10, 1 + 50, 1 + 50, 5]], rtol=1e-6
    )


def test_convolving_before_upsampling_equals_convolving_after():
    x, kernel = normal(0, 2, 5, 8, 3), normal(1, 3, 3, 3, 4)
    plain = conv.convolve_plainly([conv.Doubled(x)], kernel)
    assert_equal_to_rounding(conv.convolve_doubled(x, kernel), plain)


def test_parts_add_up_to_the_convolution_of_their_concatenation():
    x, small = normal(0, 3, 6, 8, 2), normal(1, 3, 3, 4, 3)
    memory, kernel = normal(2, 1, 6, 8, 5), normal(3, 3, 3, 2 + 5 + 3 + 2, 4)
    parts = [x, memory, conv.Doubled(small), x]
    plain = conv.convolve_plainly(parts, kernel)
    assert_equal_to_rounding(conv.convolve_parts(parts, kernel), plain)
    # The memory's part is known already.
    known = conv.convolve_plainly([memory], kernel[:, :, 2:7])
    parts[1] = conv.Convolved(known, 5)
    assert_equal_to_rounding(conv.convolve_parts(parts, kernel), plain)


def test_parts_that_all_samples_share_are_convolved_once():
    kernel = normal(1, 3, 3, 2, 4)
    assert len(conv.convolve_parts([normal(0, 1, 6, 8, 2)], kernel)) == 1


def test_gradient_in_a_shared_part_is_the_sum_over_samples():
    shared, gradient = normal(0, 1, 4, 6, 3), normal(1, 5, 4, 6, 3)
    repeated, back = jax.vjp(functools.partial(conv.spread, batch=5), shared)
    np.testing.assert_array_equal(repeated, np.repeat(shared, 5, axis=0))
    assert_equal_to_rounding(*back(gradient), gradient.sum(axis=0, keepdims=True))


def test_halving_and_its_gradient_equal_those_of_max_pool():
    x, gradient = normal(0, 2, 6, 4, 3), normal(1, 2, 3, 2, 3)
    ours, back = jax.vjp(halve, x)
    pool = functools.partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))
    reference, back_reference = jax.vjp(pool, x)
    np.testing.assert_array_equal(ours, reference)
    np.testing.assert_array_equal(*back(gradient), *back_reference(gradient))


def train_once(model, variables, depth, r):
    def loss(params):
        heatmaps, new = model.apply(
            {**variables, "params": params},
            depth,
            train=True,
            r=r,
            mutable=["memory", "batch_stats"],
        )
        return jnp.sum(heatmaps**2), (heatmaps, new)

    (_, (heatmaps, new)), gradients = jax.value_and_grad(loss, has_aux=True)(
        variables["params"]
    )
    return heatmaps, new, gradients


@pytest.mark.parametrize(
    ("name", "memory_mode", "r"),
    [
        ("cmb", "shared", 1.0),
        ("cmb", "per_sample", 3.0),
        ("cmb_convs", "shared", 3.0),
        ("cmb_half", "shared", 3.0),
    ],
)
def test_rewritten_network_equals_the_plain_one(name, memory_mode, r):
    # In double precision: what is left is not rounding.
    with jax.enable_x64(True):
        make = functools.partial(
            MODELS[name],
            num_joints=3,
            width=0.125,
            memory_mode=memory_mode,
            trunk_norm=True,
            dtype=jnp.float64,
        )
        depth = jax.random.uniform(jax.random.key(1), (2, 64, 64, 1), minval=-1.0)
        variables = jax.jit(functools.partial(make().init, train=True, r=1.0))(
            jax.random.key(0), depth
        )
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        for ours, reference in zip(
            *(
                jax.jit(functools.partial(train_once, make(plain=plain), r=r))(
                    variables, depth
                )
                for plain in (False, True)
            ),
            strict=True,
        ):
            assert_equal_to_rounding(ours, reference, tolerance=1e-6)


@pytest.mark.parametrize(("r", "most"), [(1.0, 0.81), (3.0, 0.84)])
def test_rewritten_network_multiplies_less(r, most):
    def flops(plain):
        model = MODELS["cmb"](num_joints=19, plain=plain)
        depth = jnp.zeros((8, 64, 64, 1))
        variables = jax.eval_shape(
            functools.partial(model.init, train=True, r=1.0), jax.random.key(0), depth
        )
        apply = functools.partial(model.apply, train=False, r=r)
        return jax.jit(apply).lower(variables, depth).cost_analysis()["flops"]

    assert flops(plain=False) < most * flops(plain=True)
