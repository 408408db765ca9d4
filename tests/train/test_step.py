import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cmbjax.evaluate import predictions
from cmbjax.models import MODELS, ablations, losses
from cmbjax.models.network import Network, Outputs
from cmbjax.train import step as training
from tests import fabricate

SIDE, JOINTS, BATCH = 32, 3, 4
# Whose steps take long to compile: their parts are in others, and test_overfit.py has
# all but sh4 and sh8, which are sh2 with more stacks.
HEAVY = {"sh2", "sh4", "sh8", "cpm_vgg", "phr", "ief", "vi"}
OPTIMIZER = optax.adam(3e-3)


def make_batch(seed=0, size=BATCH, side=SIDE):
    rng = np.random.default_rng(seed)
    return {
        "depth": rng.uniform(-1, 1, (size, side, side, 1)).astype(np.float32),
        "joints_px": rng.uniform(4, side - 4, (size, JOINTS, 2)).astype(np.float32),
        "joints_z": rng.normal(0, 0.3, (size, JOINTS)).astype(np.float32),
        "visible": rng.random((size, JOINTS)) < 0.8,
    }


def make(name="cmb", **options):
    model = MODELS[name](num_joints=JOINTS, width=0.25, **options)
    side = max(SIDE, model.divisor)
    state = fabricate.state(model, OPTIMIZER, side=side, batch_size=BATCH)
    return model, state, bound(training.train_step, model)


def bound(train_step, model):
    def step(state, batch, **options):
        given = {"model": model, "optimizer": OPTIMIZER, "sigma": 1.0, "r": 1.0}
        return train_step(state, batch, jax.random.key(0), **(given | options))

    return step


def test_loss_by_hand():
    heatmaps = jnp.zeros((1, 4, 4, 3)).at[0, 1, 2, 0].set(1.0)
    # Joint 0 is at the centre of cell (row 1, column 2), joint 1 far outside the
    # input, joint 2 not labelled. A Gaussian this narrow fills one cell alone.
    joints = jnp.array([[[5.0, 3.0], [90.0, 90.0], [1.0, 1.0]]])
    visible = jnp.array([[True, True, False]])
    loss = functools.partial(losses.heatmap_loss, stride=2, sigma=0.1)
    np.testing.assert_allclose(loss(heatmaps, joints, visible), 0.0, atol=1e-6)
    # 0.5 too low at the joint, 0.5 too high beside it; on the absent and on the
    # unlabelled joint's map 3: 0.25 + 0.25 + 9, over two visible joints.
    wrong = heatmaps.at[0, 1, 2, 0].set(0.5).at[0, 0, 0, 0].set(0.5)
    wrong = wrong.at[0, 3, 3, 1].set(3.0).at[0, 3, 3, 2].set(3.0)
    np.testing.assert_allclose(loss(wrong, joints, visible), 9.5 / 2, rtol=1e-6)


def test_joints_loss_by_hand():
    batch = {
        "depth": jnp.zeros((1, 10, 10, 1)),
        "joints_px": jnp.array([[[5.0, 7.5], [0.0, 0.0]]]),
        "joints_z": jnp.array([[0.5, jnp.nan]]),
        "visible": jnp.array([[True, True]]),
    }
    # Joint 0 is at (0, 0.25, 0.5); joint 1 at (-0.5, -0.5), its depth unknown.
    joints = jnp.array([[[0.1, 0.25, 0.0], [-0.5, -0.7, 9.0]]])
    loss = losses.joints_loss(joints, batch)
    np.testing.assert_allclose(loss, (0.1 + 0.5 + 0.2) / 5, rtol=1e-5)


def test_depth_maps_loss_by_hand():
    batch = {
        "joints_px": jnp.array([[[3.0, 5.0], [3.0, 5.0], [3.0, 5.0]]]),
        "joints_z": jnp.array([[0.5, jnp.nan, 0.25]]),
        "visible": jnp.array([[True, True, False]]),
    }
    # The joint lies in the middle of the cell in row 2, column 1 (2 pixels a cell). So
    # narrow a Gaussian weighs it with 1 and its four neighbours with w.
    sigma = 0.5
    w = np.exp(-1 / (2 * sigma**2))
    maps = jnp.full((1, 4, 4, 3), 0.5).at[0, 2, 1, 0].set(0.8).at[0, 1, 1, 0].set(0.1)
    maps = maps.at[..., 1:].set(99.0)  # of unknown depth, and hidden
    loss = losses.depth_maps_loss(maps, batch, stride=2, sigma=sigma)
    weights = np.exp(
        -((np.arange(4)[:, None] - 2) ** 2 + (np.arange(4) - 1) ** 2) / (2 * sigma**2)
    )
    expected = (0.3 + 0.4 * w) / weights.sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_r_is_one_until_the_switch_and_three_from_there():
    assert [float(training.r_at(step, 10)) for step in (0, 9, 10, 11)] == [1, 1, 3, 3]


