"""The card of an exported network is made here, and the text made of it."""

import contextlib
import functools
import glob
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
from flax import traverse_util

import cmbjax
from cmbjax.data.views import Preparation
from cmbjax.depth import crops
from cmbjax.export.formats import ONNX_PACKAGES
from cmbjax.files import checked, checksum, only_one, read_json
from cmbjax.models.network import Network
from cmbjax.predict.card import (
    CARD_FILE,
    MEMORY_FILE,
    ONNX_FILE,
    STABLEHLO_FILE,
    WEIGHTS_FILE,
    read_card,
)
from cmbjax.train.config import TrainConfig

TEXT_FILE = "README.md"
LOCK = "export.lock"  # in a folder that becomes another one
NEW, OLD = "new", "old"
# Fields of a network that a card holds, where the network has them.
NETWORK_FIELDS = ("num_joints", "width", "head3d", "memory_mode", "trunk_norm")

Card = dict[str, Any]


@contextlib.contextmanager
def whole_folder(out_dir: Path) -> Iterator[Path]:
    """Yields a folder that takes another's place if nothing fails in between.

    Args:
        out_dir: New, empty, or of an earlier export, which goes.

    Raises:
        ValueError: `out_dir` is a file, or holds something else.
    """
    out_dir = out_dir.resolve()  # a link stays one
    clear_away(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise ValueError(f"--out_dir={out_dir} must be a folder, and is a file")
    there = {path.name for path in out_dir.glob("*")}
    written: set[str] = set()
    if CARD_FILE in there:
        written = {CARD_FILE, TEXT_FILE, *read_card(out_dir).files}
    if others := sorted(there - written):
        raise ValueError(
            f"--out_dir={out_dir} must be a new folder, or that of an earlier export, "
            f"but holds {', '.join(others)}"
        )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(
            prefix=f".{out_dir.name}.", dir=out_dir.parent, ignore_cleanup_errors=True
        ) as name,
        only_one(Path(name) / f"{LOCK}.part", f"{name} is another export.py's"),
    ):
        Path(name, f"{LOCK}.part").replace(Path(name, LOCK))  # held by now
        new, old = Path(name, NEW), Path(name, OLD)
        new.mkdir()
        yield new
        if out_dir.exists():
            out_dir.replace(old)
        try:
            new.replace(out_dir)
        except OSError:
            old.replace(out_dir)
            raise


def clear_away(out_dir: Path) -> None:
    """Ends what an export.py was killed in: what it was to replace is there again."""
    for path in out_dir.parent.glob(f".{glob.escape(out_dir.name)}.*"):
        lock, old = path / LOCK, path / OLD
        if path.is_symlink() or not lock.is_file():
            continue
        # Whoever is at work in it holds the lock, and may be gone by now.
        with contextlib.suppress(ValueError, OSError), only_one(lock, "at work"):
            if {other.name for other in path.iterdir()} <= {LOCK, NEW, OLD}:
                if old.exists() and not out_dir.exists():
                    old.replace(out_dir)
                shutil.rmtree(path)


def of_files(paths: Sequence[Path]) -> Card:
    """Returns size and checksum of each file, by name."""
    return {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": checksum(path),
        }
        for path in paths
    }


def of_run(run: TrainConfig) -> Card:
    """Returns a run's flags but for its folders, which mean nothing elsewhere."""
    folders = ("run_dir", "data_dir", "tfds_dir")
    return run.to_json() | dict.fromkeys(folders)


def command(run: TrainConfig) -> str:
    """Returns the command line of a run, without folders of data."""
    flags, defaults = of_run(run), of_run(TrainConfig())
    flags["run_dir"] = run.run_dir
    for fields in (flags, defaults):
        nested = fields.pop("augmentation")
        fields |= {f"augmentation.{name}": value for name, value in nested.items()}
    words = []
    for name, value in flags.items():
        if value != defaults[name]:
            word = f"--{name}={value}"
            if isinstance(value, bool):
                before, dot, last = name.rpartition(".")
                word = f"--{before}{dot}{'' if value else 'no_'}{last}"
            words.append(word)
    return " ".join(["python train.py", *words])


class _Evaluation(msgspec.Struct):
    """Of a results.json of evaluate.py, what tells whether it counts here."""

    step: int
    network: str
    overall_row: str | None = None  # not in those of earlier versions


class _Told(msgspec.Struct):
    """What a card says of it."""

    frames: str
    num_frames: int
    crop: str
    memory: str
    decode: str
    person_found: str


class _Table(msgspec.Struct):
    table: dict[str, dict[str, float | None]]


