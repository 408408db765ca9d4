"""The compared networks: counts, complexity, and what makes each of them itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.table5 import multiply_adds
from cmbjax.models import MODELS
from cmbjax.models.compared.cpm import centre_map
from cmbjax.models.layers import PLAIN
from cmbjax.models.losses import heatmap_loss, joints_to_heatmaps
from cmbjax.models.network import Outputs
from cmbjax.skeletons import BODY15


def abstract(name, joints, side, **options):
    model = MODELS[name](num_joints=joints, **options)
    depth = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    initialise = functools.partial(model.init, train=True, r=1.0)
    return model, jax.eval_shape(initialise, jax.random.key(0), depth), depth


def make_batch(side, joints=15, size=2):
    rng = np.random.default_rng(0)
    return {
        "depth": jnp.array(rng.uniform(-1, 1, (size, side, side, 1)), jnp.float32),
        "joints_px": jnp.array(
            rng.uniform(4, side - 4, (size, joints, 2)), jnp.float32
        ),
        "joints_z": jnp.zeros((size, joints)),
        "visible": jnp.array(rng.random((size, joints)) < 0.8),
    }


# The published networks see three channels; a further one costs the first layer's
# filters.
@pytest.mark.parametrize(
    ("name", "joints", "parameters"),
    [
        ("sh8", 15, 25_423_992),
        ("cpm", 14, 31_219_866 - 2 * 2 * 9 * 9 * 128),
        ("cpm_vgg", 14, 29_852_058 - 2 * 3 * 3 * 64),
        ("phr", 15, 75_661_964),
    ],
)
def test_parameters_are_those_of_the_published_networks(name, joints, parameters):
    _, variables, _ = abstract(name, joints, 64)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters


# GFLOP of Table 5, two a multiplication and addition; ours by hand in GMAC.
@pytest.mark.parametrize(
    ("name", "joints", "side", "gflop", "options"),
    [
        ("sh8", 15, 192, 30.7, {}),
        ("cpm", 15, 184, 85.0, {}),
        ("cmb", 19, 192, 2 * 5.71, {"form": PLAIN}),
    ],
)
def test_complexity_is_that_of_table_5(name, joints, side, gflop, options):
    model, variables, depth = abstract(name, joints, side, **options)
    apply = functools.partial(model.apply, train=False, r=3.0)
    counted = 2e-9 * multiply_adds(apply, variables, depth)
    assert counted == pytest.approx(gflop, abs=0.05)


def test_multiply_adds_by_hand():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def network(x):
        def again(x, _):
            return jnp.matmul(x, jnp.zeros((5, 5))), None

        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.scan(again, jax.jit(jnp.tanh)(y), None, length=4)[0]

    # 16 cells of 2 samples, 5 channels of 27 products; then 4 times 5 by 5.
    assert multiply_adds(network, x) == 32 * 5 * 27 + 4 * 32 * 25


def test_hourglasses_are_supervised_at_every_stack(key):
    model = MODELS["sh2"](num_joints=15, width=0.0625)
    batch = make_batch(64)
    variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(
        key, batch["depth"]
    )
    apply = functools.partial(model.apply, variables, mutable=["batch_stats"])
    loss, _ = apply(batch, r=1.0, sigma=1.5, method="loss")
    maps, _ = apply(batch["depth"], train=True, method="all_maps")
    of_each = [
        heatmap_loss(m, batch["joints_px"], batch["visible"], stride=4, sigma=1.5)
        for m in maps
    ]
    np.testing.assert_allclose(loss, of_each[0] + of_each[1], rtol=1e-5)
    assert maps[0].shape == (2, 16, 16, 15) and np.abs(maps[0] - maps[1]).max() > 0
    last = model.apply(variables, batch["depth"], train=False, r=1.0)
    frozen = model.apply(variables, batch["depth"], train=False, method="all_maps")
    np.testing.assert_allclose(last, frozen[-1], rtol=1e-4, atol=1e-6)


def test_background_of_a_pose_machine_is_what_no_joint_has(key):
    model = MODELS["cpm"](num_joints=15, width=0.03)
    batch = make_batch(64)
    variables = model.init(key, batch["depth"], train=True, r=1.0)
    # Outputs of zero: each stage loses the joints' Gaussians and the whole background.
    params = {
        name: jax.tree.map(jnp.zeros_like, layer) if "heatmaps" in name else layer
        for name, layer in variables["params"].items()
    }
    loss, _ = model.apply(
        {"params": params},
        batch,
        r=1.0,
        sigma=0.875,
        method="loss",
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    cells = (np.arange(8) + 0.5)[None, :, None]
    x, y = (np.asarray(batch["joints_px"])[:, None, :, i] / 8 for i in (0, 1))
    columns, rows = (np.exp(-((cells - v) ** 2) / (2 * 0.875**2)) for v in (x, y))
    visible = np.asarray(batch["visible"])
    joints = rows[:, :, None] * columns[:, None] * visible[:, None, None]
    background = 1 - joints.max(axis=-1)
    squares = (joints**2).sum() + (background**2).sum()
    np.testing.assert_allclose(loss, 6 * squares / (visible.sum() + 2), rtol=1e-4)


def test_centre_map_is_highest_in_the_middle_and_keeps_its_share_of_the_side():
    for cells in (8, 23):
        found = np.asarray(centre_map(cells))[0, ..., 0]
        far = (np.arange(cells) + 0.5 - cells / 2) / cells
        expected = np.exp(-(far[:, None] ** 2 + far**2) / (2 * (21 / 368) ** 2))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pose_machine_drops_out_in_training_alone(key):
    model = MODELS["cpm"](num_joints=3, width=0.03)
    depth = make_batch(64, 3)["depth"]
    variables = model.init(key, depth, train=True, r=1.0)
    first, second = (
        model.apply(variables, depth, train=True, r=1.0, rngs={"dropout": k})
        for k in jax.random.split(key)
    )
    assert np.abs(first - second).max() > 0
    model.apply(variables, depth, train=False, r=1.0)  # asks for no key


def test_regressor_sees_what_the_detector_says(key):
    model = MODELS["phr"](num_joints=3, width=0.03)
    batch = make_batch(64, 3)
    variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(
        key, batch["depth"]
    )
    apply = jax.jit(functools.partial(model.apply, train=False, method="both"))
    logits, maps = apply(variables, batch["depth"])
    assert logits.shape == maps.shape == (2, 64, 64, 3)
    moved = jax.tree.map(lambda x: x, variables)
    moved["params"]["detector_maps"]["bias"] += 5.0
    others = apply(moved, batch["depth"])
    np.testing.assert_allclose(others[0], logits + 5, rtol=1e-4, atol=1e-4)
    assert np.abs(others[1] - maps).max() > 0


@pytest.mark.parametrize(
    ("sigma", "least", "most"), [(1.25, 0.0, 0.65), (5.0, 0.95, 1.0)]
)
def test_part_heat_maps_are_what_the_last_layer_can_draw(sigma, least, most):
    """How much of true maps is left in the best space of as many numbers a cell."""
    rng = np.random.default_rng(0)
    joints_px = jnp.asarray(rng.uniform(8, 56, (4, 15, 2)), jnp.float32)
    visible = jnp.ones((4, 15), bool)
    maps = np.asarray(
        joints_to_heatmaps(joints_px, visible, side=64, stride=1, sigma=sigma)
    )
    model = MODELS["phr"](num_joints=15, width=0.03)
    fitted = model.drawn(maps)
    left = 1 - ((fitted - maps) ** 2).sum() / (maps**2).sum()
    assert least <= left <= most
    assert np.linalg.matrix_rank(_cells(fitted), tol=1e-3) <= 15
    np.testing.assert_allclose(model.drawn(fitted), fitted, atol=1e-3)
    assert MODELS["cmb"](num_joints=15).drawn(maps) is maps


def _cells(maps):
    """Each cell of 4 x 4 pixels as a row."""
    batch, side, _, joints = maps.shape
    squares = maps.reshape(batch, side // 4, 4, side // 4, 4, joints)
    return squares.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 16 * joints)


def test_mirroring_back_exchanges_sides_and_columns():
    maps = jnp.arange(2 * 4 * 4 * 15.0).reshape(2, 4, 4, 15)
    joints = jnp.arange(2 * 15 * 3.0).reshape(2, 15, 3)
    scores = jnp.arange(2 * 15.0).reshape(2, 15)
    outputs = Outputs(maps, depth_maps=2 * maps, joints=joints, scores=scores)
    mirrored = outputs.mirrored(BODY15.mirror)
    back, points = mirrored.heatmaps, mirrored.joints
    right, left = BODY15.joints.index("right_hand"), BODY15.joints.index("left_hand")
    np.testing.assert_array_equal(back[:, :, 1, right], maps[:, :, 2, left])
    np.testing.assert_array_equal(back[:, :, 0, 0], maps[:, :, 3, 0])
    np.testing.assert_array_equal(points[:, right, 0], -joints[:, left, 0])
    np.testing.assert_array_equal(points[:, right, 1:], joints[:, left, 1:])
    np.testing.assert_array_equal(mirrored.depth_maps, 2 * back)
    np.testing.assert_array_equal(mirrored.scores[:, right], scores[:, left])
    jax.tree.map(
        np.testing.assert_array_equal, mirrored.mirrored(BODY15.mirror), outputs
    )
    assert Outputs(maps).mirrored(BODY15.mirror).joints is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sh1", {"side": 96}, "multiple of 64, got"),
        ("sh1", {"head3d": "maps"}, "one of none, got 'maps'"),
        ("cpm", {"side": 60}, "multiple of 8, got"),
    ],
)
def test_input_or_head_that_a_network_lacks_is_refused(name, options, message):
    side = options.pop("side", 64)
    with pytest.raises(ValueError, match=message):
        abstract(name, 3, side, **options)
