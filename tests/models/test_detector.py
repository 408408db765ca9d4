"""The detector's network: its loss by hand, and the ONNX that is written of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train_detector
from cmbjax.data import detection
from cmbjax.depth import detector
from cmbjax.export.card import save_weights
from cmbjax.models import detector as network

CELLS = detector.SIDE // detector.STRIDE
NAMES = ("CENTRE", "UP", "CHANNELS")
assert all(getattr(network, name) == getattr(detector, name) for name in NAMES)


@pytest.fixture(scope="module")
def variables():
    model = network.Detector()
    image = jnp.zeros((1, detector.SIDE, detector.SIDE, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(0)

    def draw(path, like):
        if path[-1].key in ("var", "scale"):
            return rng.uniform(0.5, 1.5, like.shape).astype(np.float32)
        if like.ndim == 4:
            scale = np.sqrt(2 / np.prod(like.shape[:-1]))
            return rng.normal(0, scale, like.shape).astype(np.float32)
        return rng.normal(0, 0.3, like.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_the_written_network_gives_what_the_trained_one_gives(variables, tmp_path):
    import cv2

    path = tmp_path / "detector.onnx"
    train_detector.write_onnx(path, variables)
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (1, detector.SIDE, detector.SIDE, 3)).astype(np.float32)
    expected = network.Detector().apply(variables, jnp.asarray(image), train=False)
    opened = cv2.dnn.readNetFromONNX(str(path))
    opened.setInput(image.transpose(0, 3, 1, 2))
    maps = opened.forward().transpose(0, 2, 3, 1)
    assert np.abs(maps - expected).max() < 1e-4 * np.ptp(expected)


def test_weights_are_read_as_they_were_written(variables, tmp_path):
    path = tmp_path / "detector.npz"
    save_weights(path, variables)
    read = train_detector.read_weights(path, variables, "--init_from")
    jax.tree.map(np.testing.assert_array_equal, read, variables)
    smaller = jax.tree.map(lambda x: x, variables)
    smaller["params"][network.HEAD]["bias"] = np.zeros(3, np.float32)
    with pytest.raises(
        ValueError, match=r"params/head/bias is \(12,\) there, .* \(3,\)"
    ):
        train_detector.read_weights(path, smaller, "--init_from")
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        train_detector.read_weights(tmp_path / "absent.npz", variables, "--init_from")


def test_the_loss_is_small_for_what_the_targets_say_and_large_without():
    boxes = np.array([[20.0, 30, 60, 120], [90, 20, 120, 90]], np.float32)
    ups = np.array([[0, -1], [0, -1]], np.float32)
    clear = np.ones(2, bool)
    targets = detection.make_targets(boxes, boxes, np.zeros(2), ups, clear, CELLS)
    batch = {name: jnp.asarray(values[None]) for name, values in targets.items()}
    maps = np.zeros((1, CELLS, CELLS, detector.CHANNELS), np.float32)
    maps[..., detector.CENTRE] = np.where(targets["centre"] >= 1, 8, -8)
    maps[..., 1:] = targets["values"]
    good = float(network.loss(jnp.asarray(maps), batch))
    nobody = maps.copy()
    nobody[..., detector.CENTRE] = -8
    off = maps.copy()
    off[..., detector.DEPTH] += 0.5
    assert good < 0.02
    # Two centres missed, each by log sigmoid(-8); everything else stands.
    assert float(network.loss(jnp.asarray(nobody), batch)) == pytest.approx(8, rel=0.02)
    assert float(network.loss(jnp.asarray(off), batch)) == pytest.approx(
        good + 0.4 * 0.5, rel=1e-3
    )
    turned = maps.copy()
    turned[..., detector.UP] += 0.5  # of two numbers twice the square
    assert float(network.loss(jnp.asarray(turned), batch)) == pytest.approx(
        good + 0.4 * 2 * 2 * 0.25, rel=1e-3
    )


def test_who_is_hardly_seen_may_be_found_or_not():
    box, up = np.array([[40.0, 40, 60, 80]]), np.array([[0.0, -1]])
    losses = {}
    for clear in (True, False):
        targets = detection.make_targets(
            box, box, np.zeros(1), up, np.array([clear]), CELLS
        )
        batch = {name: jnp.asarray(values[None]) for name, values in targets.items()}
        for found in (True, False):
            maps = np.zeros((1, CELLS, CELLS, detector.CHANNELS), np.float32)
            maps[..., detector.CENTRE] = -8
            if found:  # in the middle of the box
                maps[0, 15, 12, detector.CENTRE] = 8
            losses[clear, found] = float(network.loss(jnp.asarray(maps), batch))
    assert losses[True, False] - losses[True, True] == pytest.approx(8, rel=0.02)
    assert losses[False, True] == pytest.approx(losses[False, False], abs=1e-3)


def test_scores_count_people_once_and_alarms_apart():
    depth = np.zeros((20, 20), np.uint16)
    boxes = np.array([[0.0, 0, 10, 10], [10, 10, 20, 20]], np.float32)
    ups, clear = np.zeros((2, 2)), np.ones(2, bool)
    columns = (boxes, boxes, np.ones(2), ups, boxes[:, :2], clear)
    frame = detection.Frame(depth, *columns)

    def network_of(*guesses):
        people = [
            detector.Person(np.array(box, float), np.array(box), 1.0, 1.0, np.zeros(2))
            for box in guesses
        ]
        return lambda _: people

    twice = train_detector.score(network_of((0, 0, 10, 9), (0, 0, 10, 10)), [frame])
    assert twice["recall"]["all"] == 0.5 and twice["false_alarms_a_frame"] == 0
    wrong = train_detector.score(network_of((0, 12, 8, 20)), [frame])
    assert wrong["recall"]["all"] == 0 and wrong["false_alarms_a_frame"] == 1


def test_it_learns_a_few_views():
    model, rng = network.Detector(), np.random.default_rng(0)
    depth = np.full((60, 100), 4000, np.uint16)
    depth[10:50, 30:50] = 2000
    box = np.array([[30.0, 10, 50, 50]], np.float32)
    up = np.array([[0.0, -1.0]], np.float32)
    clear = np.ones(1, bool)
    columns = (box, box, np.array([2000.0]), up, box[:, :2], clear)
    frame = detection.Frame(depth, *columns)
    images, targets = next(detection.batches([frame], 4, int(rng.integers(9))))
    variables = jax.jit(lambda key: model.init(key, images, train=False))(
        jax.random.key(0)
    )
    optimizer = train_detector.optax.adam(3e-3)
    opt_state = optimizer.init(variables["params"])
    losses = []
    for _ in range(25):
        variables, opt_state, value = train_detector.train_step(
            variables, opt_state, images, targets, model=model, optimizer=optimizer
        )
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
