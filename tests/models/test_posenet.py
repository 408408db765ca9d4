import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmbjax.models import MODELS


def initialise(name, side=64, batch=2, **options):
    model = MODELS[name](**{"num_joints": 19, **options})
    depth = jnp.zeros((batch, side, side, 1))
    return model, jax.eval_shape(
        lambda key: model.init(key, depth, train=True, r=1.0), jax.random.key(0)
    )


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


# Table 1 by hand: convolutions with biases, and BN's two values a channel in the CMBs.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("cmb", 3_305_971), ("cmb_none", 1_689_139), ("cmb_convs", 3_305_971)],
)
def test_parameter_counts_at_19_joints(name, parameters):
    assert count(initialise(name)[1]) == parameters


def test_capacity_changes_the_memory_and_what_touches_it_alone():
    shapes = {
        name: jax.tree.map(lambda leaf: leaf.shape, initialise(name)[1])
        for name in ("cmb", "cmb_half", "cmb_double")
    }
    memories = [v["memory"]["cmb2"]["value"] for v in shapes.values()]
    assert memories == [(16, 16, 64), (16, 16, 32), (16, 16, 128)]
    trunks = [
        {k: v for k, v in variables["params"].items() if k.startswith("conv")}
        for variables in shapes.values()
    ]
    assert trunks[0] == trunks[1] == trunks[2]


def test_width_halves_every_feature_map():
    model, variables = initialise("cmb", width=0.5)
    assert variables["params"]["conv1_1"]["kernel"].shape == (3, 3, 1, 16)
    assert variables["params"]["conv5"]["kernel"].shape == (3, 3, 192, 64)
    assert variables["params"]["conv7"]["kernel"].shape == (1, 1, 32, 19)


def test_trunk_norm_adds_two_values_a_channel_of_nine_convolutions():
    channels = 32 + 32 + 64 + 128 + 128 + 256 + 256 + 128 + 64
    plain, normed = (
        count(initialise("cmb", trunk_norm=norm)[1]) for norm in (False, True)
    )
    assert normed - plain == 2 * channels


def test_head_regresses_from_maps_of_at_most_32_cells():
    _, variables = initialise("cmb", side=192, head3d="dense", num_joints=15)
    # Maps of 96 cells are pooled by 3.
    assert variables["params"]["fc1"]["kernel"].shape == (32 * 32 * 15, 1024)
    assert variables["params"]["fc3"]["kernel"].shape == (1024, 45)


def test_head_leaves_no_cell_out_where_the_side_is_no_multiple():
    """68 cells are pooled by 3 to 23, the last of which are two cells wide."""
    _, variables = initialise("cmb", side=136, head3d="dense", num_joints=2)
    assert variables["params"]["fc1"]["kernel"].shape[0] == 23 * 23 * 2


def test_depth_maps_stand_beside_the_heat_maps_at_33_values_a_joint(key):
    model, variables = initialise("cmb", width=0.5, head3d="maps", num_joints=15)
    _, without = initialise("cmb", width=0.5, num_joints=15)
    assert count(variables) - count(without) == 15 * (32 + 1)
    with pytest.raises(ValueError, match="one of none, dense, maps, got 'deep'"):
        initialise("cmb", head3d="deep")


def test_heatmaps_move_with_the_image(key):
    # Eight pixels are one cell of the coarsest map: away from the border a network of
    # convolutions gives the same maps, four cells further.
    model = MODELS["cmb_none"](num_joints=3, width=0.25)
    depth = (
        jnp.zeros((1, 160, 160, 1))
        .at[:, 70:86, 66:90]
        .set(jax.random.normal(key, (1, 16, 24, 1)))
    )
    variables = model.init(key, depth, train=True, r=1.0)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False, r=1.0))
    maps, moved = apply(depth), apply(jnp.roll(depth, (8, -16), axis=(1, 2)))
    centre = slice(34, 46)
    np.testing.assert_allclose(
        moved[:, 38:50, 26:38], maps[:, centre, centre], rtol=1e-4, atol=1e-5
    )


def test_side_that_is_not_a_multiple_of_8_is_refused():
    with pytest.raises(ValueError, match=r"multiple of 8, got \[2, 60, 60, 1\]"):
        initialise("cmb", side=60)


def test_models_need_jax_and_flax_alone():
    heavy = "tensorflow_datasets grain orbax mujoco cv2 matplotlib tensorflow".split()
    code = f"import sys, cmbjax.models; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
