import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmbjax.models.fast.norm import NormRelu, norm_relu
from cmbjax.models.layers import along_channels


def example():
    keys = jax.random.split(jax.random.key(0), 5)
    x = 3 * jax.random.normal(keys[0], (4, 6, 5, 3)) + 2
    bias = jax.random.normal(keys[1], (3,))
    params = {
        "scale": jax.random.normal(keys[2], (3,)) + 1,
        "bias": jax.random.normal(keys[3], (3,)),
    }
    statistics = {"mean": jnp.arange(3.0), "var": jnp.array([0.5, 1.0, 2.0])}
    return x, bias, {"params": params, "batch_stats": statistics}


def flax_norm(variables, x, bias, train):
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    y, new = norm.apply(
        variables, x + bias.reshape(1, 1, 1, -1), mutable=["batch_stats"]
    )
    return nn.relu(y), new


def ours(variables, x, bias, train):
    """The closed form in training; as it is folded into a convolution, otherwise."""
    if train:
        return NormRelu().apply(variables, x, bias, mutable=["batch_stats"])
    factor, shift = NormRelu().apply(variables, bias, method="folded")
    y = nn.relu(x * along_channels(factor) + along_channels(shift))
    return y, {"batch_stats": variables["batch_stats"]}


@pytest.mark.parametrize("train", [False, True])
def test_outputs_and_statistics_are_those_of_flax(train):
    x, bias, variables = example()
    expected = flax_norm(variables, x, bias, train)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        ours(variables, x, bias, train),
        expected,
    )


def test_gradients_are_those_of_flax_and_the_bias_has_none():
    x, bias, variables = example()
    weights = jax.random.normal(jax.random.key(9), x.shape)

    def gradients(norm):
        def loss(params, x, bias):
            return jnp.sum(weights * norm({**variables, "params": params}, x, bias)[0])

        return jax.grad(loss, argnums=(0, 1, 2))(variables["params"], x, bias)

    of_ours = gradients(lambda *arguments: ours(*arguments, train=True))
    of_flax = gradients(lambda *arguments: flax_norm(*arguments, train=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        of_ours,
        of_flax,
    )
    np.testing.assert_array_equal(of_ours[2], 0)
    assert np.abs(of_flax[2]).max() > 0  # rounding, of which Adam makes whole steps


def test_two_cells_by_hand():
    # Mean 2, variance 1: normalised -1 and 1, scaled -10 and 10, shifted 5.
    x = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    y, mean, var = norm_relu(x, jnp.array([10.0]), jnp.array([5.0]))
    np.testing.assert_allclose(y[0, 0, :, 0], [0, 15], rtol=1e-4)
    np.testing.assert_allclose([mean[0], var[0]], [2, 1])


def test_statistics_of_bfloat16_maps_are_float32():
    x, bias, variables = example()
    y, new = NormRelu(dtype=jnp.bfloat16).apply(
        variables, x.astype(jnp.bfloat16), bias, mutable=["batch_stats"]
    )
    expected, _ = ours(variables, x, bias, train=True)
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.02, atol=0.05)
