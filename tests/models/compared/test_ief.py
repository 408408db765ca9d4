import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.table5 import multiply_adds
from cmbjax.models.compared import ief
from cmbjax.models.compared.ief import (
    IEF,
    LARGEST,
    STEPS,
    bounded,
    path,
    render,
)
from cmbjax.models.compared.regression import MeanPose
from cmbjax.models.losses import batch_targets
from cmbjax.models.network import Outputs

SIDE, JOINTS = 64, 3
LIMIT = 20 / 224


def make_batch(size=4, seed=0):
    rng = np.random.default_rng(seed)
    joints_z = rng.normal(0, 0.3, (size, JOINTS)).astype(np.float32)
    joints_z[0, 1] = np.nan
    visible = np.ones((size, JOINTS), bool)
    visible[1, 2] = False
    joints_px = rng.uniform(4, SIDE - 4, (size, JOINTS, 2)).astype(np.float32)
    joints_px[2, 0] = -40, 90  # outside the crop
    batch = {
        "depth": rng.uniform(-1, 1, (size, SIDE, SIDE, 1)).astype(np.float32),
        "joints_px": joints_px,
        "joints_z": joints_z,
        "visible": visible,
    }
    return jax.tree.map(jnp.array, batch)


@pytest.fixture
def initialised(monkeypatch):
    """A network whose trunk is cut short, which compiles sooner."""
    monkeypatch.setattr(ief, "GOOGLENET", ((ief.GOOGLENET[0][0],),))
    model = IEF(num_joints=JOINTS, width=0.05, head3d="dense", norm=False)
    init = jax.jit(functools.partial(model.init, train=True))
    return model, init(jax.random.key(0), jnp.zeros((4, SIDE, SIDE, 1)))


def test_parameters_and_complexity_are_those_of_the_original_on_one_channel():
    model = IEF(num_joints=15, norm=False)
    depth = jax.ShapeDtypeStruct((1, 224, 224, 1), jnp.float32)
    init = functools.partial(model.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), depth)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    # GoogLeNet has 6,998,552 parameters: without 1000 classes, with 17 channels for 3,
    # with 30 outputs.
    assert count == 6_998_552 - 1000 * 1025 + (17 - 3) * 49 * 64 + 30 * 1025
    apply = functools.partial(model.apply, train=False)
    counted = 2e-9 * multiply_adds(apply, variables, depth)
    assert counted == pytest.approx(17.1, abs=0.05)


def test_rendered_joint_by_hand():
    # A pixel is 56 of the original's: the centre of (row 2, column 0) lies at (-0.375,
    # 0.125), and those beside it exp(-0.001 56^2) lower.
    found = render(jnp.array([[[-0.375, 0.125]]]), side=4)[0, ..., 0]
    w = np.exp(-0.001 * 56**2)
    np.testing.assert_allclose(found[2, 0], 50 / 128, rtol=1e-6)
    np.testing.assert_allclose(found[1, 0], (100 * w - 50) / 128, rtol=1e-5)
    np.testing.assert_allclose(found[3, 1], (100 * w**2 - 50) / 128, rtol=1e-5)
    np.testing.assert_allclose(found[2, 2], (100 * w**4 - 50) / 128, rtol=1e-5)


def test_bounded_step_keeps_its_direction_and_depth_is_bounded_apart():
    steps = jnp.array([[[3.0, 4.0, -2.0], [0.3, -0.4, 0.5], [0.0, 0.0, 0.0]]])
    expected = [[[0.6, 0.8, -1.0], [0.3, -0.4, 0.5], [0, 0, 0]]]
    np.testing.assert_allclose(bounded(steps), expected, rtol=1e-6)
    huge = bounded(jnp.array([[[1e30, 0.0, jnp.inf]]]))
    np.testing.assert_allclose(huge, [[[1, 0, 1]]], rtol=1e-6)


