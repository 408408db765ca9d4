import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax.models import MODELS, fast
from cmbjax.models.fast import FAST, LAYERS, WINOGRAD
from cmbjax.models.layers import PLAIN

SIDE, BATCH = 32, 2
# name, options of the network, r
CASES = {
    "cmb": ("cmb", {}, 3.0),
    "cmb r=1": ("cmb", {}, 1.0),
    "trunk_norm": ("cmb", {"trunk_norm": True}, 3.0),
    "per_sample": ("cmb", {"memory_mode": "per_sample"}, 3.0),
    "per_sample r=1": ("cmb", {"memory_mode": "per_sample", "trunk_norm": True}, 1.0),
    "cmb_none": ("cmb_none", {}, 3.0),
    "cmb_none trunk_norm": ("cmb_none", {"trunk_norm": True}, 3.0),
    "cmb_convs": ("cmb_convs", {}, 3.0),
    "cmb_convs_literal": ("cmb_convs_literal", {}, 3.0),
    "cmb_half": ("cmb_half", {}, 3.0),
    "constant": ("memory_constant", {"trunk_norm": True}, 3.0),
    "rate": ("memory_ema", {"trunk_norm": True}, 3.0),
    "cmb_double": ("cmb_double", {}, 3.0),
    "dense": ("cmb", {"head3d": "dense", "trunk_norm": True}, 3.0),
    "maps": ("cmb", {"head3d": "maps", "trunk_norm": True}, 3.0),
}
each_case = pytest.mark.parametrize("case", CASES)
each_with_memory = pytest.mark.parametrize(
    "case",
    [
        case
        for case in CASES
        if not any(word in case for word in ("none", "convs", "constant"))
    ],
)


@functools.cache
def trained(case, width=0.125):
    """A network whose biases, statistics and memory are all far from the initial."""
    name, options, r = CASES[case]
    model = MODELS[name](num_joints=3, width=width, **options)
    depth = jnp.zeros((BATCH, SIDE, SIDE, 1))
    init = functools.partial(model.init, train=True, r=1.0)
    rng = np.random.default_rng(1)

    def draw(path, value):
        if path[0].key == "memory" or path[-1].key in ("var", "scale"):
            drawn = rng.uniform(0.5, 1.5, value.shape)
        elif path[-1].key == "kernel":
            drawn = rng.normal(0, np.sqrt(2 / np.prod(value.shape[:-1])), value.shape)
        else:
            drawn = rng.uniform(-0.3, 0.3, value.shape)
        return jnp.asarray(drawn, jnp.float32)

    shapes = jax.eval_shape(init, jax.random.key(0), depth)
    return model, jax.tree_util.tree_map_with_path(draw, shapes), r


def batches(number, batch=BATCH):
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.uniform(-1, 1, (number, batch, SIDE, SIDE, 1)), jnp.float32)


def assert_close(found, expected):
    """Within 1e-5 of the range of each array."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.ptp(b)),
        found,
        expected,
    )


def expected_of(model, variables, depth, r):
    return model.clone(form=PLAIN).apply(
        variables, depth, train=False, r=r, method="outputs"
    )


@each_case
def test_frozen_network_gives_what_the_trained_one_gives(case):
    model, variables, r = trained(case)
    (depth,) = batches(1)
    expected = expected_of(model, variables, depth, r)
    assert np.ptp(expected.heatmaps) > 0.1
    for form in (FAST, WINOGRAD, LAYERS):
        network = fast.freeze(model, variables, r=r, form=form)
        assert_close(network(depth), expected)


@each_with_memory
def test_rolling_network_hands_the_memory_on_as_the_trained_one_does(case):
    model, variables, r = trained(case)
    steps = {
        form: fast.roll(model, variables, r=r, form=form) for form in (WINOGRAD, LAYERS)
    }
    memory = variables["memory"]
    memories = dict.fromkeys(steps, memory)
    plain = functools.partial(
        model.clone(form=PLAIN).apply,
        train=False,
        r=r,
        method="outputs",
        mutable=["memory"],
    )
    for depth in batches(3):
        expected, new = plain({**variables, "memory": memory}, depth)
        memory = new["memory"]
        for form, step in steps.items():
            outputs, memories[form] = step(depth, memories[form])
            assert_close((outputs, memories[form]), (expected, memory))
    before = variables["memory"]["cmb1"]["value"]
    assert np.abs(memory["cmb1"]["value"] - before).max() > 0.01


def test_slots_are_averaged_in_a_frozen_network():
    model, variables, r = trained("per_sample")
    # A batch of another size than that of the slots.
    (depth,) = batches(1, batch=3)
    network = fast.freeze(model, variables, r=r)
    assert_close(network(depth), expected_of(model, variables, depth, r))


def test_constants_of_a_frozen_network_are_computed_beforehand():
    # BN and the memory's share of the input controllers are known: what is left are
    # the convolutions of maps, and no square root.
    model, variables, r = trained("trunk_norm")
    (depth,) = batches(1)
    network = fast.freeze(model, variables, r=r, form=FAST)
    frozen = str(jax.make_jaxpr(network)(depth))
    whole = str(
        jax.make_jaxpr(functools.partial(model.apply, train=False, r=r))(
            variables, depth
        )
    )
    assert "rsqrt" in whole and "rsqrt" not in frozen
    blocks = 3
    of_each = [x.count("conv_general_dilated[") for x in (frozen, whole)]
    assert of_each[0] == of_each[1] - blocks


def test_compiled_network_gives_what_the_trained_one_gives():
    # Wide enough for the form of its larger convolutions.
    model, variables, r = trained("trunk_norm", width=0.5)
    (depth,) = batches(1)
    of_each = [
        str(jax.make_jaxpr(fast.freeze(model, variables, r=r, form=form))(depth)).count(
            "conv_general_dilated["
        )
        for form in (WINOGRAD, FAST)
    ]
    assert of_each[0] < of_each[1]
    network = fast.compile_for(
        fast.freeze(model, variables, r=r), side=SIDE, batch_size=BATCH
    )
    assert_close(network(depth), expected_of(model, variables, depth, r))


def test_network_compiled_for_one_shape_refuses_another():
    model, variables, r = trained("cmb_none")
    network = fast.compile_for(
        fast.freeze(model, variables, r=r), side=SIDE, batch_size=BATCH
    )
    (depth,) = batches(1)
    assert network(depth).heatmaps.shape == (BATCH, SIDE // 2, SIDE // 2, 3)
    with pytest.raises(TypeError, match=r"float32\[2,32,32,1\]"):
        network(depth[:1])
