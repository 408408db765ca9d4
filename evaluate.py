"""Evaluates a trained network: `python evaluate.py --metric=pckh`."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

import datasets
from cmbjax import metrics, runtime
from cmbjax.data.flags import RunFlags
from cmbjax.depth.crops import CropMode
from cmbjax.evaluate import predictions, report
from cmbjax.files import read_json
from cmbjax.heatmaps import DECODES
from cmbjax.models import fast
from cmbjax.models.network import Network, Outputs
from cmbjax.predict.card import read_card
from cmbjax.predict.runtimes import open_network
from cmbjax.registry import pick
from cmbjax.scripts import script
from cmbjax.train import step
from cmbjax.train.run import Run, data_dir_of, open_run

BATCH_SIZE = 16
WRITTEN = ("results.json", "joints.csv", "pdj.png", "frames.png")  # of a report


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig(RunFlags):
    """Evaluates a trained network and writes tables and pictures."""

    metric: str = "all"
    """pdj, pckh, map_10cm, joint_error or all."""
    memory: Literal["frozen", "rolling"] | None = None
    """Whether predictions write the memory: by default frozen, but rolling in networks
    for recordings."""
    order: Literal["shuffled", "sorted", "reversed"] = "shuffled"
    """Of the frames with rolling memory; of recordings always their own."""
    order_seed: int = 0
    """Of the shuffled order."""
    decode: str | None = None
    """How a heat map's peak becomes a joint: argmax, quarter, dark, smoothed or
    upsampled; by default dark, or what the compared method has."""
    flip: bool | None = None
    """Whether to average with what is seen in the mirrored image; by default where the
    compared method does."""
    crop: CropMode | None = None
    """What the network sees of a frame; by default as in training."""
    label_depth: bool = True
    """Whether --crop=label_box comes with the label's depth, near which the person's is
    read; else the nearest readings in the middle of the box are the person's."""
    torso: str | None = None
    """PDJ's unit: neck_to_hips or shoulder_to_hip."""
    fit_confidence: bool = False
    """Whether to measure on these frames, of --split=validation, how probably a joint
    is right whose heat map is so high; export.py writes that into the card. Of people
    with --decode=smoothed, which predict.py has for them."""
    batch_size: int | None = None
    """Frames a batch; by default 16, of networks for recordings as in training."""
    network: Path | None = None
    """A network.onnx (run by OpenVINO) or network.stablehlo that export.py wrote of
    this run with frozen memory; it answers in place of the checkpoint."""
    precision: Literal["f32", "bf16"] = "f32"
    """Of network.onnx."""
    out_dir: Path | None = None
    """Where the results go; by default into the run's folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decode is not None:
            pick(DECODES, "decode", self.decode)
        if self.metric != "all":
            pick(metrics.METRICS, "metric", self.metric)
        if self.fit_confidence and self.split != "validation":
            raise ValueError(
                "--fit_confidence is measured on validation frames: expected "
                f"--split=validation, got {self.split}"
            )
        if self.fit_confidence and (self.network or self.memory == "rolling"):
            raise ValueError(
                "--fit_confidence is of the run's own network with a frozen memory; "
                "expected neither --network nor --memory=rolling"
            )
        if self.network is not None and self.memory == "rolling":
            raise ValueError(f"--network is frozen, got --memory={self.memory}")
        if self.network is not None and self.flip:
            raise ValueError("--network sees no mirrored image, got --flip")


def main(config: EvalConfig) -> metrics.Columns:
    """Prints the table, writes the results folder, and returns the table."""
    run, frames = open_run(config, datasets.load)
    if config.out_dir is not None:
        check_out_dir(config.out_dir, run)
    skeleton, torso = frames.skeleton, config.torso
    if torso is not None:
        pick(skeleton.torsos, "torso", torso)
    metrics.require(skeleton, config.metric, has_metres=frames.metric, torso=torso)
    model, state = run.restore()
    model = fast.in_form(model)  # as train.py validates
    preparation = dataclasses.replace(
        run.config.make_preparation(frames, config.crop), label_depth=config.label_depth
    )
    if not config.label_depth and preparation.crop != "label_box":
        raise ValueError(
            f"--no_label_depth goes with --crop=label_box, got {preparation.crop}"
        )
    memory: str = config.memory or ("rolling" if model.sequential else "frozen")
    if memory == "rolling" and not (model.remembers or model.sequential):
        raise ValueError(
            f"--memory=rolling: {run.config.model} has no memory; use frozen"
        )
    if memory == "rolling" and config.flip:
        what = "" if config.memory else f", which {run.config.model} has by default"
        raise ValueError(f"--flip goes with --memory=frozen, got rolling{what}")
    if config.flip and model.chooses:
        raise ValueError(
            f"--flip: {run.config.model} chooses one of several places for a joint, "
            "and two choices have no mean"
        )
    decode = config.decode or model.default_decode
    flip = config.flip
    if flip is None:
        is_frozen = memory == "frozen" and config.network is None
        flip = model.averages_mirrored and is_frozen
    if config.network is not None:
        network, batch_size = load_network(config, run, int(state.step))
    else:
        usual = run.config.batch_size if model.sequential else BATCH_SIZE
        network, batch_size = None, config.batch_size or usual
        if not model.sequential:  # else it is so many streams
            batch_size = min(batch_size, max(1, len(frames)))
        shape = (batch_size, preparation.side, preparation.side, model.num_frames)
        mirror = frames.skeleton.mirror if flip else None
        check_memory(model, state, shape, mirror)
    result = predictions.evaluate(
        state.variables,
        frames,
        run.statistics,
        sigma=run.config.make_sigma(model),
        preparation=preparation,
        decode=decode,
        model=model,
        r=step.r_for_prediction(state, run.config.r_switch_step),
        memory=memory,
        order=config.order,
        order_seed=config.order_seed,
        flip=flip,
        batch_size=batch_size,
        stream_frames=run.config.stream_frames,
        network=network,
    )
    columns = report.results_table(result, skeleton, ["all"], torso)
    how: str = memory
    if memory == "rolling" and not model.sequential:
        how += f" {config.order}"
        how += f" {config.order_seed}" if config.order == "shuffled" else ""
    how += f", {decode}" + (", flipped" if flip else "")
    how += f", {torso}" if torso is not None else ""
    crop = preparation.crop + ("" if config.label_depth else " without its depth")
    what = f"{frames.name}, crop {crop}, {how}, step {int(state.step)}"
    if config.network is not None:
        what += f", {config.network.name} {config.precision}"
    out_dir = config.out_dir or run.evaluations / re.sub(r"[^\w.]+", "_", what)
    number_found = int(result.is_found.sum())
    person_found = f"{number_found} of {len(result.is_found)}"
    about = {
        "run": str(run.folder),
        "step": int(state.step),
        "frames": frames.name,
        "data_dir": str(data_dir_of(config, run.config)),
        "num_frames": len(result.names),
        "person_found": person_found,
        "crop": crop,
        "memory": memory,
        "order": "recorded" if model.sequential else config.order,
        "decode": decode,
        "flip": flip,
        "network": str(config.network or "checkpoint"),
        "precision": config.precision,
        "torso": torso or next(iter(skeleton.torsos), None),
        "train_config": run.config.to_json(),
    }
    if config.fit_confidence:
        coefficients = report.fitted_confidence(result, skeleton)
        if coefficients is None:
            raise ValueError(
                f"--fit_confidence: in {frames.name} nothing tells right from wrong"
            )
        run.save_calibration(coefficients, frames.name)
    of_confidence = None
    if run.calibration is not None:
        of_confidence = report.confidence(result, run.calibration, skeleton)
    about["confidence"] = of_confidence
    report.write_results(out_dir, result, frames, columns, about, torso)
    print(f"{run.folder}, {what}, torso {about['torso']}")
    if preparation.crop == "person":
        print(f"{person_found} persons found in the depth images")
    if 2 * number_found < len(result.is_found):
        print("WARNING: mostly nobody was found; see --crop=label_box")
    titles = metrics.table(result.poses, skeleton, [config.metric], torso)
    columns = {title: columns[title] for title in titles}
    print(metrics.format_table(columns))
    if of_confidence is not None:
        print(
            "confidence: mean {mean:.3f}, right {right:.3f}, expected calibration "
            "error {ece:.3f}, area under ROC {auroc:.3f}".format(**of_confidence)
        )
    print(f"Details and pictures: {out_dir}")
    return columns


def check_memory(
    model: Network,
    state: step.TrainState,
    shape: tuple[int, ...],
    mirror: tuple[int, ...] | None,
) -> None:
    """Refuses a batch of this shape, see `predictions.apply_frozen`, that is too large.

    Raises:
        ValueError: No device holds it.
    """
    forward = functools.partial(
        predictions.apply_frozen, model=model, r=step.R_AFTER_SWITCH, mirror=mirror
    )
    depth = jax.ShapeDtypeStruct(shape, jnp.float32)
    runtime.check_memory(
        f"--batch_size={shape[0]}",
        math.prod(shape),
        functools.partial(runtime.bytes_at_once, forward, state.variables, depth),
    )


def check_out_dir(out_dir: Path, run: Run) -> None:
    """Refuses to write over what no evaluation wrote.

    In the run's own folder nothing else has these names, and what evaluate.py wrote
    elsewhere is told by its results.json, which names a run's config.

    Raises:
        ValueError: One of the files is there.
    """
    there = [name for name in WRITTEN if (out_dir / name).exists()]
    if not there or out_dir.resolve().is_relative_to(run.folder.resolve()):
        return
    try:
        about = read_json(out_dir / "results.json", dict[str, Any])
    except (ValueError, OSError):
        about = {}
    if "train_config" not in about:
        raise ValueError(
            f"--out_dir={out_dir} holds {', '.join(there)}, but no results.json of "
            "evaluate.py: expected an empty folder, or that of an earlier evaluation"
        )


def load_network(
    config: EvalConfig, run: Run, step: int
) -> tuple[Callable[..., Outputs], int]:
    """Returns the exported network of --network, and its batch size.

    Raises:
        ValueError: It is of another run or step, or it is not frozen.
    """
    assert config.network is not None
    card = read_card(config.network.parent)
    if card.memory != "frozen" or (card.run, card.step) != (str(run.folder), step):
        raise ValueError(
            f"--network={config.network} is a {card.memory} network of {card.run}, "
            f"step {card.step}; expected a frozen one of {run.folder}, step {step}"
        )
    network = open_network(
        card.file(config.network.name), tuple(card.outputs), precision=config.precision
    )
    return lambda depth: Outputs(**network({"depth": depth})), card.batch_size


if __name__ == "__main__":
    with script("evaluate.py"):
        runtime.prepare()
        main(tyro.cli(EvalConfig, use_underscores=True))
