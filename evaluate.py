"""Evaluates a trained network: `python evaluate.py --metric=pckh`."""

import re
import sys

import tyro

import datasets
from cmbjax import (
    card,
    evaluation,
    formats,
    metrics,
    report,
    runtime,
    training,
)
from cmbjax.checkpoints import read_json
from cmbjax.config import EvalConfig, TrainConfig, newest_run
from cmbjax.registry import pick


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
    skeleton, torso = frames.skeleton, config.torso
    if torso is not None:
        pick(skeleton.torsos, "torso", torso)
    metrics.require(skeleton, config.metric, has_metres=frames.metric, torso=torso)
    model, state = run.restore(run_dir, skeleton.num_joints)
    preparation = run.make_preparation(frames, config.crop)
    own_memory = "rolling" if model.sequential else "frozen"
    memory = config.memory or own_memory
    decode = config.decode or model.own_decode
    flip = config.flip
    if flip is None:
        flip = model.flips and memory == "frozen" and config.network is None
    network, batch_size = None, config.batch_size
    if config.network is not None:
        network = formats.run_file(config.network, precision=config.precision)
        about_network = read_json(config.network.parent / card.CARD_FILE)
        batch_size = about_network["batch_size"]
        made_of = (about_network["run"], about_network["step"])
        if about_network["memory"] != "frozen" or made_of[1] != int(state.step):
            raise ValueError(
                f"--network={config.network} is a {about_network['memory']} network of "
                f"{made_of[0]}, step {made_of[1]}; expected a frozen one of {run_dir}, "
                f"step {int(state.step)}"
            )
    result = evaluation.evaluate(
        state.variables,
        frames,
        statistics,
        sigma=run.make_sigma(model),
        preparation=preparation,
        decode=decode,
        model=model,
        r=training.r_known(state, run.r_switch_step),
        memory=memory,
        order=config.order,
        order_seed=config.order_seed,
        flip=flip,
        batch_size=batch_size,
        network=network,
    )
    columns = report.results_table(result, skeleton, ["all"], torso)
    crop, step = preparation.crop, int(state.step)
    how = memory
    if memory == "rolling" and not model.sequential:
        how += f" {config.order}"
        how += f" {config.order_seed}" if config.order == "shuffled" else ""
    how += f", {decode}" + (", flipped" if flip else "")
    what = f"{frames.name}, crop {crop}, {how}, step {step}"
    if config.network is not None:
        what += f", {config.network.name} {config.precision}"
    folder = re.sub(r"[^\w.]+", "_", what)
    out_dir = config.out_dir or run_dir / "evaluations" / folder
    found = f"{int(result.found.sum())} of {len(result.found)}"
    about = {
        "run": str(run_dir),
        "step": step,
        "frames": frames.name,
        "data_dir": str(data_dir),
        "num_frames": len(result.names),
        "person_found": found,
        "crop": crop,
        "memory": memory,
        "order": "recorded" if model.sequential else config.order,
        "decode": decode,
        "flip": flip,
        "network": str(config.network or "checkpoint"),
        "precision": config.precision,
        "torso": torso or next(iter(skeleton.torsos), None),
        "train_config": run.to_json(),
    }
    report.write_results(out_dir, result, frames, columns, about, torso)
    print(
        f"{run_dir}, step {step}, on {frames.name}: crop {crop}, memory {how}", end=""
    )
    print(f", torso {about['torso']}")
    if crop == "person":
        print(f"{found} persons found in the depth images")
    if 2 * result.found.sum() < len(result.found):
        print("WARNING: mostly nobody was found; see --crop=label_box")
    chosen = metrics.table(result.poses, skeleton, [config.metric], torso)
    columns = {title: columns[title] for title in chosen}
    print(metrics.format_table(columns))
    print(f"Details and pictures: {out_dir}")
    return columns


if __name__ == "__main__":
    try:
        runtime.prepare()
        main(tyro.cli(EvalConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
