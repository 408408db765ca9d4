import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmbjax.models import MODELS, Outputs
from cmbjax.models.compared import ieml
from cmbjax.skeletons import SKELETONS
from cmbjax.train.config import TrainConfig

SIDE, JOINTS = 64, 3
TREE = (1, -1, 1, 2)  # the root is neither the first joint nor a leaf
STATES = 4  # two proposals with two templates each


def random_scores(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    unary = rng.normal(size=(batch, len(TREE), STATES)).astype(np.float32)
    pairwise = rng.normal(size=(batch, len(TREE), STATES, STATES)).astype(np.float32)
    return jnp.array(unary), jnp.array(pairwise)


def all_choices(unary, pairwise, parents):
    """Every choice of states, and its score."""
    unary, pairwise = np.asarray(unary), np.asarray(pairwise)
    states = range(unary.shape[1])
    choices = np.array(list(itertools.product(states, repeat=len(parents))))
    scores = np.array(
        [
            sum(unary[j, c[j]] for j in range(len(parents)))
            + sum(pairwise[j, c[j], c[p]] for j, p in enumerate(parents) if p >= 0)
            for c in choices
        ]
    )
    return choices, scores


def test_best_states_are_those_of_an_enumeration_of_all():
    unary, pairwise = random_scores()
    best = ieml.best_states(unary, pairwise, TREE)
    highest = ieml.beliefs(unary, pairwise, TREE, temperature=0.0)[:, 1].max(axis=1)
    for sample in range(len(unary)):
        choices, scores = all_choices(unary[sample], pairwise[sample], TREE)
        np.testing.assert_array_equal(best[sample], choices[scores.argmax()])
        np.testing.assert_allclose(highest[sample], scores.max(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1e-3])
def test_soft_maximum_is_that_of_all_choices_and_tends_to_the_maximum(temperature):
    unary, pairwise = random_scores(1)
    found = ieml.beliefs(unary, pairwise, TREE, temperature=temperature)
    total = ieml.reduced(found[:, 1], temperature)
    for sample in range(len(unary)):
        _, scores = all_choices(unary[sample], pairwise[sample], TREE)
        top = scores.max()
        soft = top + temperature * np.log(np.exp((scores - top) / temperature).sum())
        np.testing.assert_allclose(total[sample], soft, rtol=1e-5)
        if temperature < 0.01:
            np.testing.assert_allclose(total[sample], top, atol=1e-3)


def test_structured_loss_is_of_the_probability_of_what_is_allowed():
    unary, pairwise = random_scores(2)
    unary = unary.at[:, 3, :2].set(ieml.BARRED)  # a proposal that does not stand
    allowed = np.ones(unary.shape, bool)
    allowed[0, 0] = [True, True, False, False]
    allowed[0, 2] = [False, False, True, True]
    loss = ieml.structured_loss(
        unary, pairwise, jnp.array(allowed), TREE, temperature=0.5
    )
    choices, scores = all_choices(unary[0], pairwise[0], TREE)
    weights = np.exp((scores - scores.max()) / 0.5)
    within = allowed[0][np.arange(4), choices].all(axis=1)
    expected = -np.log(weights[within].sum() / weights.sum())
    np.testing.assert_allclose(loss, [expected, 0.0], rtol=1e-4, atol=1e-5)


def test_children_come_before_parents_in_the_tree_of_every_skeleton():
    assert ieml.leaves_first(TREE) == [3, 0, 2, 1]
    for skeleton in SKELETONS.values():
        # Two of them have twenty joints: a body's, and a hand's.
        parents = TrainConfig(model="ieml").make_model(skeleton).tree
        assert parents == skeleton.parents
        order = ieml.leaves_first(parents)
        assert sorted(order) == list(range(len(parents)))
        for joint, parent in enumerate(parents):
            assert parent < 0 or order.index(joint) < order.index(parent)
    assert MODELS["ieml"](num_joints=4).tree == (-1, 0, 1, 2)
    with pytest.raises(ValueError, match="one of each of 2 joints, got"):
        _ = MODELS["ieml"](num_joints=2, parents=(-1,)).tree


def test_proposals_by_hand():
    maps = np.zeros((1, 4, 6, 2), np.float32)[:, :, :4] - 1
    # Beside the 5 its neighbour does not count; -0.5 is a maximum, but below 0.
    maps[0, 0, 0, 0], maps[0, 1, 1, 0] = 5, 4
    maps[0, 3, 1, 0], maps[0, 0, 3, 0] = 2, -0.5
    maps[0, 2, 3, 1] = -0.25
    found = ieml.propose(jnp.array(maps), 3)
    np.testing.assert_array_equal(found.heights[0, 0], [5, 2, -0.5])
    np.testing.assert_array_equal(found.valid[0, 0], [True, True, False])
    # x, then y: the columns 0, 1 and 3, the rows 0, 3 and 0 of four.
    places = np.array([[-0.375, -0.375], [-0.125, 0.375], [0.375, -0.375]])
    np.testing.assert_allclose(found.xy[0, 0], places)
    # Nothing is above 0: the map's peak stands nevertheless.
    np.testing.assert_array_equal(found.valid[0, 1], [True, False, False])
    np.testing.assert_allclose(found.xy[0, 1, 0], [0.375, 0.125])


def test_heights_alone_have_a_gradient():
    maps = jax.random.normal(jax.random.key(0), (1, 6, 6, 2))
    gradient = jax.grad(lambda m: ieml.propose(m, 3).heights.sum())(maps)
    assert set(np.unique(gradient)) == {0, 1} and gradient.sum() == 6
    moved = jax.grad(lambda m: ieml.propose(m, 3).xy.sum())(maps)
    np.testing.assert_array_equal(moved, 0)


def test_patch_is_a_third_of_the_crop_relative_to_its_middle():
    depth = np.random.default_rng(0).uniform(-1, 1, (1, 12, 12, 1)).astype(np.float32)
    # Cells of four pixels: the place (x, y) = (6, 10), and the upper left corner.
    xy = jnp.array([[[[6.0, 10.0], [0.0, 0.0]]]]) / 12 - 0.5
    patches = np.asarray(ieml.cut_patches(jnp.array(depth), xy, 4))[0, 0]
    image = depth[0, ..., 0]
    np.testing.assert_allclose(
        patches[0], image[8:12, 4:8] - image[9:11, 5:7].mean(), atol=1e-5
    )
    corner = np.ones((4, 4), np.float32)  # far, outside the crop
    corner[2:, 2:] = image[:2, :2]
    np.testing.assert_allclose(patches[1], corner - corner[1:3, 1:3].mean(), atol=1e-5)


def test_kinematics_are_those_of_the_equation():
    rng = np.random.default_rng(0)
    parents = (-1, 0, 0)
    xy = rng.uniform(-0.5, 0.5, (1, 3, 2, 2)).astype(np.float32)
    module = ieml.Kinematics(parents=parents, templates=2)
    params = {
        "offsets": rng.normal(size=(3, 2, 2, 2)).astype(np.float32),
        "precisions": rng.normal(size=(3, 2, 2, 2)).astype(np.float32),
        "biases": rng.normal(size=(3, 2, 2)).astype(np.float32),
    }
    variables = {"params": jax.tree.map(jnp.array, params)}
    fit, offsets = module.apply(variables, jnp.array(xy))
    np.testing.assert_allclose(offsets, params["offsets"].mean(axis=2), rtol=1e-5)
    every = itertools.product((1, 2), *[range(2)] * 4)
    for joint, n, t, m, s in every:
        d = 10 * (xy[0, joint, n] - xy[0, 0, m])
        far = d - params["offsets"][joint, t, s]
        precision = np.log1p(np.exp(params["precisions"][joint, t, s]))
        expected = params["biases"][joint, t, s] - (precision * far**2).sum()
        found = fit[0, joint, 2 * n + t, 2 * m + s]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_templates_start_at_offsets_that_do_not_depend_on_the_parents():
    module = ieml.Kinematics(parents=(-1, 0), templates=8)
    params = module.init(jax.random.key(0), jnp.zeros((1, 2, 1, 2)))["params"]
    offsets = np.asarray(params["offsets"])
    np.testing.assert_array_equal(offsets, np.repeat(offsets[:, :, :1], 8, axis=2))
    assert (offsets[:, :, 0].std(axis=1) > 0.3).all()


def test_fitting_template_by_hand():
    # The offsets from joint 0 are (2, 0) and (0, -1) units; joint 2 is a child of 1.
    xy = jnp.array([[[0.1, 0.1], [0.3, 0.1], [0.3, 0.0], [0.0, 0.0]]])
    labelled = jnp.array([[True, True, True, False]])
    offsets = jnp.broadcast_to(
        jnp.array([[1.5, 0.5], [0.0, -2.0], [0.0, 0.0]]), (4, 3, 2)
    )
    fitting = ieml.fitting_templates(xy, labelled, offsets, (-1, 0, 1, 2))
    third = [1 / 3] * 3  # the root, and a joint without a label
    np.testing.assert_allclose(fitting[0], [third, [1, 0, 0], [0, 1, 0], third])


def test_loss_of_pairs_by_hand():
    p = np.array([[[[0.9, 0.5], [0.2, 0.4], [0.1, 0.1]]]], np.float32)
    matches = jnp.log(jnp.stack([p, 1 - p], axis=-1))
    near = jnp.array([[[True, False, False]]])
    far = jnp.array([[[False, True, False]]])  # the last one does not count
    fitting = jnp.array([[[1.0, 0.0]]])
    of_far = (np.log(0.8) + np.log(0.6)) / 2
    loss = ieml.pairs_loss(matches, near, far, fitting)
    np.testing.assert_allclose(loss, -(np.log(0.9) + of_far) / 2, rtol=1e-5)
    none = ieml.pairs_loss(matches, near & far, far, fitting)
    np.testing.assert_allclose(none, -of_far / 2, rtol=1e-5)


def gaussian(x, y, height, cells=16, stride=4, sigma=1.75):
    centres = np.arange(cells) + 0.5
    columns, rows = (
        np.exp(-((centres - v / stride) ** 2) / (2 * sigma**2)) for v in (x, y)
    )
    return height * rows[:, None] * columns


@pytest.mark.parametrize(
    ("decode", "expected", "tolerance"),
    [
        ("argmax", (46, 22), 1e-4),
        ("quarter", (47, 21), 1e-4),
        ("dark", (46.9, 21.7), 0.05),
        ("upsampled", (46.9, 21.7), 1.0),
    ],
)
def test_chosen_peak_is_decoded_within_its_cell_and_not_a_higher_one(
    decode, expected, tolerance
):
    maps = gaussian(21.0, 37.0, 1.0) + gaussian(46.9, 21.7, 0.5)
    below = gaussian(21.0, 37.0, 1.0) - 2  # nowhere above 0
    maps = np.stack([maps, below], axis=-1)[None].astype(np.float32)
    centres = np.array([[[46.0, 22.0], [22.0, 38.0]]], np.float32)
    scores = np.array([[0.4, 0.1]], np.float32)
    model = MODELS["ieml"](num_joints=2)
    outputs = Outputs(maps, joints=centres / 64 - 0.5, scores=scores)
    decoded = model.decode(outputs, side=64, decode=decode)
    np.testing.assert_allclose(decoded.joints_px[0, 0], expected, atol=tolerance)
    np.testing.assert_allclose(decoded.joints_px[0, 1], (21, 37), atol=1.5)
    np.testing.assert_array_equal(decoded.scores, scores)
    assert decoded.joints is None


@pytest.fixture(scope="module")
def network():
    model = MODELS["ieml"](
        num_joints=JOINTS, width=0.05, parents=(1, -1, 1), proposals=2, templates=2
    )
    rng = np.random.default_rng(0)
    depth = jnp.array(rng.uniform(-1, 1, (2, SIDE, SIDE, 1)), jnp.float32)
    key = jax.random.key(0, impl="rbg")  # compiles sooner
    variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(key, depth)
    return model, variables, depth


def test_network_chooses_what_an_enumeration_of_its_own_scores_does(network):
    model, variables, depth = network
    head = variables["params"]["heatmaps"]
    params = {
        **variables["params"],
        "heatmaps": {"kernel": 10 * head["kernel"], "bias": head["bias"] + 0.3},
    }

    @jax.jit
    def both(params, depth):
        apply = functools.partial(model.apply, {**variables, "params": params})
        found = apply(depth, train=False, method="scored")
        return apply(depth, train=False), found

    outputs, found = both(params, depth)
    joints, scores = outputs.joints, outputs.scores
    np.testing.assert_array_equal(outputs.heatmaps, found.maps)
    unary, pairwise = np.asarray(found.unary), np.asarray(found.pairwise)
    for sample in range(len(depth)):
        choices, totals = all_choices(unary[sample], pairwise[sample], model.tree)
        best = choices[totals.argmax()]
        place = found.proposals.xy[sample][np.arange(JOINTS), best // 2]
        np.testing.assert_array_equal(joints[sample], place)
        chosen = np.exp(unary[sample][np.arange(JOINTS), best])
        np.testing.assert_allclose(scores[sample], chosen, rtol=1e-5)
        # Height times probability.
        height = found.proposals.heights[sample][np.arange(JOINTS), best // 2]
        assert (scores[sample] < np.maximum(height, ieml.FLOOR)).all()
    # Maps that are nowhere above 0 fall back to their peak, whatever else is said.
    params["heatmaps"] = {**params["heatmaps"], "bias": head["bias"] - 100}
    outputs, _ = both(params, depth)
    joints = outputs.joints
    index = np.asarray(outputs.heatmaps).reshape(2, -1, JOINTS).argmax(axis=1)
    rows, columns = np.divmod(index, 16)
    np.testing.assert_allclose(
        (np.asarray(joints) + 0.5) * 16 - 0.5, np.stack([columns, rows], -1), atol=1e-5
    )


def test_batch_with_gaps_has_finite_gradients_everywhere_and_is_learnt(network):
    model, variables, depth = network
    batch = {
        "depth": depth,
        # In the second image one joint is outside, one without any number.
        "joints_px": jnp.array(
            [
                [[20.0, 30.0], [40.0, 11.0], [50.0, 50.0]],
                [[-90.0, 99.0], [jnp.nan, jnp.nan], [33.0, 17.0]],
            ]
        ),
        "joints_z": jnp.full((2, JOINTS), jnp.nan),
        "visible": jnp.array([[True, True, True], [True, False, True]]),
    }
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(variables, state):
        def loss(params):
            return model.apply(
                {**variables, "params": params},
                batch,
                r=1.0,
                sigma=1.75,
                method="loss",
                mutable=["batch_stats"],
            )

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], updates)
        largest = jax.tree.map(lambda leaf: jnp.max(jnp.abs(leaf)), grads)
        return {"params": params, **new}, state, value, largest

    state, losses, gradients = optimizer.init(variables["params"]), [], []
    for _ in range(40):
        variables, state, value, largest = step(variables, state)
        losses.append(float(value))
        gradients.append(jax.tree.map(float, largest))
    assert losses[-1] < 0.5 * losses[0]
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(largest)]
    found = np.array([jax.tree.leaves(gradient) for gradient in gradients])
    assert np.isfinite(found).all()
    untaught = [
        p for p, of_step in zip(paths, found.T, strict=True) if not of_step.any()
    ]
    assert not untaught
