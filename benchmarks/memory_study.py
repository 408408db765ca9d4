"""What the paper leaves open about the memory: `python -m benchmarks.memory_study`.

Every row has the same steps and seeds, a learning rate of its own, chosen on the
validation split with a seed that no row has; and is compared on the validation split.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from cmbjax.data.examples import DepthFrames
from cmbjax.evaluate import predictions, report
from cmbjax.train.run import Run
from cmbjax.train.step import r_for_prediction

Memory = Any  # the collection
SHARE = 0.1
NEVER = 1_000_000

ROWS: dict[str, dict[str, Any]] = {
    "cmb: shared": {"model": "cmb"},
    "per_sample": {"model": "cmb", "memory_mode": "per_sample"},
    "r = 1 throughout": {"model": "cmb", "r_switch_step": NEVER},
    "r = 3 throughout": {"model": "cmb", "r_switch_step": 0},
    "memory_lr = 10": {"model": "cmb", "memory_lr": 10.0},
    "two halves a step": {"model": "cmb", "memory_steps": 2},
    "two halves, with gradient": {
        "model": "cmb",
        "memory_steps": 2,
        "memory_gradient": True,
    },
    "memory_ema": {"model": "memory_ema"},
    "memory_constant": {"model": "memory_constant"},
    "cmb_convs": {"model": "cmb_convs"},
    "cmb_none": {"model": "cmb_none"},
}
METRICS = tuple(harness.OVER_ALL.values())


def main(sweep: harness.Sweep) -> None:
    """Compares the readings of the memory, and takes the trained one apart."""
    tuned = sweep.tuned_rows(rows_of(sweep))
    compare(sweep, tuned, SHARE)
    compare(sweep, tuned, 1.0)
    cmb = harness.with_share(next(iter(tuned.values())), SHARE)
    rolling(sweep, cmb, harness.with_share(tuned["per_sample"], SHARE))
    dissect(sweep, cmb)


def rows_of(sweep: harness.Sweep) -> dict[str, dict[str, Any]]:
    """Returns the rows, and one whose trunk has BN if the preset's has none."""
    has_norm = sweep.full(ROWS["cmb: shared"]).get("trunk_norm", True)
    name = "no BN in the trunk" if has_norm else "BN in the trunk"
    return {**ROWS, name: {"model": "cmb", "trunk_norm": not has_norm}}


def compare(sweep: harness.Sweep, tuned: Mapping[str, Any], share: float) -> None:
    """Writes the table of all rows, trained on a share of the data."""
    flags = [harness.with_share(row, share) for row in tuned.values()]
    records = sweep.of_seeds(sweep.validation, flags)
    lines = []
    for (name, row), of_seeds in zip(tuned.items(), records, strict=True):
        line = {"row": name, "learning rate": row["learning_rate"]}
        for metric in METRICS:
            values = [record.get(f"validation/{metric}") for record in of_seeds]
            line[metric] = str(harness.cell(values))
        lines.append(line)
    title = f"Memory study, {100 * share:g} % of the training data"
    note = (
        f"Validation split of {sweep.dataset}, {sweep.full({})['num_steps']} steps, "
        f"{sweep.seeds} seeds, frozen memory."
    )
    if share < 1:
        note += f" {harness.ABOUT_SHARES}"
    name = f"memory_{100 * share:g}"
    harness.write(sweep, name, title, lines, note)
    harness.write_csv(sweep.results / f"{name}.csv", lines)
    named = dict(zip(tuned, flags, strict=True))
    harness.draw_curves(sweep, name, named, METRICS[0])


def rolling(sweep: harness.Sweep, shared: harness.Flags, slots: harness.Flags) -> None:
    """Writes what a memory that is written in evaluation gives, in which order."""
    orders: dict[str, dict[str, Any]] = {
        "frozen": {"memory": "frozen"},
        **{
            f"rolling, shuffled by {seed}": {"memory": "rolling", "order_seed": seed}
            for seed in range(2)
        },
        "rolling, sorted": {"memory": "rolling", "order": "sorted"},
        "rolling, reversed": {"memory": "rolling", "order": "reversed"},
    }
    lines = []
    for mode, flags in (("shared", shared), ("per_sample", slots)):
        for order, options in orders.items():
            evaluate = functools.partial(sweep.evaluate, split="validation", **options)
            (results,) = sweep.of_seeds(evaluate, [flags])
            line = {"memory": mode, "evaluation": order}
            for metric in filter(results[0]["table"].__contains__, METRICS):
                values = [
                    harness.over_all(evaluation, metric) for evaluation in results
                ]
                line[metric] = str(harness.cell(values))
            lines.append(line)
    note = (
        f"Validation split of {sweep.dataset}, 10 % of the training data, "
        f"{sweep.seeds} seeds. Sorted: by person and frame."
    )
    harness.write(
        sweep, "memory_order", "Frozen, rolling, and in which order", lines, note
    )
    harness.write_csv(sweep.results / "memory_order.csv", lines)


