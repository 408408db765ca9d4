"""The loop around `step.train_step`: records, validation, checkpoints, signals.

Every process of a run is in it, and all do the same at the same step.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
from tensorboardX import SummaryWriter
from tqdm import tqdm

from cmbjax.files import as_json, only_one, read_lines, write_text
from cmbjax.train import sharding
from cmbjax.train.checkpoints import Checkpoints, Data
from cmbjax.train.step import TrainState

Step = Callable[[TrainState, Any, int], tuple[TrainState, jax.Array]]
Validate = Callable[[TrainState], dict[str, float]]


class Interrupted(Exception):
    """A signal asked for the end; everything is saved."""


def fit(
    state: TrainState,
    data: Data,
    *,
    step: Step,
    validate: Validate,
    checkpoints: Checkpoints,
    run_dir: Path,
    num_steps: int,
    log_every: int,
    validate_every: int,
    checkpoint_every: int,
) -> TrainState:
    """Trains from `state.step` to `num_steps`.

    Args:
        state: Where to start; donated.
        data: Stands at the batch of the next step.
        step: `train_step` of a state and a batch, told how many steps came before.
        validate: Returns what is to be recorded of a state; the first process records.
        checkpoints: Where state and data position are saved.
        run_dir: Gets metrics.jsonl and TensorBoard's events.
        num_steps: Steps in all.
        log_every: Steps between two records; where there are several processes, also
            the longest wait between a signal and the end.
        validate_every: Steps between two validations; 0 for one at the end.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        FloatingPointError: A loss is not finite; the last good checkpoint stands.
        Interrupted: SIGTERM or SIGINT came, to any process; the state was saved.
    """
    start = int(state.step)
    losses: list[jax.Array] = []
    since = time.perf_counter()

    def validates_at(step: int) -> bool:
        return step == num_steps or bool(validate_every and step % validate_every == 0)

    # Only the first process has any.
    records = sharding.on_first(Records, run_dir, start)

    def record(step: int, values: dict[str, float]) -> None:
        if records is not None:
            records.write(step, values)

    with (
        records or contextlib.nullcontext(),
        Signals() as signals,
        tqdm(
            total=num_steps,
            initial=start,
            desc="training",
            unit="step",
            disable=records is None,
        ) as progress,
    ):
        cut_off = records is not None and start not in records.validated
        if start and validates_at(start) and sharding.any_process(cut_off):
            record(start, validate(state))
            since = time.perf_counter()
        for done in range(start + 1, num_steps + 1):
            state, loss = step(state, next(data), done - 1)
            losses.append(loss)
            progress.update()
            logs = done % log_every == 0
            saves = done % checkpoint_every == 0 or validates_at(done)
            asked_to_end = signals.ask(together=logs or saves)
            validates = validates_at(done) and not asked_to_end
            saves = saves or asked_to_end
            if saves or logs:
                try:
                    values = _finite(losses, done)
                    if saves:
                        _check_state(state, done)
                except FloatingPointError:
                    record(done, {"loss": math.nan})  # who reads records sees why
                    raise
                rate = len(losses) / (time.perf_counter() - since)
                progress.set_postfix(loss=f"{values[-1]:.4f}")
                mean = sum(values) / len(values)
                record(done, {"loss": mean, "steps_per_s": rate})
                losses = []
            if saves:
                checkpoints.save(state, data)
            if asked_to_end:
                signal_name = signals.signal_name or "a signal to another process"
                raise Interrupted(f"{signal_name} after step {done}; saved")
            if validates:
                record(done, validate(state))
            if not losses:
                since = time.perf_counter()
    return state


def _check_state(state: TrainState, step: int) -> None:
    """Keeps a state that no training can go on from out of the checkpoints."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state)):
        raise FloatingPointError(
            f"after step {step} a parameter, memory or statistic is not finite; the "
            "last checkpoint before it stands. A lower --learning_rate may help"
        )


def _finite(losses: list[jax.Array], last_step: int) -> list[float]:
    values = [float(loss) for loss in losses]
    for step, value in enumerate(values, start=last_step - len(values) + 1):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {step} is {value}; the last checkpoint before it "
                "stands. A lower --learning_rate may help"
            )
    return values


class Records:
    """metrics.jsonl and TensorBoard events of one run, in step."""

    def __init__(self, run_dir: Path, start: int) -> None:
        """Opens both; records after step `start` belong to a run that was cut off.

        Raises:
            ValueError: Another process is training in the folder, or metrics.jsonl is
                damaged.
        """
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(
            only_one(
                run_dir / "lock",
                f"--run_dir={run_dir}: another training is at work in this folder",
            )
        )
        self._path = run_dir / "metrics.jsonl"
        kept = [
            record for record in read_records(self._path) if record["step"] <= start
        ]
        write_text(self._path, "".join(as_json(record) + "\n" for record in kept))
        self.validated = {record["step"] for record in kept if "loss" not in record}
        self._events = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception: object) -> None:
        self._events.close()
        self._lock.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one record."""
        with self._path.open("a") as file:
            file.write(as_json({"step": step, **values}) + "\n")
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a metrics.jsonl; a line cut off by a crash is left out.

    Each has a step, an integer, and numbers, or None where there was none, by name.

    Raises:
        ValueError: A line is no record; names it.
    """
    records = read_lines(path, dict[str, int | float | None]) if path.exists() else []
    for number, record in enumerate(records, start=1):
        if type(record.get("step")) is not int:
            raise ValueError(f"{path}: line {number} has no step, but {record!r:.80}")
    return records


class Signals:
    """Notes SIGTERM and SIGINT instead of dying of them; the second one kills."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def __enter__(self) -> "Signals":
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, *, together: bool) -> bool:
        """Whether one came to any process: they can only tell `together`, and wait."""
        if together or jax.process_count() == 1:
            return sharding.any_process(self.signal_name is not None)
        return False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        signal.signal(number, self._before[signal.Signals(number)])
