"""Networks of every architecture learn sixteen frames by heart, as train.py trains.

Not `sh4` and `sh8`, which are `sh2` with more stacks, nor what else stands in the
block's place, which `test_step.py` trains on one batch.
"""

import functools

import jax
import numpy as np
import pytest

from cmbjax import metrics
from cmbjax.data.batches import training_batches
from cmbjax.evaluate import predictions
from cmbjax.models import fast
from cmbjax.skeletons import BODY15
from cmbjax.train import step as training
from cmbjax.train.config import TrainConfig
from cmbjax.train.statistics import training_statistics
from datasets.mannequin.mannequin import make_example
from tests.data.test_augment import STILL
from tests.data.test_batches import make_frames

FRAMES = 16
# Without BN these need longer.
STEPS = {"cpm": 900, "cpm_vgg": 900}
NETWORKS = "cmb convgru convlstm sh1 sh2 cpm cpm_vgg phr ief vi cnn3d ieml".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_network_learns_sixteen_frames_by_heart(name, tmp_path):
    num_steps = STEPS.get(name, 300)
    config = TrainConfig(
        model=name,
        side=64,
        width=0.25,
        num_steps=num_steps,
        learning_rate=2e-3,
        schedule="cosine",
        batch_size=FRAMES,
        crop="label_box",
        r_switch_step=num_steps // 2,
    )
    frames = make_frames([make_example(0, "train", 10 * i) for i in range(FRAMES)])
    model = fast.in_form(config.make_model(BODY15))
    optimizer = config.make_optimizer()
    preparation = config.make_preparation(frames)
    data = training_batches(
        frames,
        preparation=preparation,
        augmentation=STILL,
        batch_size=FRAMES,
        seed=0,
        sequential=model.sequential,
    )
    state = training.create_state(
        jax.random.key(0), model, optimizer, side=64, batch_size=FRAMES
    )
    sigma = config.make_sigma(model)
    step = functools.partial(
        training.train_step, model=model, optimizer=optimizer, sigma=sigma
    )
    losses = []
    for number in range(num_steps):
        r = training.r_at(number, config.r_switch_step)
        state, loss = step(state, next(data), jax.random.key(0), r=r)
        losses.append(float(loss))
    assert np.isfinite(losses).all() and losses[-1] < 0.3 * losses[0]
    result = predictions.evaluate(
        state.variables,
        frames,
        training_statistics(frames),
        sigma=sigma,
        preparation=preparation,
        memory="rolling" if model.sequential else "frozen",
        decode=model.default_decode,
        model=model,
        r=training.r_for_prediction(state, config.r_switch_step),
        batch_size=FRAMES,
    )
    tally = metrics.pckh(*result.poses[:3], frames.skeleton)
    found = float(tally.total.sum() / tally.count.sum())
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, PCKh {100 * found:.1f}")
    assert found > 0.8