def test_predictions_use_the_r_of_the_last_step_that_was_trained():
    _, state, _ = make()
    known = [
        float(training.r_for_prediction(state._replace(step=jnp.int32(step)), 10))
        for step in (0, 1, 10, 11)
    ]
    assert known == [1, 1, 1, 3]


@pytest.mark.parametrize("name", sorted(set(MODELS) - HEAVY))
def test_every_model_learns_one_batch(name):
    ours = name.startswith(("cmb", "conv", "memory"))
    model, state, step = make(name, **({"trunk_norm": True} if ours else {}))
    batch = make_batch(side=max(SIDE, model.divisor))
    if model.resets_memory:
        batch["starts"] = np.ones(BATCH, bool)
    course = []
    for _ in range(40):
        state, loss = step(state, batch)
        course.append(float(loss))
    assert course[-1] < 0.5 * course[0]


@pytest.mark.parametrize("head3d", ["dense", "maps"])
def test_head_learns_one_batch_and_survives_unknown_depth(head3d):
    _, state, step = make(trunk_norm=True, head3d=head3d)
    batch = make_batch()
    batch["joints_z"][0] = np.nan
    first = None
    for _ in range(40):
        state, loss = step(state, batch)
        first = float(loss) if first is None else first
    assert float(loss) < 0.5 * first


def test_memory_carries_over_from_batch_to_batch():
    # Two runs see the same second batch after different first ones, with parameters
    # that do not move: only the memory can tell them apart.
    _, state, step = make()
    frozen = functools.partial(step, optimizer=optax.sgd(0.0), r=3.0)
    state = state._replace(opt_state=optax.sgd(0.0).init(state.params))
    losses = []
    for seed in (1, 2):
        after, _ = frozen(jax.tree.map(jnp.copy, state), make_batch(seed))
        losses.append(float(frozen(after, make_batch(3))[1]))
    assert losses[0] != losses[1]