def of_evaluations(run_dir: Path, step: int) -> list[Card]:
    """Returns what evaluate.py measured of a run after a step, over all joints.

    Raises:
        ValueError: What is in a results.json is none; names the file and the field.
    """
    measured = []
    for path in sorted(run_dir.glob("evaluations/*/results.json")):
        results = read_json(path)
        evaluation = checked(results, _Evaluation, str(path))
        row = evaluation.overall_row
        is_of_step = (evaluation.step, evaluation.network) == (step, "checkpoint")
        if not is_of_step or row is None:
            continue
        metrics = {}
        for title, column in checked(results, _Table, str(path)).table.items():
            if row not in column:
                raise ValueError(
                    f"{path}: table: {title} has no {row}, the overall_row"
                )
            value = column[row]
            metrics[title] = float("nan") if value is None else round(value, 1)
        told = msgspec.structs.asdict(checked(results, _Told, str(path)))
        measured.append(told | {"metrics": metrics})
    return measured


def save_weights(path: Path, variables: Mapping[str, Any]) -> None:
    """Writes parameters, memory and statistics as arrays named by their place."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(x) for name, x in flat.items()}
    np.savez_compressed(path, **arrays)


def mean_of(mine: Any, theirs: Any, share: float) -> Any:
    """Returns the mean of two networks' variables, of which one has the other's shapes.

    Where one was trained from the other, their mean keeps what either knows of frames
    unlike its own (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR
    2022).

    Args:
        mine: Parameters, memory and statistics.
        theirs: Likewise.
        share: Of theirs in the mean.
    """
    return jax.tree.map(lambda x, y: (1 - share) * x + share * y, mine, theirs)


def check_share(share: float) -> None:
    """Refuses what is no part of a mean.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"--mean_share must be between 0 and 1, got {share}")


def of_network(name: str, model: Network) -> Card:
    """Returns the arguments that make the network again, with its name in MODELS."""
    fields = filter(functools.partial(hasattr, model), NETWORK_FIELDS)
    return {"name": name} | {field: getattr(model, field) for field in fields}


def of_preparation(
    preparation: Preparation, *, stride: int | None, metric: bool
) -> Card:
    """Returns how a frame becomes an input, and a heat map's cell a pixel of it."""
    return {
        "side": preparation.side,
        "crop": preparation.crop,
        "crop_margin": 1.0 if preparation.crop == "full" else crops.MARGIN,
        "depth_range": preparation.depth_range,
        "depth_unit": "mm" if metric else "raw",
        "stride": stride,
    }


def versions(*, onnx: bool) -> dict[str, str]:
    """Returns the versions of the packages that an export was made and checked with."""
    packages = ("jax", "jaxlib", "flax", *(ONNX_PACKAGES if onnx else ()))
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {"cmbjax": cmbjax.__version__, **installed}


