import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmbjax.models.fast import winograd
from cmbjax.models.fast.forms import FAST, WINOGRAD
from cmbjax.models.layers import convolve


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_constant_map_by_hand():
    # All taps see the same 2.0, except for those beyond the border: 4, 6 or 9 of 9.
    kernel = np.ones((3, 3, 1, 1), np.float32)
    y = winograd.convolve(jnp.full((1, 4, 4, 1), 2.0), winograd.transform(kernel))
    seen = np.array([2, 3, 3, 2])
    np.testing.assert_allclose(y[0, ..., 0], 2.0 * np.outer(seen, seen), rtol=1e-5)


def test_convolution_is_that_of_xla_on_maps_of_several_tiles():
    x, kernel = normal(0, 2, 8, 12, 5), normal(1, 3, 3, 5, 7)
    expected = convolve(x, kernel)
    y = winograd.convolve(x, winograd.transform(np.asarray(kernel)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def number_of_convolutions(network, x):
    return str(jax.make_jaxpr(network)(x)).count("conv_general_dilated[")


def test_only_large_convolutions_with_known_filters_take_this_form():
    large, small = normal(0, 3, 3, 64, 64), normal(1, 3, 3, 64, 8)

    def network(form, x):
        with jax.ensure_compile_time_eval():
            x = jax.nn.relu(form.convolve([x], large + large))  # a constant sum
            return form.convolve([x], small)

    x = normal(2, 1, 8, 8, 64)
    np.testing.assert_allclose(network(WINOGRAD, x), network(FAST, x), 1e-4, 1e-2)
    assert number_of_convolutions(functools.partial(network, FAST), x) == 2
    assert number_of_convolutions(functools.partial(network, WINOGRAD), x) == 1

    def of_two(x):
        return WINOGRAD.convolve([x], jnp.stack(64 * [x[0, :3, :3]], axis=3))

    assert number_of_convolutions(of_two, x) == 1


def test_odd_maps_stay_as_they_are():
    kernel = normal(0, 3, 3, 64, 64)
    x = normal(1, 1, 6, 8, 64)
    assert number_of_convolutions(lambda x: WINOGRAD.convolve([x], kernel), x) == 1
