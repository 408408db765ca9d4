import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmbjax.models.fast.cpu import ConvTranspose, eigen_convolution


def normal(seed, shape):
    return jax.random.normal(jax.random.key(seed), shape)


def value_and_gradients(module, params, x):
    """Of a sum that no two outputs enter with the same weight."""

    def weighted(params, x):
        y = module.apply(params, x)
        return jnp.sum(y * normal(9, y.shape)), y

    return jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))(
        params, x
    )


def assert_same(ours, flax, x):
    params = flax.init(jax.random.key(0), x)
    shapes = functools.partial(jax.tree.map, jnp.shape)
    assert shapes(ours.init(jax.random.key(0), x)) == shapes(params)
    found, expected = (value_and_gradients(m, params, x) for m in (ours, flax))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        found,
        expected,
    )


@pytest.mark.parametrize(
    ("size", "height", "width"), [(11, 8, 8), (9, 16, 5), (3, 1, 1), (3, 8, 6)]
)
@pytest.mark.parametrize(
    "options", [{}, {"strides": 2}, {"padding": 1}, {"kernel_dilation": 2}]
)
def test_convolution_and_its_gradients_are_flax(size, height, width, options):
    if options.get("padding") and min(height, width) + 2 < size:
        pytest.skip("nothing is left of the maps")
    flax = nn.Conv(5, (size, size), **options)
    ours = flax.clone(conv_general_dilated_cls=eigen_convolution)
    assert_same(ours, flax, normal(1, (2, height, width, 3)))


@pytest.mark.parametrize("size", [(3, 5, 5), (3, 3, 3), (1, 3, 1)])
@pytest.mark.parametrize("frames", [5, 1])
def test_convolution_of_clips_and_its_gradients_are_flax(size, frames):
    flax = nn.Conv(5, size)
    ours = flax.clone(conv_general_dilated_cls=eigen_convolution)
    assert_same(ours, flax, normal(1, (2, frames, 6, 4, 3)))


def test_convolution_of_one_cell_is_flax():
    flax = nn.Conv(5, (1, 1))
    ours = flax.clone(conv_general_dilated_cls=eigen_convolution)
    assert_same(ours, flax, normal(1, (2, 4, 6, 3)))


def test_convolution_in_a_loop_is_flax():
    class Loop(nn.Module):
        options: dict

        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )(self.options)
            return layers(x, None)[0]

    class Step(nn.Module):
        options: dict

        @nn.compact
        def __call__(self, x, _):
            return nn.tanh(nn.Conv(4, (3, 3), **self.options)(x)), None

    ours = Loop({"conv_general_dilated_cls": eigen_convolution})
    assert_same(ours, Loop({}), normal(1, (2, 6, 6, 4)))


@pytest.mark.parametrize("times", [2, 4])
def test_transposed_convolution_is_flax(times):
    size = (times, times)
    ours = ConvTranspose(features=5, times=times)
    assert_same(ours, nn.ConvTranspose(5, size, size), normal(1, (2, 3, 4, 6)))