def markdown(card: Card) -> str:
    """Returns a card as text, with the code that runs each of its files."""
    shape = ", ".join(map(str, card["inputs"]["depth"]))
    facts = {
        "network": f"{card['model']}, {card['parameters']:,} parameters, {card['run']}",
        "trained for": f"{card['step']} steps, r = {card['r']:g}",
        "memory": f"{card['memory']} ({card['memory_mode']})",
        "inputs": _shapes(card["inputs"]),
        "outputs": _shapes(card["outputs"]),
        "joints": ", ".join(card["joints"]),
        "versions": ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
    }
    unit = {"mm": "millimetres", "raw": "the camera's own values"}[card["depth_unit"]]
    stride, extent = card["stride"], f"{card['depth_range']:g}"
    lines = [
        f"# {card['model']}, {len(card['joints'])} joints, {card['side']} pixels",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {fact} |" for name, fact in facts.items()),
        "",
        "## Training",
        "",
        f"On {card['trained_on']}:",
        "",
        "```sh",
        card["command"],
        "```",
        *_measured(card["evaluations"]),
        "",
        "## Input",
        "",
        f"`depth` is [{shape}] float32. Of a depth image ({unit}, 0 = no reading):",
        "",
        f"- crop: a square around {_CROPS[card['crop']]}, its side "
        f"{card['crop_margin']:g} times the longer side of that, 0 outside the image, "
        f"resized to {card['side']} pixels by nearest neighbour;",
        "- single missing readings filled from neighbours (`depth.crops.filled`);",
        "- reference: the person's median depth (`depth.crops.near_depth`, or "
        "`person_depth` where no distance is known);",
        f"- `clip((crop - reference) / {extent}, -1, 1)`, and 1 where there is no "
        "reading.",
        "",
        "## Output",
        "",
        f"`heatmaps`: the cell (row, column) has its centre at the crop's pixel x = "
        f"{stride} (column + 0.5), y = {stride} (row + 0.5). The top-left pixel's "
        "centre is (0.5, 0.5).",
    ]
    if "depth_maps" in card["outputs"]:
        lines += [
            "",
            f"`depth_maps`: each joint's depth in units of {extent} from the "
            "reference, to be read at the peak of its heat map.",
        ]
    if "joints" in card["outputs"]:
        lines += [
            "",
            "`joints`: x and y as fractions of the crop from its centre, and depth in "
            f"units of {extent} from the reference.",
        ]
    for file, codes in _CODES.items():
        if file in card["files"]:
            for title, code in codes.items():
                lines += ["", f"## {title}", "", "```python", *code(card), "```"]
    lines += [
        "",
        "## Measured",
        "",
        f"Largest difference from the trained network in JAX, in parts of the outputs' "
        f"range, over {card['frames']['number']} frames of {card['frames']['name']}:",
        "",
        "| | difference |",
        "| --- | ---: |",
        *(f"| {name} | {value:.1e} |" for name, value in card["differences"].items()),
        "",
        "| file | bytes | sha256 |",
        "| --- | ---: | --- |",
        *(
            f"| {name} | {facts['bytes']:,} | {facts['sha256']} |"
            for name, facts in card["files"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


_CROPS = {
    "full": "the whole image",
    "person": "the body's box, as `depth.detector` finds it, set upright by quarters",
    "label_box": f"the joints' box, grown by {crops.OUTLINE:g} of its longer side",
}


def _measured(evaluations: Sequence[Card]) -> list[str]:
    """Returns a table of evaluations, over all joints; nothing of none."""
    if not evaluations:
        return []
    titles = list(
        dict.fromkeys(
            title for evaluation in evaluations for title in evaluation["metrics"]
        )
    )
    lines = [
        "",
        "| frames | crop, memory, decode | found | " + " | ".join(titles) + " |",
    ]
    lines.append("| --- | --- | --- |" + " ---: |" * len(titles))
    for evaluation in evaluations:
        how = f"{evaluation['crop']}, {evaluation['memory']}, {evaluation['decode']}"
        values = [
            f"{evaluation['metrics'].get(title, float('nan')):.1f}" for title in titles
        ]
        cells = [evaluation["frames"], how, evaluation["person_found"], *values]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _shapes(values: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in values.items())


def _unpacked(card: Card, memory: str) -> str:
    """Names what a network returns, as the left side of an assignment."""
    names = [name for name in card["outputs"] if not name.startswith("new_")]
    return ", ".join([*names, memory] if card["memory"] == "rolling" else names)


def _weights_code(card: Card) -> list[str]:
    if card["depth_unit"] != "mm" or card["crop"] != "person":
        # `Predictor` finds people in millimetres: these see something else.
        call = f'model.apply(variables, depth, train=False, r={card["r"]:g}, method="'
        return [
            "import cmbjax",
            "",
            'model, variables = cmbjax.load(".")',
            f'outputs = {call}outputs")  # outputs.heatmaps',
        ]
    options = ', memory="rolling"' * (card["memory"] == "rolling")
    if ONNX_FILE not in card["files"] or card["batch_size"] != 1:
        options += ', backend="jax"'
    return [
        "import cmbjax",
        "",
        f'predictor = cmbjax.Predictor("."{options})',
        'poses = predictor("frame.png")',
    ]


def _stablehlo_code(card: Card) -> list[str]:
    rolling = card["memory"] == "rolling"
    load = f'export.deserialize(Path("{STABLEHLO_FILE}").read_bytes())'
    return [
        "import jax",
        *(["import numpy as np"] if rolling else []),
        "from jax import export",
        "from pathlib import Path",
        "",
        f"network = jax.jit({load}.call)",
        *([f'memory = np.load("{MEMORY_FILE}").values()'] if rolling else []),
        f"{_unpacked(card, '*memory')} = network(depth{', *memory' * rolling})",
    ]


def _onnxruntime_code(card: Card) -> list[str]:
    rolling = card["memory"] == "rolling"
    call = 'session.run(None, {"depth": depth' + ", **memory" * rolling + "})"
    return [
        *(["import numpy as np"] if rolling else []),
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{ONNX_FILE}")',
        *([f'memory = dict(np.load("{MEMORY_FILE}"))'] if rolling else []),
        f"[{_unpacked(card, '*new')}] = {call}",
        *(["memory = dict(zip(memory, new))"] if rolling else []),
    ]


def _openvino_code(card: Card) -> list[str]:
    rolling = card["memory"] == "rolling"
    return [
        *(["import numpy as np"] if rolling else []),
        "import openvino",
        "",
        'hint = {"INFERENCE_PRECISION_HINT": "f32"}  # or bf16, see below',
        f'network = openvino.Core().compile_model("{ONNX_FILE}", "CPU", hint)',
        *([f'memory = np.load("{MEMORY_FILE}").values()'] if rolling else []),
        f"[{_unpacked(card, '*memory')}] = "
        f"network([depth{', *memory' * rolling}]).values()",
    ]


_CODES = {
    WEIGHTS_FILE: {"cmbjax": _weights_code},
    STABLEHLO_FILE: {"JAX": _stablehlo_code},
    ONNX_FILE: {"ONNX Runtime": _onnxruntime_code, "OpenVINO": _openvino_code},
}
