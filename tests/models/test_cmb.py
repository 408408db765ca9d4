import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbjax.models import CMB, ablations, cmb
from cmbjax.models.ablations import DoubleMemory, HalfMemory
from cmbjax.models.cmb import similar_memory

SHAPE = (4, 5, 7, 3)  # batch, height, width, channels
finite = functools.partial(st.floats, width=32, allow_subnormal=False)


@pytest.fixture(params=["shared", "per_sample"])
def block(request):
    return CMB(features=3, memory_mode=request.param)


@pytest.fixture
def x(key):
    return jax.nn.relu(jax.random.normal(key, SHAPE))


def initialise(block, x):
    return block.init(jax.random.key(1), x, train=True, r=1.0)


def train(block, variables, x, r=3.0):
    return block.apply(variables, x, train=True, r=r, mutable=["memory", "batch_stats"])


# The clip of Eq. 2.


@settings(deadline=None)  # the first call compiles
@given(
    memory=finite(-8, 8),
    x=finite(2**-6, 8) | finite(-8, -(2**-6)),
    r=finite(1, 8),
)
def test_clip_equals_the_quotient_form_with_its_gradients(memory, x, r):
    def quotient(memory, x):
        return jnp.clip(memory / x, 1 / r, r) * x

    ours = jax.value_and_grad(lambda m, x: similar_memory(m, x, r), argnums=(0, 1))
    theirs = jax.value_and_grad(quotient, argnums=(0, 1))
    memory, x = jnp.float32(memory), jnp.float32(x)
    # At the clip's corners the two forms may take either side's slope.
    corners = jnp.array([1 / r, r])
    value, (by_memory, by_x) = ours(memory, x)
    expected, (expected_by_memory, expected_by_x) = theirs(memory, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    if jnp.abs(memory / x - corners).min() > 1e-4:
        np.testing.assert_allclose(by_memory, expected_by_memory, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(by_x, expected_by_x, rtol=1e-4, atol=1e-4)


def test_clip_by_hand():
    x = jnp.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    memory = jnp.array([9.0, 1.0, 0.5, -9.0, -1.0, 5.0])
    # r = 3 keeps M within [x/3, 3x]: [0.67, 6] where x = 2, [-6, -0.67] where x = -2.
    expected = [6.0, 1.0, 2 / 3, -6.0, -1.0, -2 / 3]
    np.testing.assert_allclose(similar_memory(memory, x, 3.0), expected, rtol=1e-6)


def test_r_of_one_gives_x_whatever_the_memory(key, x):
    memory = 100 * jax.random.normal(key, x.shape)
    np.testing.assert_array_equal(similar_memory(memory, x, 1.0), x)


def test_clip_is_zero_and_finite_where_x_is_zero():
    memory = jnp.array([-3.0, 0.0, 3.0])
    value, by_x = jax.jvp(
        lambda x: similar_memory(memory, x, 3.0), (jnp.zeros(3),), (jnp.ones(3),)
    )
    np.testing.assert_array_equal(value, 0.0)
    assert jnp.isfinite(by_x).all()


# One whole step, by hand.


def constant_variables(memory, **stats):
    """1x1 maps, one channel: each controller is w_x x + w_m M behind two BNs."""

    def controller(of_x, of_memory, scale):
        kernel = np.zeros((3, 3, 2, 1), np.float32)
        kernel[1, 1, :, 0] = of_x, of_memory  # the centre: all that a 1x1 map sees
        convs = {
            "Conv_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)},
            "Conv_1": {
                "kernel": np.full((1, 1, 1, 1), scale, np.float32),
                "bias": np.zeros(1, np.float32),
            },
        }
        norm = {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)}
        return {**convs, "BatchNorm_0": norm, "BatchNorm_1": norm}

    # With mean 0 and variance 1 - epsilon, BN in evaluation is the identity.
    identity = {
        "mean": np.zeros(1, np.float32),
        "var": np.full(1, 1 - 1e-5, np.float32),
    }
    names = ("input", "memory", "output")
    weights = {"input": (1, 2, 1), "memory": (3, 1, 2), "output": (1, -0.5, 1)}
    return {
        "params": {name: controller(*weights[name]) for name in names},
        "batch_stats": {
            name: {"BatchNorm_0": identity, "BatchNorm_1": identity} for name in names
        },
        "memory": {"value": np.asarray(memory, np.float32)},
    }


def test_one_step_by_hand_with_a_shared_memory():
    block = CMB(features=1)
    x = jnp.array([1.0, 4.0]).reshape(2, 1, 1, 1)
    variables = constant_variables([[[5.0]]])
    # x = 1: C_I = 1 + 2*5 = 11; the clip keeps M in [1/3, 3] and gives 3;
    #        C_M = 2 (3*1 + 3) = 12; M_t = 23; C_O = relu(1 - 11.5) = 0.
    # x = 4: C_I = 4 + 10 = 14; the clip keeps M in [4/3, 12] and gives 5;
    #        C_M = 2 (12 + 5) = 34; M_t = 48; C_O = relu(4 - 24) = 0.
    y, new = block.apply(variables, x, train=False, r=3.0, mutable=["memory"])
    np.testing.assert_allclose(y.reshape(2, 2), [[1, 0], [4, 0]], rtol=1e-5)
    np.testing.assert_allclose(new["memory"]["value"], [[[(23 + 48) / 2]]], rtol=1e-5)
    # The memory 0.1 in front of x = 4 is too small to be let through: 4/3 is.
    # C_I = 4.2, C_M = 2 (12 + 4/3), M_t = 30.8667. With a weight of -0.1 instead of
    # -0.5, C_O = 4 - 3.08667.
    variables = constant_variables([[[0.1]]])
    variables["params"]["output"]["Conv_0"]["kernel"][1, 1, 1, 0] = -0.1
    y = block.apply(variables, x[1:], train=False, r=3.0)
    np.testing.assert_allclose(y.reshape(2), [4, 4 - 3.0866667], rtol=1e-5)


def test_one_step_by_hand_with_a_memory_per_sample():
    block = CMB(features=1, memory_mode="per_sample")
    x = jnp.array([1.0, 4.0]).reshape(2, 1, 1, 1)
    variables = constant_variables(np.array([5.0, 0.1]).reshape(2, 1, 1, 1))
    _, new = block.apply(variables, x, train=False, r=3.0, mutable=["memory"])
    written = new["memory"]["value"].reshape(2)
    np.testing.assert_allclose(written, [23, 4.2 + 2 * (12 + 4 / 3)], rtol=1e-5)


def test_a_rate_writes_part_of_the_step():
    x = jnp.array([1.0, 4.0]).reshape(2, 1, 1, 1)
    one = constant_variables([[[5.0]]])
    each = constant_variables(np.array([5.0, 0.1]).reshape(2, 1, 1, 1))
    for mode, variables, before, after in (
        ("shared", one, [5.0], [(23 + 48) / 2]),
        ("per_sample", each, [5.0, 0.1], [23, 4.2 + 2 * (12 + 4 / 3)]),
    ):
        block = ablations.RunningMean(features=1, memory_mode=mode, rate=0.25)
        _, new = block.apply(variables, x, train=False, r=3.0, mutable=["memory"])
        expected = 0.75 * np.array(before) + 0.25 * np.array(after)
        written = new["memory"]["value"].reshape(-1)
        np.testing.assert_allclose(written, expected, rtol=1e-5)


def test_a_running_mean_that_is_not_written_is_read_by_any_batch(x):
    block = ablations.RunningMean(features=3, memory_mode="per_sample")
    variables = initialise(block, x)
    plain = CMB(features=3, memory_mode="per_sample")
    np.testing.assert_array_equal(
        block.apply(variables, x[:2], train=False, r=3.0),
        plain.apply(variables, x[:2], train=False, r=3.0),
    )


def test_an_r_below_one_is_refused(x):
    block = CMB(features=3)
    variables = initialise(block, x)
    for r in (0.5, float("nan")):
        with pytest.raises(ValueError, match=f"r must be at least 1, got {r}"):
            block.apply(variables, x, train=False, r=r)


def test_a_constant_memory_is_a_parameter_that_nothing_writes(x):
    block = ablations.ConstantMemory(features=3)
    variables = initialise(block, x)
    constant = variables["params"]["constant"]
    assert constant.shape == (5, 7, 3) and "memory" not in variables
    _, new = train(block, variables, x)
    assert "memory" not in new
    # It reads as a frozen shared memory of the same values does.
    params = {k: v for k, v in variables["params"].items() if k != "constant"}
    shared = {**variables, "params": params, "memory": {"value": constant}}
    np.testing.assert_allclose(
        block.apply(variables, x, train=False, r=3.0),
        CMB(features=3).apply(shared, x, train=False, r=3.0),
        rtol=1e-6,
    )

    def loss(params):
        y, _ = train(block, {**variables, "params": params}, x)
        return jnp.sum(y**2)

    assert jnp.abs(jax.grad(loss)(variables["params"])["constant"]).max() > 0


# Who writes the memory, and when.


def test_init_leaves_the_memory_alone(block, x):
    # Only the key decides what init puts there, not the batch.
    ours = initialise(block, x)["memory"]["value"]
    np.testing.assert_array_equal(ours, initialise(block, 9 * x)["memory"]["value"])
    assert ours.min() >= 0 and ours.std() > 0.1  # random, not constant


def test_training_writes_the_memory_and_frozen_evaluation_does_not(block, x):
    variables = initialise(block, x)
    _, new = train(block, variables, x)
    assert (new["memory"]["value"] != variables["memory"]["value"]).any()
    _, new = block.apply(variables, x, train=False, r=3.0, mutable=["intermediates"])
    assert "memory" not in new


def test_rolling_evaluation_writes_the_memory_but_not_the_statistics(block, x):
    variables = initialise(block, x)
    _, new = block.apply(variables, x, train=False, r=3.0, mutable=["memory"])
    assert set(new) == {"memory"}
    assert (new["memory"]["value"] != variables["memory"]["value"]).any()


def test_shared_memory_does_not_depend_on_the_order_in_the_batch(x):
    block = CMB(features=3)
    variables = initialise(block, x)
    value = train(block, variables, x)[1]["memory"]["value"]
    turned = train(block, variables, x[::-1])[1]["memory"]["value"]
    np.testing.assert_allclose(value, turned, rtol=1e-4, atol=1e-5)


def test_memory_per_sample_holds_what_the_sample_in_its_slot_left(x):
    block = CMB(features=3, memory_mode="per_sample")
    variables = initialise(block, x)
    rolling = functools.partial(block.apply, train=False, r=3.0, mutable=["memory"])
    value = rolling(variables, x)[1]["memory"]["value"]
    changed = rolling(variables, x.at[2].mul(2.0))[1]["memory"]["value"]
    same = np.array([True, True, False, True])
    np.testing.assert_array_equal(value[same], changed[same])
    assert (value[2] != changed[2]).any()


def test_frozen_evaluation_depends_neither_on_order_nor_on_batch_composition(block, x):
    variables = initialise(block, x)
    variables |= train(block, variables, x)[1]
    frozen = functools.partial(block.apply, variables, train=False, r=3.0)
    y = frozen(x)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(frozen(x[::-1])[::-1], y)
    close(frozen(x[1:2]), y[1:2])
    close(frozen(jnp.concatenate([x, 5 * x]))[:4], y)


def test_no_gradient_flows_into_the_old_memory(block, x):
    variables = initialise(block, x)

    def loss(memory):
        y, _ = train(block, {**variables, "memory": memory}, x)
        return jnp.sum(y**2)

    (grad,) = jax.tree.leaves(jax.grad(loss)(variables["memory"]))
    np.testing.assert_array_equal(grad, 0.0)


@pytest.mark.parametrize("mode", ["shared", "per_sample"])
def test_perturbation_has_the_gradient_of_the_new_memory(mode, x):
    block = ablations.OptimizedMemory(features=3, memory_mode=mode)
    variables = initialise(block, x)
    zeros = jax.tree.map(jnp.zeros_like, variables["memory"])
    delta = jax.tree.map(lambda z: z.at[..., 2, 1].set(1e-2), zeros)

    def loss(perturbations):
        given = {**variables, "perturbations": perturbations}
        y = block.apply(given, x, train=False, r=3.0, mutable=["memory"])[0]
        return jnp.sum(y**2)

    slope = jnp.vdot(jax.grad(loss)(zeros)["value"], delta["value"])
    back = jax.tree.map(jnp.negative, delta)
    np.testing.assert_allclose(slope, (loss(delta) - loss(back)) / 2, rtol=0.05)


def test_at_r_one_the_memory_reaches_only_the_input_controller(x):
    class InputController(ablations.InputForMemory):
        without_memory = ("input",)
        read, write = CMB.read, CMB.write

    block = InputController(features=3)
    variables = initialise(block, x)
    other = {**variables, "memory": {"value": 7 + variables["memory"]["value"]}}
    at = functools.partial(block.apply, train=False)
    np.testing.assert_array_equal(at(variables, x, r=1.0), at(other, x, r=1.0))
    assert (at(variables, x, r=3.0) != at(other, x, r=3.0)).any()


def test_training_refuses_another_batch_size_than_the_slots(x):
    block = CMB(features=3, memory_mode="per_sample")
    variables = initialise(block, x)
    with pytest.raises(ValueError, match=r"is \[4, 5, 7, 3\].*needs \[3, 5, 7, 3\]"):
        train(block, variables, x[:3])


def test_another_image_side_is_refused(block, x):
    with pytest.raises(ValueError, match="keep to the image side"):
        block.apply(initialise(block, x), x[:, :4], train=False, r=1.0)


def test_half_capacity_projects_x_before_the_clip(x):
    block = HalfMemory(features=4)
    variables = initialise(block, x)
    y, new = train(block, variables, x)
    assert variables["params"]["project"]["kernel"].shape == (1, 1, 3, 2)
    assert new["memory"]["value"].shape == (5, 7, 2)
    np.testing.assert_array_equal(y[..., :3], x)  # x passes through unchanged
    assert y.shape[-1] == 7


@pytest.mark.parametrize("kind", [HalfMemory, DoubleMemory])
def test_what_is_compared_with_a_projected_memory_is_nowhere_negative(
    kind, x, monkeypatch
):
    """A memory, a sum of ReLUs, never is; a linear projection is in half of it."""
    compared = []

    def recorded(M, projected, r):
        compared.append(projected)
        return similar_memory(M, projected, r)

    monkeypatch.setattr(cmb, "similar_memory", recorded)
    block = kind(features=3)
    variables = initialise(block, x)
    block.apply(variables, x, train=False, r=3.0)
    project = variables["params"]["project"]
    kernel, bias = (np.asarray(project[name]) for name in ("kernel", "bias"))
    linear = np.asarray(x) @ kernel[0, 0] + bias
    assert (linear < 0).any()
    np.testing.assert_allclose(compared[-1], np.maximum(linear, 0), atol=1e-5)
