"""Writes a trained network as StableHLO and ONNX: `python export.py --format=onnx`."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

import datasets
from cmbjax import card, evaluation, formats, runtime, training
from cmbjax.files import write_json, write_text
from cmbjax.config import ExportConfig, TrainConfig, newest_run
from cmbjax.models import PoseNet
from cmbjax.pipeline import DepthFrames, Preparation, evaluation_batches

BF16 = "OpenVINO, bf16"  # measured, and not expected to agree


def main(config: ExportConfig) -> Path:
    """Writes the network, checks what was written, and returns the folder."""
    if "onnx" in config.formats:
        formats.require_onnx()
    run_dir = config.run_dir or newest_run()
    run = TrainConfig.load(run_dir)
    statistics = evaluation.Statistics.load(run_dir)
    dataset = config.dataset or run.dataset
    data_dir = config.data_dir or (run.data_dir if dataset == run.dataset else None)
    frames = datasets.load(
        dataset, data_dir, config.tfds_dir or run.tfds_dir, split=config.split
    )
    if frames.skeleton.name != statistics.skeleton:
        raise ValueError(
            f"--dataset={dataset} has the joints {frames.skeleton.name}, but the run "
            f"{run_dir} was trained on {statistics.skeleton}"
        )
    model = run.make_model(frames.skeleton.num_joints)
    if model.sequential or model.clip > 1 or not isinstance(model, PoseNet):
        raise ValueError(
            f"{run_dir} is of --model={run.model}; expected one of the networks with "
            "memory blocks, or without, for single frames: the others are here to be "
            "compared with"
        )
    rolling, slots = config.memory == "rolling", run.memory_mode == "per_sample"
    like = training.abstract_state(
        model, run.make_optimizer(), side=run.side, batch_size=run.batch_size
    )
    if rolling and not like.memory:
        raise ValueError(f"--memory=rolling: {run.model} has no memory; use frozen")
    if rolling and slots and config.batch_size != run.batch_size:
        raise ValueError(
            f"--memory=rolling needs --batch_size={run.batch_size}, a frame for each "
            f"slot of this run's per_sample memory, got {config.batch_size}"
        )
    _, state = run.restore(run_dir, frames.skeleton.num_joints)
    r = float(training.r_known(state, run.r_switch_step))
    preparation = run.make_preparation(frames)
    number = max(2, -(-config.num_frames // config.batch_size))
    batches = depth_batches(frames, preparation, number, config.batch_size)
    about = {
        "run": str(run_dir),
        "model": run.model,
        "step": int(state.step),
        "parameters": sum(value.size for value in jax.tree.leaves(state.params)),
        "config": card.of_run(run),
        "trained_on": statistics.frames,
        "command": card.command(run),
        "evaluations": card.of_evaluations(run_dir, int(state.step)),
        "skeleton": frames.skeleton.name,
        "joints": list(frames.skeleton.joints),
        **card.of_preparation(preparation, stride=model.stride, metric=frames.metric),
        "offsets_m": statistics.offsets_m.tolist(),
        "memory": config.memory,
        "memory_mode": run.memory_mode,
        "r": r,
        "batch_size": config.batch_size,
        "dtype": "float32",
        "frames": {
            "name": frames.name,
            "number": min(number * config.batch_size, len(frames.source)),
        },
        "versions": card.versions(onnx="onnx" in config.formats),
    }
    networks = formats.forms(model, state.variables, r=r, rolling=rolling)
    default = run_dir / "export" / f"{config.memory}_{config.batch_size}"
    out_dir = config.out_dir or default
    with formats.whole_folder(out_dir, card.FILES) as folder:
        if "weights" in config.formats:
            card.save_weights(folder / card.WEIGHTS_FILE, state.variables)
        write(folder, networks, batches, about, config.formats)
    for name, value in about["differences"].items():
        print(f"{name}: {value:.1e} of the outputs' range")
    print(f"Files and how to call them: {out_dir / card.TEXT_FILE}")
    return out_dir


def depth_batches(
    frames: DepthFrames, preparation: Preparation, number: int, batch_size: int
) -> np.ndarray:
    """Returns [number, batch_size, side, side, 1]: frames spread over a split."""
    there, wanted = len(frames.source), number * batch_size
    if not there:
        raise ValueError(f"{frames.name} has no frames to check with")
    chosen = np.array([i * there // wanted for i in range(wanted)])
    batches = evaluation_batches(
        frames,
        preparation=preparation,
        batches=chosen.reshape(number, batch_size).tolist(),
    )
    return np.stack([views["depth"] for _, views in batches])


def write(
    folder: Path,
    networks: formats.Forms,
    batches: np.ndarray,
    about: card.Card,
    chosen: Sequence[str],
) -> None:
    """Writes and checks the files, and then the card.

    Args:
        folder: To write into.
        networks: The trained network.
        batches: See `depth_batches`.
        about: What is known so far; the rest is added.
        chosen: Of stablehlo and onnx, those to write.
    """
    memory = networks.memory
    if memory:
        np.savez(folder / formats.MEMORY_FILE, **memory)
    arguments = {"depth": batches[0], **memory}
    run_over = functools.partial(
        formats.run_over, batches=batches, memory=tuple(memory.values())
    )
    expected = run_over(jax.jit(networks.trained))
    heads = [
        "depth_maps" if output.ndim == 5 else "joints"
        for output in expected[1 : len(expected) - len(memory)]
    ]
    names = ["heatmaps", *heads]
    outputs = dict(
        zip([*names, *(f"new_{name}" for name in memory)], expected, strict=True)
    )
    runs: dict[str, formats.Network] = {}
    if "stablehlo" in chosen:
        path = folder / formats.STABLEHLO_FILE
        formats.write_stablehlo(path, networks.folded, tuple(arguments.values()))
        runs["StableHLO"] = formats.run_stablehlo(path)
        folded = run_over(jax.jit(networks.folded))
        formats.check_equal("StableHLO", run_over(runs["StableHLO"]), folded)
    if "onnx" in chosen:
        path = folder / formats.ONNX_FILE
        formats.write_onnx(path, networks.layers, arguments, list(outputs))
        runs["ONNX Runtime"] = formats.run_onnxruntime(path)
        runs["OpenVINO"] = formats.run_openvino(path)
        runs[BF16] = formats.run_openvino(path, precision="bf16")
    differences = {
        name: formats.difference(run_over(run), expected) for name, run in runs.items()
    }
    for name in differences.keys() - {BF16}:
        formats.check(name, differences[name])
    about["differences"] = differences
    about["inputs"] = {name: list(value.shape) for name, value in arguments.items()}
    about["outputs"] = {name: list(value.shape[1:]) for name, value in outputs.items()}
    about["files"] = card.of_files(sorted(folder.iterdir()))
    write_json(folder / card.CARD_FILE, about)
    write_text(folder / card.TEXT_FILE, card.markdown(about))


if __name__ == "__main__":
    try:
        runtime.prepare()
        main(tyro.cli(ExportConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"export.py: {error}")
