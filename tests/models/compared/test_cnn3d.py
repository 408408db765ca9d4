import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmbjax.models import MODELS, Outputs

SIDE = 32


@functools.cache
def make(head3d="none"):
    model = MODELS["cnn3d"](num_joints=2, width=0.05, head3d=head3d)
    key = jax.random.key(0, impl="rbg")  # compiles sooner
    init = jax.jit(functools.partial(model.init, train=True, r=1.0))
    return model, init(key, jnp.zeros((1, SIDE, SIDE, 5)))


def noise(batch, frames):
    depth = np.random.default_rng(1).uniform(-1, 1, (batch, SIDE, SIDE, frames))
    return jnp.array(depth, jnp.float32)


@functools.partial(jax.jit, static_argnames="model")
def loss_and_gradient(model, variables, batch):
    """Of the loss, to the biases of the last layer, where its weights are zero."""
    joints = jax.tree.map(jnp.zeros_like, variables["params"]["joints"])

    def loss(bias):
        params = {**variables["params"], "joints": {**joints, "bias": bias}}
        return model.apply(
            {**variables, "params": params},
            batch,
            r=1.0,
            sigma=1.0,
            method="loss",
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )[0]

    return jax.value_and_grad(loss)(joints["bias"])


# By hand: 32 (75 + 1) + 64 (32 75 + 1) + 128 (64 27 + 1) + 128 (128 27 + 1)
# + 256 (128 27 + 1), then 20480 to 1024 to 1024 to 5 frames of 15 joints in 3-D.
@pytest.mark.parametrize(("norm", "affine"), [(False, 0), (True, 2 * 608)])
def test_parameters_at_15_joints_and_a_side_of_128(norm, affine):
    model = MODELS["cnn3d"](num_joints=15, head3d="dense", norm=norm)
    depth = jax.ShapeDtypeStruct((1, 128, 128, 5), jnp.float32)
    init = functools.partial(model.init, train=True, r=1.0)
    variables = jax.eval_shape(init, jax.random.key(0), depth)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == 23_957_665 + affine
    assert 23.95e6 < count < 24.05e6


def test_still_is_a_clip_that_stands_still_and_a_clip_is_not():
    (model, variables), depth = make(), noise(2, 5)
    apply = jax.jit(
        functools.partial(
            model.apply, variables, train=False, method="joints_of_frames"
        )
    )
    still = apply(depth[..., 2:3])
    np.testing.assert_array_equal(still, apply(jnp.repeat(depth[..., 2:3], 5, axis=3)))
    assert np.abs(still - apply(depth)).max() > 1e-3
    assert np.abs(still[:, 0] - still[:, 4]).max() > 1e-3
    # Time has a direction, and each frame counts.
    assert np.abs(apply(depth[..., ::-1]) - apply(depth)).max() > 1e-3
    for frame in range(5):
        assert np.abs(apply(depth.at[..., frame].set(1.0)) - apply(depth)).max() > 1e-3


# Distances from the centre of a crop 32 pixels wide: 0.5 for the joint at (0.3, 0.4) of
# unknown depth, 0.3 for the one at (0.2, 0.1, 0.2). Of the clip's, the first is visible
# throughout, the second in one frame alone, and is NaN in another.
@pytest.mark.parametrize(
    ("head3d", "clip", "expected"),
    [
        ("dense", True, (5 * 0.5 + 0.3) / 6),
        ("dense", False, (0.5 + 0.3) / 2),
        ("none", True, (5 * 0.5 + np.sqrt(0.05)) / 6),
    ],
)
def test_loss_by_hand_where_all_joints_are_predicted_at_the_centre(
    head3d, clip, expected
):
    model, variables = make(head3d)
    depth = noise(1, 5 if clip else 1)
    joints_px = jnp.array([[[25.6, 28.8], [22.4, 19.2]]])
    joints_z = jnp.array([[jnp.nan, 0.2]])
    visible = jnp.array([[True, not clip]])
    batch = {"joints_px": joints_px, "joints_z": joints_z, "visible": visible}
    if clip:
        batch |= {
            f"frames_{k}": jnp.repeat(v[:, None], 5, axis=1) for k, v in batch.items()
        }
        batch["frames_visible"] = batch["frames_visible"].at[0, 3, 1].set(True)
        batch["frames_joints_px"] = batch["frames_joints_px"].at[0, 1, 1].set(jnp.nan)

    value, gradient = loss_and_gradient(model, variables, {"depth": depth, **batch})
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    bias = np.asarray(gradient).reshape(5, 2, -1)
    frames = np.array([0, 1, 2, 4])
    if clip:  # an invisible joint, and one of unknown depth, ask for nothing
        np.testing.assert_array_equal(bias[frames, 1], 0)
        np.testing.assert_allclose(
            bias[:, 0, :2], [[-0.6 / 6, -0.8 / 6]] * 5, rtol=1e-5
        )
    np.testing.assert_array_equal(bias[:, 0, 2:], 0)


def test_joint_that_is_met_exactly_has_a_gradient_of_zero():
    model, variables = make("dense")
    batch = {
        "depth": noise(1, 1),
        "joints_px": jnp.full((1, 2, 2), 16.0),
        "joints_z": jnp.zeros((1, 2)),
        "visible": jnp.ones((1, 2), bool),
    }

    _, gradient = loss_and_gradient(model, variables, batch)
    np.testing.assert_array_equal(gradient, 0)


def test_frame_in_the_middle_is_decoded():
    (model, variables), depth = make("dense"), noise(2, 5)
    apply = functools.partial(model.apply, variables, depth, train=False)
    outputs = apply()
    frames = apply(method="joints_of_frames")
    np.testing.assert_array_equal(outputs.joints, frames[:, 2])
    assert np.abs(frames[:, 2] - frames[:, 3]).max() > 1e-3 and outputs.heatmaps is None


def test_regressed_joints_are_decoded_to_pixels():
    model = MODELS["cnn3d"](num_joints=2)
    joints = np.array([[[0.25, -0.5, 0.1], [0.0, 0.5, -0.3]]], np.float32)
    decoded = model.decode(Outputs(joints=joints), side=32, decode="dark")
    np.testing.assert_array_equal(decoded.joints_px, [[[24, 0], [16, 32]]])
    np.testing.assert_array_equal(decoded.joints, joints)
    assert (decoded.scores == 1).all()
    flat = Outputs(joints=jnp.asarray(joints[..., :2]), scores=jnp.full((1, 2), 0.5))
    decoded = model.decode(flat, side=32, decode="dark")
    np.testing.assert_array_equal(decoded.joints_px, [[[24, 0], [16, 32]]])
    assert decoded.joints is None and (decoded.scores == 0.5).all()


def test_clip_is_learnt_by_heart(key):
    model, variables = make()
    rng = np.random.default_rng(0)
    joints_px = jnp.array(rng.uniform(4, 28, (4, 5, 2, 2)), jnp.float32)
    batch = {
        "depth": noise(4, 5),
        "frames_joints_px": joints_px,
        "frames_joints_z": jnp.full((4, 5, 2), jnp.nan),
        "frames_visible": jnp.ones((4, 5, 2), bool),
    }
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, state, key):
        def loss(params):
            return model.apply(
                {**variables, "params": params},
                batch,
                r=1.0,
                sigma=1.0,
                method="loss",
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, **new}, state, value

    state, losses = optimizer.init(variables["params"]), []
    for number in range(40):
        variables, state, value = step(
            variables, state, jax.random.fold_in(key, number)
        )
        losses.append(float(value))
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