def test_parts_of_a_batch_pass_through_the_memory_one_after_the_other():
    model, state, _ = make()
    batch = make_batch()
    step = bound(training.train_step_of_study, model)
    frozen = functools.partial(step, optimizer=optax.sgd(0.0), r=3.0)
    state = state._replace(opt_state=optax.sgd(0.0).init(state.params))
    after, loss = frozen(jax.tree.map(jnp.copy, state), batch, memory_steps=2)
    by_hand, losses = state, []
    for part in (0, 1):
        half = {name: value[part::2] for name, value in batch.items()}
        by_hand, one = frozen(jax.tree.map(jnp.copy, by_hand), half)
        losses.append(float(one))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    for a, b in zip(
        *(jax.tree.leaves(s.memory) for s in (after, by_hand)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_the_part_before_where_it_may():
    """The second half alone has labels: through the memory, and through nothing else,
    can the first half's pass have to do with the parameters' gradient."""
    batch = make_batch()
    batch["visible"][0::2], batch["visible"][1::2] = False, True
    other = {name: value.copy() for name, value in batch.items()}
    other["depth"][0::2] = make_batch(7)["depth"][0::2]
    after = {}
    for block in (ablations.ConvolutionalMemoryBlock, ablations.AttachedMemory):
        model, state, _ = make(block=block)
        sgd = optax.sgd(1.0)
        state = state._replace(opt_state=sgd.init(state.params))
        step = bound(training.train_step_of_study, model)
        step = functools.partial(step, optimizer=sgd, r=3.0, memory_steps=2)
        after[block], loss = step(jax.tree.map(jnp.copy, state), batch)
        changed, other_loss = step(jax.tree.map(jnp.copy, state), other)
        assert loss != other_loss  # the first half is seen in the memory
    detached, attached = after.values()
    for a, b in zip(
        *(jax.tree.leaves(s.memory) for s in (detached, attached)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # the same forward pass
    gaps = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), detached.params, attached.params
    )
    assert max(jax.tree.leaves(gaps)) > 1e-4


def test_a_scan_takes_the_memory_of_all_its_rounds():
    def bytes_of(length):
        def rounds(x):
            return jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=length)

        return sum(training._bytes_of(jax.make_jaxpr(rounds)(jnp.zeros(10)).jaxpr))

    # Of each round the sine of ten numbers.
    assert bytes_of(6) - bytes_of(3) == 3 * 40


def test_streams_of_a_recurrence_go_on_until_their_sequence_ends():
    _, state, step = make("convgru")
    frozen = functools.partial(step, optimizer=optax.sgd(0.0))
    state = state._replace(opt_state=optax.sgd(0.0).init(state.params))
    state, _ = frozen(state, {**make_batch(1), "starts": np.ones(BATCH, bool)})

    def loss(starts):
        batch = {**make_batch(2), "starts": np.array(starts)}
        return float(frozen(jax.tree.map(jnp.copy, state), batch)[1])

    empty = jax.tree.map(jnp.copy, state)
    empty = empty._replace(memory=jax.tree.map(jnp.zeros_like, state.memory))
    anew = frozen(empty, {**make_batch(2), "starts": np.zeros(BATCH, bool)})
    assert loss([True] * 4) == pytest.approx(float(anew[1]), rel=1e-5)
    assert len({loss([True] * n + [False] * (4 - n)) for n in range(5)}) == 5


def test_memory_lr_moves_the_memory_against_its_gradient():
    model, state, _ = make(block=ablations.OptimizedMemory)
    step = bound(training.train_step_of_study, model)
    after = {
        rate: step(jax.tree.map(jnp.copy, state), make_batch(), memory_lr=rate)[0]
        for rate in (0.0, 1e-3, 2e-3)
    }
    memories = {rate: jax.tree.leaves(s.memory) for rate, s in after.items()}
    once, twice = (
        [
            np.asarray(m - m0)
            for m, m0 in zip(memories[rate], memories[0.0], strict=True)
        ]
        for rate in (1e-3, 2e-3)
    )
    for one, two in zip(once, twice, strict=True):
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(two, 2 * one, rtol=1e-2, atol=1e-6)
    # The parameters' gradients are the same, of which Adam holds a tenth. What it makes
    # of one that is nearly zero depends on rounding.
    for a, b in zip(
        *(jax.tree.leaves(after[rate].opt_state[0].mu) for rate in (0.0, 1e-3)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_a_shared_memory_does_not_depend_on_the_order_in_a_batch():
    model, state, step = make(memory_mode="shared")
    state, _ = step(state, make_batch())
    depth, real = make_batch(5)["depth"], np.ones(3, bool)
    _, memory = predictions.apply_rolling(
        state.variables, depth[:3], real, model=model, r=3.0
    )
    _, again = predictions.apply_rolling(
        state.variables, depth[2::-1], real, model=model, r=3.0
    )
    for a, b in zip(*map(jax.tree.leaves, (memory, again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_rolling_prediction_ignores_what_fills_a_batch_up():
    model, state, step = make(memory_mode="per_sample")
    state, _ = step(state, make_batch())
    depth = make_batch(5)["depth"]
    real = np.array([True, True, True, False])
    rolling = functools.partial(
        predictions.apply_rolling, state.variables, model=model, r=3.0
    )
    outputs, memory = rolling(depth, real)
    filled = np.where(real[:, None, None, None], depth, 9)
    of_filled, memory_of_filled = rolling(filled, real)
    np.testing.assert_allclose(
        outputs.heatmaps[:3], of_filled.heatmaps[:3], rtol=1e-5, atol=1e-6
    )
    old = jax.tree.leaves(state.memory)
    leaves = zip(*map(jax.tree.leaves, (memory, memory_of_filled)), old, strict=True)
    for a, b, before in leaves:
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(a[3], before[3])
        assert (a[:3] != before[:3]).any()


def test_dropout_depends_on_the_key_of_the_run_and_on_the_step():
    class Dropping(Network, kw_only=True):
        @nn.compact
        def outputs(self, depth, *, train, r):
            x = nn.Dropout(0.5, deterministic=self.is_initializing())(depth)
            return Outputs(nn.Conv(self.num_joints, (2, 2), strides=2)(x))

    model = Dropping(num_joints=JOINTS)
    state = training.create_state(
        jax.random.key(0), model, OPTIMIZER, side=SIDE, batch_size=BATCH
    )

    def loss(key, step):
        at_step = jax.tree.map(jnp.copy, state)._replace(step=jnp.int32(step))
        given = {"model": model, "optimizer": OPTIMIZER, "sigma": 1.0, "r": 1.0}
        key = jax.random.key(key)
        return float(training.train_step(at_step, make_batch(), key, **given)[1])

    assert loss(0, 0) == loss(0, 0)
    assert len({loss(0, 0), loss(1, 0), loss(0, 1)}) == 3
