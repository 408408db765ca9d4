import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmbjax.models.cnn3d import CNN3D, mean_distance


def test_parameters_of_the_sketch():
    model = CNN3D(num_joints=15, head3d="dense", norm=False)
    depth = jax.ShapeDtypeStruct((1, 128, 128, 5), jnp.float32)
    init = functools.partial(model.init, train=True)
    variables = jax.eval_shape(init, jax.random.key(0), depth)
    convolutions = (75 + 1) * 32 + (75 * 32 + 1) * 64 + (27 * 64 + 1) * 128
    convolutions += (27 * 128 + 1) * 128 + (27 * 128 + 1) * 256
    dense = (5 * 16 * 256 + 1) * 1024 + 1025 * 1024 + 1025 * 5 * 15 * 3
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == convolutions + dense


def initialised(key):
    model = CNN3D(num_joints=3, width=0.05)
    return model, model.init(key, jnp.zeros((2, 32, 32, 5)), train=True)


def test_one_frame_is_a_clip_in_which_nothing_moves(key):
    model, variables = initialised(key)
    still = jax.random.normal(key, (2, 32, 32, 1))
    apply = functools.partial(model.apply, variables, train=False)
    clip = jnp.repeat(still, 5, axis=3)
    np.testing.assert_array_equal(apply(still), apply(clip))
    moved = clip.at[..., 0].add(1.0)
    assert np.abs(apply(moved) - apply(clip)).max() > 1e-5


def test_mean_distance_by_hand_where_depth_or_joints_are_unknown():
    joints = jnp.zeros((1, 4, 3))
    label = jnp.array([[[0.3, 0.4, 1.2], [0.3, 0.4, 0.0], [9, 9, 9], [0, 0, 0]]])
    known = jnp.array([[[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]]], bool)
    # 1.3 in space, 0.5 in the plane, hidden, and exactly there.
    value, gradient = jax.value_and_grad(mean_distance)(joints, label, known)
    np.testing.assert_allclose(value, (1.3 + 0.5 + 0) / 3, rtol=1e-6)
    assert np.isfinite(gradient).all() and (gradient[0, 2] == 0).all()
    flat = mean_distance(joints[..., :2], label, known)
    np.testing.assert_allclose(flat, (0.5 + 0.5 + 0) / 3, rtol=1e-6)


def test_loss_is_over_all_frames_and_the_middle_one_is_decoded(key):
    model, variables = initialised(key)
    params = {
        **variables["params"],
        "joints": jax.tree.map(jnp.zeros_like, variables["params"]["joints"]),
    }
    # Every joint is found in the middle; in frame t it is 3 t and 4 t pixels away.
    far = jnp.arange(5.0).reshape(1, 5, 1, 1) * jnp.array([3.0, 4.0]).reshape(
        1, 1, 1, 2
    )
    clip = jnp.broadcast_to(16 + far, (2, 5, 3, 2))
    batch = {
        "depth": jnp.zeros((2, 32, 32, 5)),
        "joints_px": clip[:, 2],
        "joints_z": jnp.full((2, 3), jnp.nan),
        "visible": jnp.ones((2, 3), bool),
    }
    of_clip = {
        "clip_joints_px": clip,
        "clip_joints_z": jnp.full((2, 5, 3), jnp.nan),
        "clip_visible": jnp.ones((2, 5, 3), bool).at[:, 4].set(False),
    }

    def loss(batch):
        return model.apply(
            {**variables, "params": params},
            batch,
            r=1.0,
            sigma=1.0,
            method="loss",
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )[0]

    np.testing.assert_allclose(loss(batch | of_clip), 5 * (0 + 1 + 2 + 3) / 4 / 32)
    np.testing.assert_allclose(loss(batch), 10 / 32)  # a still
    outputs = np.arange(1 * 5 * 3 * 2).reshape(1, 5, 3, 2) / 100
    found = model.decode(outputs, side=32, decode="dark")
    np.testing.assert_allclose(found.joints_px, (outputs[:, 2] + 0.5) * 32)
