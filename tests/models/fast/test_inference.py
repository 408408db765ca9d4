import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax import deploy, winograd
from cmbjax.models import MODELS

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
    "rate": ("cmb", {"memory_rate": 0.25, "trunk_norm": True}, 3.0),
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


@each_case
def test_frozen_network_gives_what_the_trained_one_gives(case):
    model, variables, r = trained(case)
    (depth,) = batches(1)
    expected = model.apply(variables, depth, train=False, r=r)
    assert np.ptp(jax.tree.leaves(expected)[0]) > 0.1
    assert_close(deploy.freeze(model, variables, r=r)(depth), expected)
    plain = deploy.freeze(model.clone(plain=True), variables, r=r)
    assert_close(deploy.in_layers(plain)(depth), expected)


@each_with_memory
def test_rolling_network_hands_the_memory_on_as_the_trained_one_does(case):
    model, variables, r = trained(case)
    step = deploy.rolling(model, variables, r=r)
    layers = deploy.in_layers(deploy.rolling(model.clone(plain=True), variables, r=r))
    known = of_step = of_layers = variables["memory"]
    for depth in batches(3):
        expected, new = model.apply(
            {**variables, "memory": known}, depth, train=False, r=r, mutable=["memory"]
        )
        known = new["memory"]
        outputs, of_step = step(depth, of_step)
        assert_close((outputs, of_step), (expected, known))
        outputs, of_layers = layers(depth, of_layers)
        assert_close((outputs, of_layers), (expected, known))
    before = variables["memory"]["cmb1"]["value"]
    assert np.abs(known["cmb1"]["value"] - before).max() > 0.1


def test_slots_are_averaged_in_a_frozen_network_alone():
    model, variables, r = trained("per_sample")
    folded, kept = deploy.fold(model, variables)
    assert folded.memory_mode == "per_sample" and not folded.norm
    jax.tree.map(np.testing.assert_array_equal, kept["memory"], variables["memory"])
    # A batch of another size than that of the slots.
    network = deploy.freeze(model, variables, r=r)
    (depth,) = batches(1, batch=3)
    expected = model.apply(variables, depth, train=False, r=r)
    assert_close(network(depth), expected)


def test_folded_network_has_no_statistics_left():
    model, variables, _ = trained("trunk_norm")
    _, folded = deploy.fold(model, variables)
    names = {
        key.key
        for path, _ in jax.tree_util.tree_leaves_with_path(folded)
        for key in path
    }
    assert set(folded) == {"params", "memory"}
    assert not [name for name in names if "norm" in name.lower()]


def test_compiled_network_gives_what_the_trained_one_gives():
    # Wide enough for the form of its larger convolutions.
    model, variables, r = trained("trunk_norm", width=0.5)
    frozen = deploy.freeze(model, variables, r=r)
    (depth,) = batches(1)
    program = jax.make_jaxpr(winograd.rewrite(frozen))(depth)
    direct = jax.make_jaxpr(frozen)(depth)
    of_each = [str(x).count("conv_general_dilated[") for x in (program, direct)]
    assert of_each[0] < of_each[1]
    network = deploy.compile_for(frozen, side=SIDE, batch_size=BATCH)
    expected = model.apply(variables, depth, train=False, r=r)
    assert_close(network(depth), expected)


def test_network_compiled_for_one_shape_refuses_another():
    model, variables, r = trained("cmb_none")
    network = deploy.compile_for(
        deploy.freeze(model, variables, r=r), side=SIDE, batch_size=BATCH
    )
    (depth,) = batches(1)
    assert network(depth).shape == (BATCH, SIDE // 2, SIDE // 2, 3)
    with pytest.raises(TypeError, match=r"float32\[2,32,32,1\]"):
        network(depth[:1])
