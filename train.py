"""Trains a network: `python train.py --dataset=k2hpd --r_switch_step=10000`."""

import functools
from typing import Annotated, Any

import grain
import jax
import tyro

import cmbjax
import datasets
from cmbjax import plots, runtime
from cmbjax.data.batches import training_batches
from cmbjax.evaluate import predictions, report
from cmbjax.models import fast
from cmbjax.models.network import Network
from cmbjax.scripts import script
from cmbjax.train import initial, sharding, step
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.config import Processes, TrainConfig
from cmbjax.train.loop import Interrupted, fit, read_records
from cmbjax.train.run import Run

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
        sharding.join(
            processes.coordinator_address,
            processes.num_processes,
            processes.process_id,
        )
    # A device has whole streams.
    mesh = sharding.make_mesh(config.batch_size, config.stream_frames)
    load = functools.partial(
        datasets.load, config.dataset, config.data_dir, config.tfds_dir
    )
    # Whoever comes first prepares the data set.
    frames = sharding.first_before_others(functools.partial(load, split="train"))
    model = fast.in_form(config.make_model(frames.skeleton))
    optimizer = config.make_optimizer()
    size_here = config.batch_size // mesh.size
    runtime.check_memory(
        f"--batch_size={config.batch_size} --side={config.side} "
        f"--width={config.width:g}",
        int(size_here * (config.side * max(1.0, config.width)) ** 2),
        functools.partial(
            bytes_of_training, model, optimizer, side=config.side, batch_size=size_here
        ),
    )
    needs_recordings = model.sequential or model.num_frames > 1
    limit = None if needs_recordings else VALIDATION_FRAMES
    validation = sharding.on_first(
        functools.partial(load, split="validation", limit=limit)
    )
    sigma = config.make_sigma(model)
    if config.head3d != "none" and not frames.have_depths:
        raise ValueError(
            f"--head3d={config.head3d}: {frames.name} has no 3-D joints to learn from"
        )
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
        stream_frames=config.stream_frames,
        processes=grain.sharding.ShardByJaxProcess(),
    )
    data = make_data()
    create_state = functools.partial(
        step.create_state,
        model=model,
        optimizer=optimizer,
        side=config.side,
        batch_size=config.batch_size,
    )
    key = jax.random.key(config.seed)
    state = sharding.create(create_state, key, mesh)
    goes_on = Checkpoints.are_in(Run.of(config).folder)
    if config.init_from is not None and not goes_on:
        _, variables = cmbjax.load(config.init_from)
        state, taken = initial.take_over(state, variables)
        sharding.on_first(print, taken.describe(config.init_from))

    # From here on the flags are good: what is refused before leaves no folder behind.
    def claim() -> Run:
        run = Run.claim(config)
        run.take_statistics(frames)
        run.save_config()
        views = run.figures / "augmented.png"
        if not views.exists():
            report.write_views(views, next(make_data()), frames.skeleton)
        return run

    run = sharding.on_first(claim) or Run.of(config)
    checkpoints = Checkpoints(run.folder)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state, data)
        sharding.on_first(print, f"{run.folder}: going on after step {int(state.step)}")

    def validate_here(state: step.TrainState) -> dict[str, float]:
        assert validation is not None, "the first process has it"
        result = predictions.evaluate(
            state.variables,
            validation,
            run.statistics,
            sigma=sigma,
            preparation=preparation,
            memory="rolling" if model.sequential else "frozen",
            decode=model.default_decode,
            flip=model.averages_mirrored and not model.sequential,
            model=model,
            r=step.r_for_prediction(state, config.r_switch_step),
            batch_size=size_here,
            stream_frames=config.stream_frames,
        )
        indices = list(range(min(SHEET_FRAMES, len(result.names))))
        titles = [result.names[i] for i in indices]
        path = run.figures / f"validation_{int(state.step):06d}.png"
        report.write_overlays(
            path, result.poses, validation.source, indices, titles, validation.skeleton
        )
        coefficients = report.fitted_confidence(result, validation.skeleton)
        if coefficients is not None:
            run.save_calibration(coefficients, validation.name)
        summary = report.summary(result, validation.skeleton)
        return {f"validation/{title}": value for title, value in summary.items()}

    def validate(state: step.TrainState) -> dict[str, float]:
        return sharding.on_first(validate_here, sharding.local_copy(state)) or {}

    train_step: Any = functools.partial(
        step.train_step, model=model, optimizer=optimizer, sigma=sigma
    )
    if config.memory_lr or config.memory_steps > 1:
        train_step = functools.partial(
            step.train_step_of_study,
            model=model,
            optimizer=optimizer,
            sigma=sigma,
            memory_lr=config.memory_lr,
            memory_steps=config.memory_steps,
        )

    def next_state(state: step.TrainState, batch: Any, number: int) -> tuple[Any, Any]:
        r = step.r_at(number, config.r_switch_step)
        return train_step(state, sharding.share_batch(batch, mesh), key, r=r)

    try:
        state = fit(
            state,
            data,
            step=next_state,
            validate=validate,
            checkpoints=checkpoints,
            run_dir=run.folder,
            num_steps=config.num_steps,
            log_every=config.log_every,
            validate_every=config.validate_every,
            checkpoint_every=config.checkpoint_every,
        )
    finally:
        checkpoints.close()
    sharding.on_first(finish, run, int(state.step))


def bytes_of_training(
    model: Network, optimizer: Any, *, side: int, batch_size: int
) -> int:
    """Returns about how much memory a step takes, with the state and its gradient."""
    like = step.abstract_state(model, optimizer, side=side, batch_size=batch_size)
    kept = jax.tree.leaves((like, like.params))
    return step.bytes_of_step(model, side=side, batch_size=batch_size) + sum(
        leaf.size * leaf.dtype.itemsize for leaf in kept
    )


def finish(run: Run, num_steps: int) -> None:
    """Draws the loss, and prints the last record."""
    records = read_records(run.folder / "metrics.jsonl")
    plots.loss_curve(records, run.figures / "loss.png")
    print(f"{run.folder}: {num_steps} steps done")
    for name, value in records[-1].items():
        print(f"  {name}: {value}")


if __name__ == "__main__":
    with script("train.py", FloatingPointError, Interrupted):
        runtime.prepare()
        tyro.cli(main, use_underscores=True)
