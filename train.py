"""Trains a network: `python train.py --dataset=k2hpd --r_switch_step=10000`."""

import functools
import sys
from pathlib import Path
from typing import Annotated, Any

import grain
import jax
import tyro

import datasets
from cmbjax import evaluation, plots, report, runtime, scale, training
from cmbjax.checkpoints import Checkpoints
from cmbjax.config import Processes, TrainConfig
from cmbjax.loop import Interrupted, fit, read_records
from cmbjax.pipeline import training_batches

VALIDATION_FRAMES = 500
SHEET_FRAMES = 12

Flags = tyro.conf.arg(name="")  # named like the fields alone
ALONE = Processes()


def main(
    config: Annotated[TrainConfig, Flags],
    processes: Annotated[Processes, Flags] = ALONE,
) -> None:
    """Trains one network on one data set. Started again in its folder, it goes on.

    Args:
        config: What to train.
        processes: With whom.
    """
    if processes.distributed:
        scale.join(
            processes.coordinator_address,
            processes.num_processes,
            processes.process_id,
        )
    mesh = scale.make_mesh(config.batch_size)
    load = functools.partial(
        datasets.load, config.dataset, config.data_dir, config.tfds_dir
    )
    # Whoever comes first prepares the data set.
    frames = scale.first_before_others(functools.partial(load, split="train"))
    model = config.make_model(frames.skeleton.num_joints)
    recorded = model.sequential or model.clip > 1  # cannot do with a part of the frames
    limit = None if recorded else VALIDATION_FRAMES
    validation = scale.on_first(
        functools.partial(load, split="validation", limit=limit)
    )
    sigma = config.make_sigma(model)
    if config.head3d != "none" and not frames.metric:
        raise ValueError(f"--head3d: {frames.name} has no 3-D joints to learn from")
    optimizer = config.make_optimizer()
    preparation = config.make_preparation(frames)
    make_data = functools.partial(
        training_batches,
        frames,
        preparation=preparation,
        augmentation=config.augmentation,
        batch_size=config.batch_size,
        seed=config.seed,
        share=config.train_share,
        sequential=model.sequential,
        processes=grain.sharding.ShardByJaxProcess(),
    )
    data = make_data()
    create_state = functools.partial(
        training.create_state,
        model=model,
        optimizer=optimizer,
        side=config.side,
        batch_size=config.batch_size,
    )
    state = scale.create(create_state, jax.random.key(config.seed), mesh)
    if config.memory_lr and not state.memory:
        raise ValueError(f"--memory_lr: {config.model} has no memory to optimize")

    # From here on the flags are good: what is refused before leaves no folder behind.
    run_dir, figures = config.folder, config.folder / "figures"

    def claim() -> evaluation.Statistics:
        config.claim_folder()
        statistics = evaluation.run_statistics(run_dir, frames)
        config.save()
        figures.mkdir(exist_ok=True)
        views = figures / "augmented.png"
        if not views.exists():
            report.write_views(views, next(make_data()), frames.skeleton)
        return statistics

    statistics = scale.on_first(claim)
    checkpoints = Checkpoints(run_dir)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state, data)
        scale.on_first(print, f"{run_dir}: going on after step {int(state.step)}")

    def validate_here(state: training.TrainState) -> dict[str, float]:
        assert validation is not None and statistics is not None, "on the first"
        step = int(state.step)
        result = evaluation.evaluate(
            state.variables,
            validation,
            statistics,
            sigma=sigma,
            preparation=preparation,
            memory="rolling" if model.sequential else "frozen",
            decode=model.own_decode,
            model=model,
            r=training.r_known(state, config.r_switch_step),
            batch_size=config.batch_size // mesh.size,
        )
        shown = range(min(SHEET_FRAMES, len(result.names)))
        titles = [result.names[i] for i in shown]
        path = figures / f"validation_{step:06d}.png"
        report.write_overlays(path, result, validation, list(shown), titles)
        summary = report.summary(result, validation.skeleton)
        return {f"validation/{title}": value for title, value in summary.items()}

    def validate(state: training.TrainState) -> dict[str, float]:
        return scale.on_first(validate_here, scale.local_copy(state)) or {}

    train_step = functools.partial(
        training.train_step,
        model=model,
        optimizer=optimizer,
        sigma=sigma,
        memory_lr=config.memory_lr,
        memory_steps=config.memory_steps,
    )

    def step(state: training.TrainState, batch: Any, number: int) -> tuple[Any, Any]:
        r = training.r_at(number, config.r_switch_step)
        return train_step(state, scale.share_batch(batch, mesh), r=r)

    try:
        state = fit(
            state,
            data,
            step=step,
            validate=validate,
            checkpoints=checkpoints,
            run_dir=run_dir,
            num_steps=config.num_steps,
            log_every=config.log_every,
            validate_every=config.validate_every,
            checkpoint_every=config.checkpoint_every,
        )
    finally:
        checkpoints.close()
    scale.on_first(finish, run_dir, int(state.step))


def finish(run_dir: Path, step: int) -> None:
    """Draws the loss, and prints the last record."""
    records = list(read_records(run_dir / "metrics.jsonl"))
    plots.loss_curve(records, run_dir / "figures" / "loss.png")
    print(f"{run_dir}: {step} steps done")
    for name, value in records[-1].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    try:
        runtime.prepare()
        tyro.cli(main, use_underscores=True)
    except (ValueError, OSError, FloatingPointError, Interrupted) as error:
        sys.exit(f"train.py: {error}")
