"""Trains a network: `python train.py --dataset=k2hpd --r_switch_step=10000`."""

import functools
import sys

import jax
import tyro

import datasets
from cmbjax import evaluation, plots, report, training
from cmbjax.checkpoints import Checkpoints
from cmbjax.config import TrainConfig
from cmbjax.loop import Interrupted, fit, read_records
from cmbjax.pipeline import training_batches

VALIDATION_FRAMES = 500
SHEET_FRAMES = 12


def main(config: TrainConfig) -> None:
    """Trains, or goes on training, the run that the config describes."""
    source = (config.dataset, config.data_dir, config.tfds_dir)
    frames = datasets.load(*source, split="train")
    validation = datasets.load(*source, split="validation", limit=VALIDATION_FRAMES)
    if config.head3d and not frames.metric:
        raise ValueError(f"--head3d: {frames.name} has no 3-D joints to learn from")
    model = config.make_model(frames.skeleton.num_joints)
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
    )
    data = make_data()
    state = training.create_state(
        jax.random.key(config.seed),
        model,
        optimizer,
        side=config.side,
        batch_size=config.batch_size,
    )
    if config.memory_lr and not state.memory:
        raise ValueError(f"--memory_lr: {config.model} has no memory to optimize")

    # From here on the flags are good: what is refused before leaves no folder behind.
    run_dir = config.claim_folder()
    statistics = evaluation.run_statistics(run_dir, frames)
    config.save()
    checkpoints = Checkpoints(run_dir)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state, data)
        print(f"{run_dir}: going on after step {int(state.step)}")
    figures = run_dir / "figures"
    figures.mkdir(exist_ok=True)
    views = figures / "augmented.png"
    if not views.exists():
        report.write_views(views, next(make_data()), frames.skeleton)

    def validate(state: training.TrainState) -> dict[str, float]:
        step = int(state.step)
        result = evaluation.evaluate(
            state.variables,
            validation,
            statistics,
            sigma=config.sigma,
            preparation=preparation,
            model=model,
            r=training.r_known(state, config.r_switch_step),
            batch_size=config.batch_size,
        )
        shown = range(min(SHEET_FRAMES, len(result.names)))
        titles = [result.names[i] for i in shown]
        path = figures / f"validation_{step:06d}.png"
        report.write_overlays(path, result, validation, list(shown), titles)
        summary = report.summary(result, validation.skeleton)
        return {f"validation/{title}": value for title, value in summary.items()}

    try:
        state = fit(
            state,
            data,
            step=functools.partial(
                training.train_step,
                model=model,
                optimizer=optimizer,
                sigma=config.sigma,
                r_switch_step=config.r_switch_step,
                memory_lr=config.memory_lr,
            ),
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
    records = list(read_records(run_dir / "metrics.jsonl"))
    plots.loss_curve(records, figures / "loss.png")
    print(f"{run_dir}: {int(state.step)} steps done")
    for name, value in records[-1].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    try:
        main(tyro.cli(TrainConfig, use_underscores=True))
    except (ValueError, OSError, FloatingPointError, Interrupted) as error:
        sys.exit(f"train.py: {error}")
