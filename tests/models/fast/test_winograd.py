import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax.models.fast import winograd
from cmbjax.models.fast.forms import FAST, WINOGRAD
from cmbjax.models.layers import convolve


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_constant_map_by_hand():
    # All taps see the same 2.0, except for those beyond the border: 4, 6 or 9 of 9.
    y = winograd.convolve(jnp.full((1, 4, 4, 1), 2.0), jnp.ones((3, 3, 1, 1)))
    seen = np.array([2, 3, 3, 2])
    np.testing.assert_allclose(y[0, ..., 0], 2.0 * np.outer(seen, seen), rtol=1e-5)


def test_convolution_is_that_of_xla_on_maps_of_several_tiles():
    x, kernel = normal(0, 2, 8, 12, 5), normal(1, 3, 3, 5, 7)
    expected = convolve(x, kernel)
    y = winograd.convolve(x, kernel)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def gradients(convolve, x, kernel, gradient):
    """Returns the convolution, and what the gradient of it is in x and kernel."""
    y, back = jax.vjp(convolve, x, kernel)
    return y, *back(gradient)


def test_gradients_by_hand():
    # All filters and maps are 1: a cell's gradient is the number of cells that see it,
    # and a tap's the number of cells inside of the map that it sees.
    x, kernel = jnp.ones((1, 4, 8, 1)), jnp.ones((3, 3, 1, 1))
    _, of_x, of_kernel = gradients(winograd.convolve, x, kernel, x)
    seen_by = np.outer([2, 3, 3, 2], [2, 3, 3, 3, 3, 3, 3, 2])
    np.testing.assert_allclose(of_x[0, ..., 0], seen_by, rtol=1e-5)
    taps = np.outer([3, 4, 3], [7, 8, 7])
    np.testing.assert_allclose(of_kernel[..., 0, 0], taps, rtol=1e-5)


def test_gradients_are_those_of_xla_on_maps_of_several_tiles():
    with jax.enable_x64(True):  # what is left is not rounding
        kinds = ((2, 8, 12, 5), (3, 3, 5, 7), (2, 8, 12, 7))
        x, kernel, gradient = (
            normal(i, *shape).astype(jnp.float64) for i, shape in enumerate(kinds)
        )
        ours, expected = (
            gradients(function, x, kernel, gradient)
            for function in (winograd.convolve, convolve)
        )
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def test_rounding_of_large_maps_stays_near_a_hundred_thousandth():
    x, kernel = jax.nn.relu(normal(0, 4, 16, 16, 128)), normal(1, 3, 3, 128, 128)
    gradient = normal(2, 4, 16, 16, 128)
    ours = gradients(winograd.convolve, x, kernel, gradient)
    with jax.enable_x64(True):
        wide = (values.astype(jnp.float64) for values in (x, kernel, gradient))
        expected = gradients(convolve, *wide)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max())


def test_known_filters_are_transformed_beforehand():
    kernel = normal(0, 3, 3, 64, 64)
    x = normal(1, 1, 8, 8, 64)

    def network(form, x):
        with jax.ensure_compile_time_eval():
            return form.convolve([x], kernel + kernel)  # a constant sum

    np.testing.assert_allclose(network(WINOGRAD, x), network(FAST, x), 1e-4, 1e-2)
    frozen = jax.make_jaxpr(functools.partial(network, WINOGRAD))(x)
    assert [constant.shape for constant in frozen.consts] == [(36, 64, 64)]
    assert "custom_vjp" not in str(frozen)
    trained = jax.make_jaxpr(lambda kernel: WINOGRAD.convolve([x], kernel))(kernel)
    assert "custom_vjp" in str(trained)


@pytest.mark.parametrize(
    ("shape", "channels", "is_tiled"),
    [
        ((1, 8, 8), (64, 64), True),
        ((16, 64, 64), (64, 64), False),  # tiles of 36 MB are in few caches
        ((16, 64, 64), (128, 128), True),
        ((1, 8, 8), (64, 8), False),
        ((1, 6, 8), (128, 128), False),  # no whole tiles
    ],
)
def test_only_large_convolutions_take_this_form(shape, channels, is_tiled):
    x, kernel = jnp.zeros((*shape, channels[0])), jnp.zeros((3, 3, *channels))

    def number_of_convolutions(x, kernel):
        program = jax.make_jaxpr(lambda x, k: WINOGRAD.convolve([x], k))(x, kernel)
        return str(program).count("conv_general_dilated[")

    assert number_of_convolutions(x, kernel) == (not is_tiled)
    assert number_of_convolutions(*(a.astype(jnp.bfloat16) for a in (x, kernel))) == 1
    large = jnp.zeros((5, 5, *channels))
    assert number_of_convolutions(x, large) == 1
