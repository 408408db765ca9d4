import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.signal import correlate

from cmbjax.models import MODELS
from cmbjax.models import memory as memories
from cmbjax.models.recurrent import ConvGRU, ConvLSTM


def frames(key, steps=3, batch=2, side=5, channels=3):
    return jax.random.normal(key, (steps, batch, side, side, channels))


def roll(block, variables, sequence):
    """Returns the outputs of a sequence, and the memory after it."""
    outputs = []
    for x in sequence:
        y, new = block.apply(variables, x, mutable=["memory"])
        variables = {**variables, **new}
        outputs.append(y)
    return jnp.stack(outputs), variables["memory"]


def convolve(x, kernel, bias):
    """Each output channel as a sum of SciPy's correlations with zeros around."""
    batch, height, width, _ = x.shape
    y = np.zeros((batch, height, width, kernel.shape[-1]))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for b in range(batch):
        for f in range(kernel.shape[-1]):
            k = np.asarray(kernel[..., f], np.float64)
            y[b, ..., f] = correlate(padded[b], k, mode="valid")[..., 0]
    return y + np.asarray(bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_convgru_agrees_with_numpy_over_three_frames(key):
    sequence = frames(key)
    block = ConvGRU(features=4)
    variables = block.init(key, sequence[0])
    outputs, memory = roll(block, variables, sequence)
    gates, candidate = (variables["params"][k] for k in ("gates", "candidate"))
    h = np.zeros((2, 5, 5, 4))
    for x, output in zip(np.asarray(sequence), outputs, strict=True):
        both = convolve(np.concatenate([h, x], -1), gates["kernel"], gates["bias"])
        z, r = np.split(sigmoid(both), 2, axis=-1)
        reset = np.concatenate([r * h, x], -1)
        n = np.tanh(convolve(reset, candidate["kernel"], candidate["bias"]))
        h = (1 - z) * h + z * n
        np.testing.assert_allclose(output[..., :3], x)
        np.testing.assert_allclose(output[..., 3:], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(memory["hidden"], h, rtol=1e-4, atol=1e-5)


def test_convlstm_agrees_with_that_of_flax_over_three_frames(key):
    # Flax 0.12: one convolution of x, one of h, gates in the order i, g, f, o, and 1
    # added to f; it has no peepholes either.
    sequence = frames(key)
    block = ConvLSTM(features=4)
    variables = block.init(key, sequence[0])
    outputs, _ = roll(block, variables, sequence)
    kernel = variables["params"]["gates"]["kernel"]
    bias = variables["params"]["gates"]["bias"]
    i, f, g, o = jnp.split(kernel, 4, axis=-1)
    theirs = jnp.concatenate([i, g, f, o], axis=-1)
    i, f, g, o = jnp.split(bias, 4)
    params = {
        "ih": {
            "kernel": theirs[:, :, :3],
            "bias": jnp.concatenate([i, g, f - 1, o]),
        },
        "hh": {"kernel": theirs[:, :, 3:], "bias": jnp.zeros(16)},
    }
    cell = nn.ConvLSTMCell(features=4, kernel_size=(3, 3))
    carry = cell.initialize_carry(key, sequence[0].shape)
    for x, output in zip(sequence, outputs, strict=True):
        carry, h = cell.apply({"params": params}, carry, x)
        np.testing.assert_allclose(output[..., 3:], h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [ConvGRU, ConvLSTM])
def test_streams_do_not_see_one_another_and_restart_alone(make, key):
    sequence = frames(key, steps=2)
    block = make(features=2)
    variables = block.init(key, sequence[0])
    _, after = roll(block, variables, sequence[:1])
    memory = memories.reset(after, jnp.array([True, False]))
    for before, cleared in zip(*map(jax.tree.leaves, (after, memory)), strict=True):
        assert (cleared[0] == 0).all() and (before[0] != 0).any()
        np.testing.assert_array_equal(cleared[1], before[1])
    y, _ = block.apply({**variables, "memory": memory}, sequence[1], mutable=["memory"])
    # Sample 0 is now the first of a sequence, as every frame is without writing.
    alone = block.apply(variables, sequence[1])
    np.testing.assert_allclose(y[0], alone[0], rtol=1e-5, atol=1e-6)
    assert np.abs(y[1] - alone[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["convgru", "convlstm"])
def test_frames_of_a_stream_in_one_batch_are_seen_one_after_the_other(name, key):
    """As in batches of one frame of each stream, without statistics of a batch."""
    options = {"num_joints": 2, "width": 0.1, "trunk_norm": False}
    one = MODELS[name](**options)
    three = one.clone(stream_frames=3)
    depth = jax.random.normal(key, (2, 3, 16, 16, 1))  # two streams
    variables = one.init(key, depth[:, 0], train=True, r=1.0)
    rolled, maps = variables, []
    for step in range(3):
        y, new = one.apply(rolled, depth[:, step], train=True, r=1.0, mutable=True)
        rolled = {**rolled, **new}
        maps.append(y)
    together, new = three.apply(
        variables, depth.reshape(6, 16, 16, 1), train=True, r=1.0, mutable=True
    )
    np.testing.assert_allclose(
        together.reshape(2, 3, *together.shape[1:]), jnp.stack(maps, 1), atol=1e-5
    )
    for mine, theirs in zip(
        jax.tree.leaves(new["memory"]), jax.tree.leaves(rolled["memory"]), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["convgru", "convlstm"])
def test_gradient_flows_from_a_frame_into_those_before_it(name, key):
    model = MODELS[name](num_joints=2, width=0.1, trunk_norm=False, stream_frames=3)
    depth = jax.random.normal(key, (3, 16, 16, 1))  # one stream
    variables = model.init(key, depth, train=True, r=1.0)

    def last(depth):
        maps, _ = model.apply(variables, depth, train=True, r=1.0, mutable=True)
        return (maps[2] ** 2).sum()

    assert (np.abs(jax.grad(last)(depth)).max(axis=(1, 2, 3)) > 0).all()

    def first(depth):
        maps, _ = model.apply(variables, depth, train=True, r=1.0, mutable=True)
        return (maps[0] ** 2).sum()

    reach = np.abs(jax.grad(first)(depth)).max(axis=(1, 2, 3))
    assert reach[0] > 0 and (reach[1:] == 0).all()


def test_other_number_of_streams_is_refused(key):
    x = frames(key)[0]
    block = ConvGRU(features=2)
    variables = block.init(key, x)
    with pytest.raises(ValueError, match=r"state of .* is \[2, 5, 5, 2\]"):
        block.apply(variables, x[:1], mutable=["memory"])