def test_path_to_the_label_by_hand():
    # Joint 0 is 0.15 away to the lower left (3, 4), and 2.5 steps behind.
    label = jnp.array([[[-0.09, 0.12, 0.5], [0.05, 0.0, 0.0]]])
    largest = jnp.array(LARGEST).reshape(1, 1, 3)
    poses, steps = path(jnp.zeros((1, 2, 3)), label, largest)
    rest = (0.15 - LIMIT) / LIMIT  # of the second step
    expected = np.zeros((STEPS, 1, 2, 3))
    expected[0, 0, 0] = -0.6, 0.8, 1
    expected[1, 0, 0] = -0.6 * rest, 0.8 * rest, 1
    expected[2, 0, 0, 2] = 0.5
    expected[0, 0, 1, 0] = 0.05 / LIMIT
    np.testing.assert_allclose(steps, expected, atol=1e-5)
    np.testing.assert_allclose(poses[2][0, 1], label[0, 1], atol=1e-6)


def test_no_joint_moves_further_than_four_steps_whatever_the_weights(initialised):
    model, variables = initialised
    large = jax.tree.map(lambda x: 5 * x + 0.5, variables["params"])
    apply = jax.jit(functools.partial(model.apply, train=False))
    joints = apply({**variables, "params": large}, make_batch()["depth"])
    moved = np.asarray(joints.joints)  # from the mean pose, which is 0
    far = np.linalg.norm(moved[..., :2], axis=-1)
    assert far.max() <= STEPS * LIMIT * (1 + 1e-5) and far.max() > 0.9 * STEPS * LIMIT
    assert np.abs(moved[..., 2]).max() <= STEPS * LARGEST[2] * (1 + 1e-5)


def test_mean_pose_is_the_mean_of_all_known_labels():
    pose = MeanPose(num_joints=2)
    nothing = jnp.ones((1, 2, 3), bool)
    variables = pose.init(jax.random.key(0), jnp.ones((1, 2, 3)), nothing)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    batches = [
        ([[[1.0, 2, 3], [9, 9, 9]], [[3, 4, 9], [9, 9, 9]]], [[1, 1, 1], [1, 1, 0]]),
        ([[[8.0, 0, 7], [9, 9, 9]]], [[1, 1, 1]]),
    ]
    for joints, known in batches:
        of_second = jnp.zeros((len(joints), 1, 3), bool)  # has no label
        known = jnp.concatenate([jnp.array(known, bool)[:, None], of_second], axis=1)
        mean, variables = pose.apply(
            variables, jnp.array(joints), known, mutable=["batch_stats"]
        )
    np.testing.assert_allclose(mean, [[4, 2, 5], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(pose.apply(variables), mean)


def test_loss_of_a_silent_network_is_that_of_the_path_itself(initialised):
    model, variables = initialised
    batch = make_batch()
    params = {
        **variables["params"],
        "steps": jax.tree.map(jnp.zeros_like, variables["params"]["steps"]),
    }

    def loss(params):
        value, new = model.apply(
            {**variables, "params": params},
            batch,
            r=1.0,
            sigma=1.0,
            method="loss",
            mutable=["batch_stats"],
        )
        return value, new

    (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    label, known = map(np.asarray, batch_targets(batch))
    mean = np.nanmean(np.where(known, label, np.nan), axis=0)
    np.testing.assert_allclose(
        new["batch_stats"]["mean_pose"]["mean"], mean, rtol=1e-4, atol=1e-6
    )
    # The squared step of each joint, as its distance shrinks from step to step.
    total = 0.0
    for sample, joint in np.ndindex(known.shape[:2]):
        if not known[sample, joint, 0]:
            continue
        far = label[sample, joint] - mean[joint]
        plane, deep = np.linalg.norm(far[:2]) / LIMIT, abs(far[2]) / LARGEST[2]
        for t in range(STEPS):
            total += np.clip(plane - t, 0, 1) ** 2
            total += known[sample, joint, 2] * np.clip(deep - t, 0, 1) ** 2
    np.testing.assert_allclose(value, total / (STEPS * known.sum()), rtol=1e-4)


def test_decoded_joints_are_pixels_and_have_depth_where_it_is_known():
    flat = np.array([[[-0.5, 0.25], [0.0, 0.5]]], np.float32)
    decode = functools.partial(IEF(num_joints=2).decode, side=64, decode="dark")
    decoded = decode(Outputs(joints=flat))
    np.testing.assert_array_equal(decoded.joints_px, [[[0, 48], [32, 64]]])
    assert decoded.joints is None and (decoded.scores == 1).all()
    deep = np.concatenate([flat, [[[0.1], [0.2]]]], axis=-1)
    np.testing.assert_array_equal(decode(Outputs(joints=deep)).joints, deep)
