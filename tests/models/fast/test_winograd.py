import jax
import jax.numpy as jnp
import numpy as np

from cmbjax import winograd
from cmbjax.models import conv


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
    expected = conv.convolve(x, kernel)
    y = winograd.convolve(x, winograd.transform(np.asarray(kernel)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_only_large_convolutions_with_known_filters_are_rewritten():
    large, small = normal(0, 3, 3, 64, 64), normal(1, 3, 3, 64, 8)

    def network(x):
        x = jax.nn.relu(conv.convolve(x, large + large))  # a constant sum
        return conv.convolve(x, small), {"mean": x.mean()}

    x = normal(2, 1, 8, 8, 64)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2),
        winograd.rewrite(network)(x),
        network(x),
    )
    program = str(jax.make_jaxpr(winograd.rewrite(network))(x))
    assert program.count("conv_general_dilated[") == 1
    assert str(jax.make_jaxpr(network)(x)).count("conv_general_dilated[") == 2

    def of_two(x):
        return conv.convolve(x, jnp.stack(64 * [x[0, :3, :3]], axis=3))

    program = str(jax.make_jaxpr(winograd.rewrite(of_two))(x))
    assert "conv_general_dilated[" in program


def test_odd_maps_stay_as_they_are():
    kernel = normal(0, 3, 3, 64, 64)

    def network(x):
        return conv.convolve(x, kernel)

    x = normal(1, 1, 6, 8, 64)
    assert "conv_general_dilated[" in str(jax.make_jaxpr(winograd.rewrite(network))(x))
