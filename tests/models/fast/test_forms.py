import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmbjax.models import MODELS
from cmbjax.models.fast.forms import FAST, LAYERS, WINOGRAD, convolve_repeated, spread
from cmbjax.models.fast.pool import max_pool, max_pool_3x3
from cmbjax.models.layers import PLAIN, Upsampled

FORMS = (FAST, WINOGRAD, LAYERS)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_equal_to_rounding(ours, reference, tolerance=1e-5):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(reference))
    for a, b in zip(*map(jax.tree.leaves, (ours, reference)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def scene(number, side):
    """Depth as cameras give it: far and constant, holes that count as far, ties."""
    rng = np.random.default_rng(5)
    depth = np.ones((number, side, side, 1), np.float32)
    body = slice(side // 4, 3 * side // 4)
    shape = (number, side // 2, side // 2, 1)
    depth[:, body, body] = rng.integers(-4, 5, shape) / 8  # a sensor's steps
    depth[rng.random(depth.shape) < 0.05] = 1.0
    return jnp.asarray(depth)


def test_upsampled_map_by_hand():
    # One row, two columns, repeated to [1 1 5 5] over two rows. The filter looks at the
    # left neighbour alone, then at the one above on the right.
    x = jnp.array([1.0, 5.0]).reshape(1, 1, 2, 1)
    left = jnp.zeros((3, 3, 1, 1)).at[1, 0].set(1.0)
    above = jnp.zeros((3, 3, 1, 1)).at[0, 2].set(10.0)
    y = convolve_repeated(x, left + above)
    np.testing.assert_allclose(
        y[0, ..., 0], [[0, 1, 1, 5], [10, 1 + 50, 1 + 50, 5]], rtol=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_convolving_before_upsampling_equals_convolving_after(form):
    x, kernel = normal(0, 2, 5, 8, 3), normal(1, 3, 3, 3, 4)
    plain = PLAIN.convolve([Upsampled(x)], kernel)
    assert_equal_to_rounding(form.convolve([Upsampled(x)], kernel), plain)


@pytest.mark.parametrize("form", FORMS)
def test_parts_add_up_to_the_convolution_of_their_concatenation(form):
    x, small = normal(0, 3, 6, 8, 2), normal(1, 3, 3, 4, 3)
    memory, kernel = normal(2, 1, 6, 8, 5), normal(3, 3, 3, 2 + 5 + 3 + 2, 4)
    parts = [x, memory, Upsampled(small), x]
    plain = PLAIN.convolve(parts, kernel)
    assert_equal_to_rounding(form.convolve(parts, kernel), plain)


def test_parts_that_all_samples_share_are_convolved_once():
    kernel = normal(1, 3, 3, 2, 4)
    assert len(FAST.convolve([normal(0, 1, 6, 8, 2)], kernel)) == 1


def test_gradient_in_a_shared_part_is_the_sum_over_samples():
    shared, gradient = normal(0, 1, 4, 6, 3), normal(1, 5, 4, 6, 3)
    repeated, back = jax.vjp(functools.partial(spread, batch=5), shared)
    np.testing.assert_array_equal(repeated, np.repeat(shared, 5, axis=0))
    assert_equal_to_rounding(*back(gradient), gradient.sum(axis=0, keepdims=True))


def test_gradient_of_pooling_goes_to_the_first_of_equal_maxima():
    ones = jnp.full((1, 2, 2, 1), 1.5)
    gradient = jax.grad(lambda x: max_pool(x).sum())(ones)
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0])
    # The first in the order of rows: 3 stands in row 0, column 1, and again below.
    x = jnp.array([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])


@pytest.mark.parametrize("what", ["normal", "scene", "ties", "constant"])
@pytest.mark.parametrize(
    ("ours", "window"), [(max_pool, (2, 2)), (max_pool_3x3, (3, 3))]
)
def test_pooling_and_its_gradient_equal_those_of_flax(ours, window, what):
    x = {
        "normal": normal(0, 2, 6, 8, 3),
        "scene": scene(2, 16) * jnp.ones(3).reshape(1, 1, 1, 3),
        "ties": jnp.round(normal(0, 2, 8, 10, 3)),
        "constant": jnp.full((2, 6, 4, 3), 0.5),
    }[what]
    padding = "VALID" if window == (2, 2) else "SAME"
    flax = functools.partial(
        nn.max_pool, window_shape=window, strides=(2, 2), padding=padding
    )
    y, back = jax.vjp(ours, x)
    expected, expected_back = jax.vjp(flax, x)
    np.testing.assert_array_equal(y, expected)
    gradient = normal(1, *y.shape)
    np.testing.assert_allclose(
        *back(gradient), *expected_back(gradient), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("height", [6, 7])
@pytest.mark.parametrize("width", [1, 4])
def test_pooling_of_odd_and_of_narrow_maps_equals_that_of_flax(height, width):
    x = normal(1, 2, height, width, 3)

    def pooled(pool):
        y, backward = jax.vjp(pool, x)
        return y, *backward(normal(2, *y.shape))

    flax = functools.partial(
        nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME"
    )
    for ours, expected in zip(pooled(max_pool_3x3), pooled(flax), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


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
def test_fast_network_equals_the_plain_one_in_value_and_gradient(name, memory_mode, r):
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
        depth = scene(2, 32).astype(jnp.float64)
        variables = jax.jit(functools.partial(make().init, train=True, r=1.0))(
            jax.random.key(0), depth
        )
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables)
        for ours, reference in zip(
            *(
                jax.jit(functools.partial(train_once, make(form=form), r=r))(
                    variables, depth
                )
                for form in (FAST, PLAIN)
            ),
            strict=True,
        ):
            assert_equal_to_rounding(ours, reference, tolerance=1e-6)


def test_tiled_network_equals_the_plain_one_in_value_and_gradient():
    model = MODELS["cmb"](num_joints=3, width=0.5, trunk_norm=True)
    depth = normal(1, 4, 32, 32, 1)  # without ties, which rounding would decide
    variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(
        jax.random.key(0), depth
    )
    tiled, plain = (
        jax.jit(functools.partial(train_once, model.clone(form=form), r=3.0))(
            variables, depth
        )
        for form in (WINOGRAD, PLAIN)
    )
    for ours, reference in zip(tiled, plain, strict=True):
        assert_equal_to_rounding(ours, reference, tolerance=1e-4)
    direct = jax.make_jaxpr(functools.partial(train_once, model, r=3.0))
    assert "_convolve_traced" not in str(direct(variables, depth))
    tiles = functools.partial(train_once, model.clone(form=WINOGRAD), r=3.0)
    assert "_convolve_traced" in str(jax.make_jaxpr(tiles)(variables, depth))


@pytest.mark.parametrize(("r", "most"), [(1.0, 0.81), (3.0, 0.84)])
def test_fast_network_multiplies_less(r, most):
    def flops(form):
        model = MODELS["cmb"](num_joints=19, form=form)
        depth = jnp.zeros((8, 64, 64, 1))
        variables = jax.eval_shape(
            functools.partial(model.init, train=True, r=1.0), jax.random.key(0), depth
        )
        apply = functools.partial(model.apply, train=False, r=r)
        return jax.jit(apply).lower(variables, depth).cost_analysis()["flops"]

    assert flops(FAST) < most * flops(PLAIN)
