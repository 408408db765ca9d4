import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmbjax.models import MODELS
from cmbjax.train import initial, step

OPTIMIZER = optax.adam(1e-3)


def make_state(seed=0, joints=3, side=16, **options):
    model = MODELS["cmb"](num_joints=joints, width=0.0625, **options)
    return step.create_state(
        jax.random.key(seed), model, OPTIMIZER, side=side, batch_size=2
    )


def test_state_begins_with_all_of_another_one_of_the_same_network():
    source, state = make_state(seed=1), make_state()
    started, taken = initial.take_over(state, source.variables)
    assert not taken.left
    jax.tree.map(np.testing.assert_array_equal, started.variables, source.variables)
    jax.tree.map(np.testing.assert_array_equal, started.opt_state, state.opt_state)
    assert int(started.step) == 0
    assert "arrays taken" in taken.describe("people-96")


def test_another_head_joint_count_and_side_keep_the_rest():
    source = make_state(seed=1, head3d="maps")
    state = make_state(joints=5, side=32)
    started, taken = initial.take_over(state, source.variables)
    memories = {f"memory/cmb{i}/value" for i in (1, 2, 3)}
    assert set(taken.left) == {"params/conv7/kernel", "params/conv7/bias"} | memories
    assert taken.left["params/conv7/bias"] == "[3] there, [5] here"
    np.testing.assert_array_equal(
        started.params["conv1_1"]["kernel"], source.params["conv1_1"]["kernel"]
    )
    np.testing.assert_array_equal(
        started.params["conv7"]["kernel"], state.params["conv7"]["kernel"]
    )
    lines = taken.describe("runs/a").splitlines()
    assert lines[0].startswith("--init_from=runs/a: ")
    assert "  not params/conv7/bias: [3] there, [5] here" in lines
    # And what is not there at all is said, too.
    _, taken = initial.take_over(make_state(head3d="maps"), state.variables)
    assert taken.left["params/depth/bias"] == "there is none of that name"


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="no parameter fits"):
        initial.take_over(make_state(), {"params": {"stem": jnp.zeros(3)}})
