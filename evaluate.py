"""Evaluates a trained network: `python evaluate.py --metric=pckh`."""

import sys

import tyro

import datasets
from cmbjax import evaluation, metrics, report, training
from cmbjax.checkpoints import Checkpoints
from cmbjax.config import EvalConfig, TrainConfig, newest_run


def main(config: EvalConfig) -> metrics.Columns:
    """Prints the table, writes the results folder, and returns the table."""
    run_dir = config.run_dir or newest_run()
    run = TrainConfig.load(run_dir)
    dataset = config.dataset or run.dataset
    data_dir = config.data_dir or (run.data_dir if dataset == run.dataset else None)
    tfds_dir = config.tfds_dir or run.tfds_dir
    statistics = evaluation.Statistics.load(run_dir)
    frames = datasets.load(dataset, data_dir, tfds_dir, split=config.split)
    if frames.skeleton.name != statistics.skeleton:
        raise ValueError(
            f"--dataset={dataset} has the joints {frames.skeleton.name}, but the run "
            f"{run_dir} was trained on {statistics.skeleton}"
        )
    model = run.make_model(frames.skeleton.num_joints)
    state = Checkpoints(run_dir).restore(
        training.abstract_state(
            model, run.make_optimizer(), side=run.side, batch_size=run.batch_size
        )
    )
    preparation = run.make_preparation(frames, config.crop)
    result = evaluation.evaluate(
        state.variables,
        frames,
        statistics,
        sigma=run.sigma,
        preparation=preparation,
        decode=config.decode,
        model=model,
        r=training.r_at(int(state.step), run.r_switch_step),
        memory=config.memory,
        batch_size=config.batch_size,
    )
    skeleton = frames.skeleton
    columns = report.results_table(result, skeleton, [config.metric], config.torso)
    crop, step = preparation.crop, int(state.step)
    name = "_".join(
        [dataset.replace("/", "_"), config.split, crop, config.memory, config.decode]
    )
    out_dir = config.out_dir or run_dir / "evaluations" / name
    found = f"{int(result.found.sum())} of {len(result.found)}"
    about = {
        "run": str(run_dir),
        "step": step,
        "dataset": dataset,
        "data_dir": str(data_dir),
        "split": config.split,
        "frames": len(result.names),
        "person_found": found,
        "crop": crop,
        "memory": config.memory,
        "decode": config.decode,
        "torso": config.torso or next(iter(skeleton.torsos), None),
        "train_config": run.to_json(),
    }
    report.write_results(out_dir, result, frames, columns, about, config.torso)
    print(
        f"{run_dir}, step {step}, on {dataset} ({config.split}, {found} persons found,"
    )
    print(f"crop {crop}, memory {config.memory}, decode {config.decode})")
    print(metrics.format_table(columns))
    print(f"Details and pictures: {out_dir}")
    return columns


if __name__ == "__main__":
    try:
        main(tyro.cli(EvalConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
