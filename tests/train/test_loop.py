import inspect
import json

import jax.numpy as jnp
import pytest

from cmbjax.train import loop
from cmbjax.train.step import TrainState

BREAKS = 77  # a loss whose gradient is not finite


class Saves:
    """Stands in for the checkpoints, and notes when it is asked to save."""

    def __init__(self):
        self.steps = []

    def save(self, state, data):
        self.steps.append(int(state.step))


def make_state(step, weight=0.0):
    return TrainState(
        step=jnp.int32(step),
        params={"weight": jnp.float32(weight)},
        memory={},
        batch_stats={},
        opt_state=(),
    )


def fit(tmp_path, losses, start=0, **changes):
    saves = Saves()

    def step(state, loss, number):
        assert number == int(state.step)
        weight = jnp.nan if loss == BREAKS else 0.0
        return make_state(state.step + 1, weight), jnp.float32(loss)

    options = {
        "validate": lambda state: {"validation/PCKh@0.5": 10.0 * int(state.step)},
        "checkpoints": saves,
        "run_dir": tmp_path,
        "num_steps": start + len(losses),
        "log_every": 2,
        "validate_every": 3,
        "checkpoint_every": 4,
        **changes,
    }
    try:
        inspect.unwrap(loop.fit)(make_state(start), iter(losses), step=step, **options)
    finally:
        path = tmp_path / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
    return saves.steps, records


def test_records_validations_and_checkpoints_come_when_asked_for(tmp_path):
    saved, records = fit(tmp_path, [8, 6, 4, 2, 0, 2, 4])
    assert saved == [3, 4, 6, 7]  # before every validation, too
    losses = {r["step"]: r["loss"] for r in records if "loss" in r}
    # Means since the last record.
    assert losses == {2: 7.0, 3: 4.0, 4: 2.0, 6: 1.0, 7: 4.0}
    assert [r["step"] for r in records if "loss" not in r] == [3, 6, 7]


def test_loss_that_is_not_finite_stops_with_its_step_and_saves_nothing_more(tmp_path):
    losses = [1, 1, 1, 1, 1, float("nan"), 1, 1]
    with pytest.raises(FloatingPointError, match="the loss of step 6 is nan"):
        fit(tmp_path, losses, log_every=100)
    # It is in the records, which a run that goes on from its checkpoint drops.
    path = tmp_path / "metrics.jsonl"
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 6, "loss": None}
    _, records = fit(tmp_path, [1, 1], start=4)
    assert {r["step"]: r["loss"] for r in records if "loss" in r} == {3: 1, 4: 1, 6: 1}


def test_resumed_run_drops_records_that_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 5.0}\n{"step": 4, "loss": 3.0}\n{"step": 6, "lo'
    )
    _, records = fit(tmp_path, [1.0, 1.0], start=2, validate_every=0)
    assert [r["step"] for r in records if "loss" in r] == [2, 4]
    assert records[1]["loss"] == 1.0


def test_state_that_is_not_finite_is_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="after step 4 a parameter"):
        fit(tmp_path, [1, 1, 1, BREAKS, 1], validate_every=0)


def test_validation_that_was_cut_off_is_made_up_for(tmp_path):
    # Killed after the last checkpoint, before its validation.
    (tmp_path / "metrics.jsonl").write_text('{"step": 6, "loss": 5.0}\n')
    _, records = fit(tmp_path, [], start=6)
    assert records[-1] == {"step": 6, "validation/PCKh@0.5": 60.0}
    _, again = fit(tmp_path, [], start=6)
    assert again == records


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    with loop.Records(tmp_path, 0) as records:
        records.write(1, {"loss": 2.0})
        with pytest.raises(ValueError, match=f"--run_dir={tmp_path}: another training"):
            loop.Records(tmp_path, 0)
    with loop.Records(tmp_path, 1):  # the lock goes with the process
        pass
    assert len(loop.read_records(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2, "loss": "x"}',
        '{"step": 2, "loss": true}',
        '{"step": 2, "loss": [1]}',
        '{"step": 2, "loss": 1e999}',
        '{"step": 2.5}',
        '{"step": null}',
        "{}",
        "[1]",
        "null",
        "NaN",
    ],
)
def test_a_line_that_is_no_record_is_refused_before_the_training(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 5.0}}\n{line}\n')
    with pytest.raises(ValueError, match="metrics.jsonl: line 2"):
        loop.Records(tmp_path, 4)
    assert line in path.read_text()
    # A number that was none is null, and is left out of the figure.
    path.write_text('{"step": 1, "loss": null}\n{"step": 2, "validation/PDJ": null}\n')
    records = loop.read_records(path)
    assert records == [{"step": 1, "loss": None}, {"step": 2, "validation/PDJ": None}]
    assert type(records[0]["step"]) is int
