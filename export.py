"""Writes a trained network as StableHLO and ONNX: `python export.py --format=onnx`."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import datasets
from cmbjax import runtime
from cmbjax.data.batches import evaluation_batches
from cmbjax.data.examples import DepthFrames
from cmbjax.data.flags import RunFlags
from cmbjax.data.views import Preparation
from cmbjax.export import card, formats
from cmbjax.files import write_text
from cmbjax.models import Network, PoseNet
from cmbjax.predict import runtimes
from cmbjax.predict.card import (
    FORMAT,
    INT8_FILE,
    MEMORY_FILE,
    ONNX_FILE,
    STABLEHLO_FILE,
    WEIGHTS_FILE,
    MemoryUse,
    find_folder,
    read_card,
    write_card,
)
from cmbjax.predict.runtimes import load_weights
from cmbjax.scripts import script
from cmbjax.train import step
from cmbjax.train.run import open_run

BF16 = "OpenVINO, bf16"  # measured, and not expected to agree
INT8 = "ONNX Runtime, int8"  # likewise
ALL = ("weights", "stablehlo", "onnx")
EXPORTS = (*ALL, "int8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(RunFlags):
    """Writes a trained network as files that run without this library."""

    format: str = "all"
    """weights, for cmbjax.load and Predictor; stablehlo, for JAX; onnx, for ONNX
    Runtime, OpenVINO and others; several joined by +; or all of these. int8, beside
    onnx: the same with 8 bits, calibrated on the frames that are checked with."""
    memory: MemoryUse = "frozen"
    """Part of the network, or an input and an output of it."""
    batch_size: int = 1
    """Frames at once; the files know no other number."""
    split: str = "validation"
    """train, validation or test, whose frames are used to check."""
    num_frames: int = 16
    """Frames to check with, at least; two batches at least."""
    mean_with: str | None = None
    """Another network of the same kind, by its name or the folder that export.py wrote:
    what is written is the mean of its weights and this run's."""
    mean_share: float = 0.5
    """Of the other network in that mean."""
    out_dir: Path | None = None
    """Replaced; by default export/<memory>_<batch_size> in the run's folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "int8" in self.formats and "onnx" not in self.formats:
            raise ValueError("--format: int8 is made of onnx: add that")
        if "int8" in self.formats and self.memory == "rolling":
            raise ValueError("--format: int8 is for a frozen memory")
        card.check_share(self.mean_share)
        if unknown := set(self.formats) - set(EXPORTS):
            raise ValueError(
                f"--format must be all, or of {', '.join(EXPORTS)} joined by +, got "
                f"{'+'.join(sorted(unknown))!r}"
            )

    @property
    def formats(self) -> tuple[str, ...]:
        """What to write."""
        return ALL if self.format == "all" else tuple(self.format.split("+"))


def main(config: ExportConfig) -> Path:
    """Writes the network, checks what was written, and returns the folder."""
    if "onnx" in config.formats:
        formats.require_onnx()
    run, frames = open_run(config, datasets.load)
    flags = run.config
    model = flags.make_model(frames.skeleton)
    is_ours = isinstance(model, PoseNet) and not model.sequential
    if not is_ours or model.num_frames > 1:
        raise ValueError(
            f"{run.folder} is of --model={flags.model}; expected one of the networks "
            "with memory blocks, or without, for single frames: the others are here to "
            "be compared with"
        )
    rolling, slots = config.memory == "rolling", flags.memory_mode == "per_sample"
    if rolling and not model.remembers:
        raise ValueError(f"--memory=rolling: {flags.model} has no memory; use frozen")
    if rolling and slots and config.batch_size != flags.batch_size:
        raise ValueError(
            f"--memory=rolling needs --batch_size={flags.batch_size}, a frame for each "
            f"slot of this run's per_sample memory, got {config.batch_size}"
        )
    number = max(2, -(-config.num_frames // config.batch_size))
    runtime.check_memory(
        f"--num_frames={config.num_frames} --batch_size={config.batch_size}",
        number * config.batch_size * flags.side**2,
        lambda: bytes_to_check(model, flags.side, number, config.batch_size),
    )
    _, state = run.restore()
    variables = state.variables
    if config.mean_with is not None:
        variables = mean_with(model, variables, config.mean_with, config.mean_share)
    r = step.r_for_prediction(state, flags.r_switch_step)
    preparation = flags.make_preparation(frames)
    batches = depth_batches(frames, preparation, number, config.batch_size)
    calibration = run.calibration
    about = {
        "format": FORMAT,
        "network": card.of_network(flags.model, model),
        "run": str(run.folder),
        "model": flags.model,
        "step": int(state.step),
        "parameters": sum(value.size for value in jax.tree.leaves(state.params)),
        "config": card.of_run(flags),
        "trained_on": run.statistics.frames,
        "mean_with": config.mean_with,
        "mean_share": None if config.mean_with is None else config.mean_share,
        "command": card.command(flags),
        "evaluations": card.of_evaluations(run.folder, int(state.step)),
        "skeleton": frames.skeleton.name,
        "joints": list(frames.skeleton.joints),
        **card.of_preparation(preparation, stride=model.stride, metric=frames.metric),
        "calibration": None if calibration is None else calibration.tolist(),
        "offsets_m": run.statistics.offsets_m.tolist(),
        "memory": config.memory,
        "memory_mode": flags.memory_mode,
        "r": r,
        "batch_size": config.batch_size,
        "dtype": "float32",
        "frames": {
            "name": frames.name,
            "number": min(number * config.batch_size, len(frames.source)),
        },
        "versions": card.versions(onnx="onnx" in config.formats),
    }
    networks = formats.forms(model, variables, side=flags.side, r=r, rolling=rolling)
    default = run.exports / f"{config.memory}_{config.batch_size}"
    out_dir = config.out_dir or default
    with card.whole_folder(out_dir) as folder:
        if "weights" in config.formats:
            card.save_weights(folder / WEIGHTS_FILE, variables)
        write(folder, networks, batches, about, config.formats)
    for name, value in about["differences"].items():
        print(f"{name}: {value:.1e} of the outputs' range")
    print(f"Files and how to call them: {out_dir / card.TEXT_FILE}")
    return out_dir


def mean_with(model: Network, variables: Any, other: str, share: float) -> Any:
    """Returns the mean of a network's variables and another's; see `card.mean_of`.

    Args:
        model: The network.
        variables: Parameters, memory and statistics.
        other: A name, or a folder that `main` wrote.
        share: Of the other's in the mean.

    Raises:
        ValueError: The other is another network.
    """
    made, others = load_weights(read_card(find_folder(other)))
    shapes = [jax.tree.map(np.shape, dict(x)) for x in (variables, others)]
    if (
        card.of_network("", made) != card.of_network("", model)
        or shapes[0] != shapes[1]
    ):
        raise ValueError(
            f"--mean_with={other} is another network: expected the arguments, the side "
            "and the memory of this run"
        )
    return card.mean_of(variables, others, share)


def bytes_to_check(model: Network, side: int, number: int, batch_size: int) -> int:
    """Returns about how much memory checking on so many batches takes.

    The frames are there twice while they are stacked, and three functions' outputs
    while these are compared.
    """
    depth = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), depth)
    apply = functools.partial(model.apply, train=False)
    outputs = jax.tree.leaves(jax.eval_shape(apply, variables, depth))
    kept = 2 * depth.size + 3 * sum(output.size for output in outputs)
    of_frame = number * kept * depth.dtype.itemsize
    return batch_size * (of_frame + runtime.bytes_at_once(apply, variables, depth))


def depth_batches(
    frames: DepthFrames, preparation: Preparation, number: int, batch_size: int
) -> np.ndarray:
    """Returns [number, batch_size, side, side, 1]: frames spread over a split."""
    available, wanted = len(frames.source), number * batch_size
    if not available:
        raise ValueError(f"{frames.name} has no frames to check with")
    chosen = np.array([i * available // wanted for i in range(wanted)])
    batches = evaluation_batches(
        frames,
        preparation=preparation,
        batches=chosen.reshape(number, batch_size).tolist(),
    )
    return np.stack([batch.views["depth"] for batch in batches])


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
        about: The card as far as it is; the rest is added.
        chosen: Of stablehlo and onnx, those to write.
    """
    memory, names = networks.memory, networks.output_names
    if memory:
        np.savez(folder / MEMORY_FILE, **memory)
    arguments = {"depth": batches[0], **memory}
    run_over = functools.partial(
        formats.run_over, batches=batches, memory=tuple(memory.values())
    )
    expected = run_over(jax.jit(networks.trained))
    outputs = dict(zip(names, expected, strict=True))

    def open_file(path: Path, **options: Any) -> formats.Function:
        network = runtimes.open_network(path, names, **options)

        def function(*arrays: Any) -> formats.Arrays:
            inputs = dict(zip(arguments, map(np.asarray, arrays), strict=True))
            return tuple(network(inputs).values())

        return function

    functions: dict[str, formats.Function] = {}
    if "stablehlo" in chosen:
        path = folder / STABLEHLO_FILE
        formats.write_stablehlo(path, networks.folded, tuple(arguments.values()))
        functions["StableHLO"] = open_file(path)
        folded = run_over(jax.jit(networks.folded))
        formats.check_equal("StableHLO", run_over(functions["StableHLO"]), folded)
    if "onnx" in chosen:
        path = folder / ONNX_FILE
        formats.write_onnx(path, networks.layers, arguments, names)
        functions["ONNX Runtime"] = open_file(path, backend="onnxruntime")
        functions["OpenVINO"] = open_file(path, backend="openvino")
        functions[BF16] = open_file(path, backend="openvino", precision="bf16")
    if "int8" in chosen:
        path = folder / INT8_FILE
        formats.write_int8(path, folder / ONNX_FILE, batches)
        functions[INT8] = open_file(path, backend="onnxruntime")
    differences = {
        name: formats.difference(run_over(function), expected)
        for name, function in functions.items()
    }
    for name in differences.keys() - {BF16, INT8}:
        formats.check(name, differences[name])
    about["differences"] = differences
    about["inputs"] = {name: list(value.shape) for name, value in arguments.items()}
    about["outputs"] = {name: list(value.shape[1:]) for name, value in outputs.items()}
    about["files"] = card.of_files(sorted(folder.iterdir()))
    write_card(folder, about)
    write_text(folder / card.TEXT_FILE, card.markdown(about))


if __name__ == "__main__":
    with script("export.py"):
        runtime.prepare()
        main(tyro.cli(ExportConfig, use_underscores=True))
