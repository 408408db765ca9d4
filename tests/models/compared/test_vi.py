import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmbjax.models.compared.vi import (
    EXTENT,
    UNIT,
    ViewpointInvariant,
    embed,
    glimpse,
    transform,
    voxelise,
)
from tests.models.compared.test_ief import make_batch

IDENTITY = jnp.eye(3, 4)


def test_transformer_that_says_the_identity_changes_nothing(key):
    volume = jax.random.normal(key, (5, 6, 7))
    np.testing.assert_allclose(transform(volume, IDENTITY), volume, atol=1e-5)


def test_transformer_moves_and_mirrors_by_hand(key):
    volume = jax.random.normal(key, (5, 5, 5))
    # From -1 to 1 are 4 voxels: half a unit is one, along the second axis.
    moved = transform(volume, IDENTITY.at[1, 3].set(0.5))
    np.testing.assert_allclose(moved[:, :-1], volume[:, 1:], atol=1e-5)
    np.testing.assert_array_equal(moved[:, -1], 0)
    mirrored = transform(volume, IDENTITY.at[2, 2].set(-1.0))
    np.testing.assert_allclose(mirrored, volume[..., ::-1], atol=1e-5)
    between = transform(volume, IDENTITY.at[0, 3].set(0.25))
    np.testing.assert_allclose(between[:-1], (volume[1:] + volume[:-1]) / 2, atol=1e-5)


def test_glimpse_and_voxels_by_hand():
    # A step of 0.1 in depth between the columns 3 and 4 of 8, seen around the middle.
    depth = jnp.full((8, 8), 0.3).at[:, 4:].set(0.4)
    seen = glimpse(depth, jnp.array([0.0, 0.0, 0.35]), voxels=4)
    expected = np.repeat([[-0.05, -0.05, 0.05, 0.05]], 4, axis=0)
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    # Half a side further right it looks beyond the image; a hole is no surface either.
    right = glimpse(depth, jnp.array([0.5, 0.0, 0.35]), voxels=4)
    np.testing.assert_allclose(right[0], [0.05, 0.05, 2, 2], atol=1e-6)
    assert (glimpse(jnp.ones((8, 8)), jnp.zeros(3), voxels=4) == 2).all()
    np.testing.assert_array_equal(voxelise(jnp.full((4, 4), 2.0)), 0)
    # Four voxels of 0.125 have their centres at -0.1875, -0.0625, 0.0625 and 0.1875.
    assert EXTENT == 0.5
    volume = voxelise(jnp.full((4, 4), -0.03125))
    np.testing.assert_allclose(volume[1, 2], [0, 0.75, 0.25, 0], atol=1e-5)
    np.testing.assert_allclose(voxelise(jnp.full((4, 4), 0.9)), 0)


def test_two_surfaces_of_one_silhouette_are_told_apart():
    """A plate half a voxel before the middle, and one two voxels behind, by hand."""
    near, far = (voxelise(jnp.full((4, 4), z)) for z in (-0.0625, 0.1875))
    np.testing.assert_allclose(near.sum(-1), far.sum(-1))  # one silhouette
    # The four voxels' centres count from -1 to 1: the second and the last.
    np.testing.assert_allclose(embed(near)[..., 1], -1 / 3, atol=1e-5)
    np.testing.assert_allclose(embed(far)[..., 1], 1, atol=1e-5)
    np.testing.assert_array_equal(embed(jnp.zeros((4, 4, 4))), 0)


def test_a_glimpse_has_40_voxels_whatever_the_width():
    """The transformer's affine map is told by 3 x 3 cells behind four poolings by 2."""
    for width in (0.05, 0.25):
        model = ViewpointInvariant(num_joints=3, width=width, steps=1)
        init = functools.partial(model.init, train=True)
        like = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
        kernel = like["params"]["refinement"]["theta"]["kernel"]
        channels = max(1, round(32 * width))
        assert kernel.shape == ((40 // 16) ** 2 * channels, 12)


@functools.cache
def initialised(steps):
    model = ViewpointInvariant(num_joints=3, width=0.05, head3d="dense", steps=steps)
    init = jax.jit(functools.partial(model.init, train=True))
    return model, init(jax.random.key(0), jnp.zeros((4, 64, 64, 1)))


def test_later_steps_look_where_the_steps_before_them_say():
    model, variables = initialised(2)
    outputs = variables["params"]["refinement"]["outputs"]
    bias = jnp.arange(12.0)  # three joints' visibility, and three offsets of each
    said = {"kernel": jnp.zeros_like(outputs["kernel"]), "bias": bias}
    refinement = {**variables["params"]["refinement"], "outputs": said}
    params = {**variables["params"], "refinement": refinement}
    depth = jax.random.uniform(jax.random.key(3), (4, 64, 64, 1), minval=-1)
    refine = jax.jit(
        functools.partial(model.apply, train=True, method="_refine", mutable=True)
    )
    (last, (poses, offsets, _)), new = refine({**variables, "params": params}, depth)
    np.testing.assert_allclose(offsets[0, 0], bias[3:].reshape(3, 3), atol=1e-5)
    np.testing.assert_allclose(poses[1] - poses[0], UNIT * offsets[0], atol=1e-5)
    np.testing.assert_allclose(last - poses[1], UNIT * offsets[1], atol=1e-5)
    # Other glimpses have other statistics.
    first, second = new["batch_stats"]["refinement"]["BatchNorm_0"]["mean"]
    assert np.abs(first - second).max() > 1e-3


def test_steps_share_their_weights():
    _, variables = initialised(2)
    shapes = functools.partial(jax.tree.map, lambda x: x.shape)
    model = ViewpointInvariant(num_joints=3, width=0.05, head3d="dense", steps=5)
    init = functools.partial(model.init, train=True)
    five = jax.eval_shape(init, jax.random.key(0), jnp.zeros((4, 64, 64, 1)))
    assert shapes(five["params"]) == shapes(variables["params"])


def test_loss_of_a_silent_network_by_hand():
    model, variables = initialised(2)
    batch = make_batch()
    params = jax.tree.map(lambda x: x, variables["params"])
    silent = jax.tree.map(jnp.zeros_like, params["refinement"]["outputs"])
    params["refinement"]["outputs"] = silent

    @jax.jit
    def loss(params):
        return model.apply(
            {**variables, "params": params},
            batch,
            r=1.0,
            sigma=1.0,
            method="loss",
            mutable=["batch_stats"],
        )

    (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    # The pose stays the mean one: twice the offsets, and twice log 2 for visibility.
    mean = np.asarray(new["batch_stats"]["MeanPose_0"]["mean"])
    xy = np.asarray(batch["joints_px"]) / 64 - 0.5
    label = np.concatenate([xy, np.asarray(batch["joints_z"])[..., None]], axis=-1)
    visible = np.asarray(batch["visible"])
    aims = np.clip(label - mean, -EXTENT / 2, EXTENT / 2) / UNIT
    assert np.abs((label - mean)[2, 0]).max() > EXTENT / 2 and visible[2, 0]
    squares = np.nansum((aims**2)[visible])
    expected = 2 * squares / visible.sum() + 2 * np.log(2)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Each step has statistics of its own, here of the same glimpses.
    first, second = new["batch_stats"]["refinement"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(first, second, rtol=1e-5)
    assert (first != 0).any()