def dissect(sweep: harness.Sweep, flags: harness.Flags) -> None:
    """Writes what is lost when a trained network's memory is taken or exchanged."""
    (run_dirs,) = sweep.of_seeds(sweep.train, [flags])
    frames = sweep.load("validation")
    if len(run_dirs) == 1:
        print("one seed: no other network's memory to exchange this one's with")
        return
    runs = [Trained(run_dir, frames) for run_dir in run_dirs]
    strangers = [*runs[1:], runs[0]]
    whole = [run.evaluate(run.state.memory) for run in runs]
    lines = []
    for name, change in CHANGES.items():
        results = [
            run.evaluate(change(run.state.memory, stranger.state.memory))
            for run, stranger in zip(runs, strangers, strict=True)
        ]
        moved = [
            np.linalg.norm(
                result.poses.predictions_px - as_trained.poses.predictions_px, axis=-1
            ).mean()
            for result, as_trained in zip(results, whole, strict=True)
        ]
        values = [report.summary(result, frames.skeleton) for result in results]
        line = {"memory": name}
        line |= {
            metric: str(harness.cell([value[metric] for value in values]))
            for metric in METRICS
            if metric in values[0]
        }
        lines.append(line | {"joints moved, px": f"{np.mean(moved):.2f}"})
    note = (
        f"Validation split of {frames.name}, networks trained on "
        f"{100 * flags['train_share']:g} % of the data, {sweep.seeds} seeds, frozen "
        "memory, exchanged after training. Moved: mean distance from where the network "
        "as trained has its joints, in pixels of the frame."
    )
    harness.write(sweep, "memory_parts", "The memory exchanged", lines, note)
    harness.write_csv(sweep.results / "memory_parts.csv", lines)


class Trained:
    """A run that is done, to be evaluated with other memories."""

    def __init__(self, run_dir: Path, frames: DepthFrames) -> None:
        self.frames = frames
        self.run = Run.open(run_dir)
        self.model, self.state = self.run.restore()

    def evaluate(self, memory: Memory) -> predictions.Result:
        """Returns the result with a frozen memory."""
        return predictions.evaluate(
            {**self.state.variables, "memory": memory},
            self.frames,
            self.run.statistics,
            sigma=self.run.config.make_sigma(self.model),
            preparation=self.run.config.make_preparation(self.frames),
            model=self.model,
            r=r_for_prediction(self.state, self.run.config.r_switch_step),
        )


def _mean_over_cells(m: jax.Array) -> jax.Array:
    return jnp.broadcast_to(m.mean(axis=(0, 1), keepdims=True), m.shape)


def _shuffled_channels(m: jax.Array) -> jax.Array:
    return jax.random.permutation(jax.random.key(0), m, axis=2)


def _shuffled_cells(m: jax.Array) -> jax.Array:
    cells = m.reshape(-1, m.shape[2])
    return jax.random.permutation(jax.random.key(0), cells).reshape(m.shape)


def _random(m: jax.Array) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), m.shape)


# Of a network's own memory and another's, of another seed.
CHANGES: dict[str, Callable[[Memory, Memory], Memory]] = {
    "as trained": lambda own, other: own,
    "zero": lambda own, other: jax.tree.map(jnp.zeros_like, own),
    "its mean over the map": lambda own, other: jax.tree.map(_mean_over_cells, own),
    "its channels shuffled": lambda own, other: jax.tree.map(_shuffled_channels, own),
    "its cells shuffled": lambda own, other: jax.tree.map(_shuffled_cells, own),
    "of another seed's network": lambda own, other: other,
    "random, as before training": lambda own, other: jax.tree.map(_random, own),
}


if __name__ == "__main__":
    harness.run(main)
