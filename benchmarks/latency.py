"""How long a raw frame takes to become metres: `python -m benchmarks.latency`.

Each stage of `cmbjax.Predictor` by itself, its median over frames with a person, or
with a hand; of synthetic frames of people also the whole at four times the pixels, and
of three people.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from benchmarks.harness import markdown
from cmbjax import runtime
from cmbjax.camera import ITOP_CAMERA
from cmbjax.data.examples import decode_depth
from cmbjax.data.flags import Flags
from cmbjax.depth.images import files_of, read_frame
from cmbjax.export.formats import require_onnx
from cmbjax.predict.card import INT8_FILE, find_folder, read_card
from cmbjax.predict.predictor import Predictor
from cmbjax.scripts import script
from cmbjax.skeletons import HAND21, SKELETONS
from datasets.mannequin.frames import Frame, make_frame

STAGES = ("read", "find", "crop", "network", "decode")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyConfig(Flags):
    """Times the stages of prediction, one frame at a time."""

    frames: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """16-bit PNG or .npy files, or folders; by default 20 synthetic frames, of hands
    48, which need requirements-people.txt."""
    network: str | None = None
    """A name, or a folder that export.py wrote; by default the pretrained network."""
    rounds: int = 5
    """How often each frame is taken."""


class Shot(NamedTuple):
    """A frame, in whatever form the predictor takes it, and its camera, if known."""

    depth: np.ndarray
    camera: np.ndarray | None


def main(config: LatencyConfig) -> dict[str, dict[str, float]]:
    """Prints a table of medians in milliseconds, a row a backend, and returns it."""
    card = read_card(find_folder(config.network))
    paths = [path for path in config.frames for path in files_of(path)]
    of_hands = SKELETONS[card.skeleton].found_as == "hands"
    made = [] if paths or of_hands else [make_frame(0, "test", i) for i in range(20)]
    shots = [Shot(frame.depth_mm, ITOP_CAMERA) for frame in made]
    shots = shots or [Shot(read_frame(path), None) for path in paths] or hands()
    threes = [
        Shot(three_people(made, number), ITOP_CAMERA) for number in range(len(made))
    ]
    large = [
        Shot(depth.repeat(2, axis=0).repeat(2, axis=1), 2 * ITOP_CAMERA)
        for depth, _ in shots[: len(made)]
    ]
    backends: dict[str, dict[str, Any]] = {"jax": {"backend": "jax"}}
    try:
        require_onnx()
    except ValueError as error:
        print(error)
    else:
        backends["onnxruntime"] = {"backend": "onnxruntime"}
        backends["openvino"] = {"backend": "openvino"}
        backends["openvino, bf16"] = {"backend": "openvino", "precision": "bf16"}
        if INT8_FILE in card.files:
            backends["onnxruntime, int8"] = {"precision": "int8"}
    rows = {}
    for name, options in backends.items():
        predictor = Predictor(config.network, **options)
        rows[name] = measure(predictor, shots, config.rounds)
        if made:
            every = Predictor(config.network, people="all", **options)
            rows[name]["three people"] = whole(every, threes, config.rounds)
            rows[name]["640x480"] = whole(predictor, large, config.rounds)
    lines = [
        {"ms": name} | {stage: f"{ms:.1f}" for stage, ms in row.items()}
        for name, row in rows.items()
    ]
    print(markdown(lines))
    return rows


def measure(predictor: Predictor, shots: list[Shot], rounds: int) -> dict[str, float]:
    """Returns each stage's median for the surest person, milliseconds, and that of all.

    All is the whole: where somebody less sure may be the one, that is posed, too.
    """
    times: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "all")}
    predictor.camera = shots[0].camera
    predictor(shots[0].depth)  # warms up
    for frame, camera in shots * rounds:
        predictor.camera = camera
        spent: list[float] = []

        def timed(stage: Callable[..., Any], *arguments: Any) -> Any:
            start = time.perf_counter()
            result = stage(*arguments)
            spent.append(1000 * (time.perf_counter() - start))  # noqa: B023
            return result

        depth_mm = timed(predictor.read, frame)
        people = timed(predictor.find, depth_mm)
        if not people:
            continue
        surest = max(people, key=lambda person: person.score)
        view = timed(predictor.view, depth_mm, surest)
        outputs = timed(predictor.run, view)
        timed(predictor.decode, view, outputs, depth_mm)
        timed(predictor, frame)
        for stage, value in zip(times, spent, strict=True):
            times[stage].append(value)
    if not times["all"]:
        raise ValueError("no person was found in any of the frames")
    return {stage: statistics.median(values) for stage, values in times.items()}


def whole(predictor: Predictor, shots: list[Shot], rounds: int) -> float:
    """Returns the median of all stages together, milliseconds."""
    predictor.camera = shots[0].camera
    predictor(shots[0].depth)  # warms up
    spent = []
    for frame, predictor.camera in shots * rounds:
        start = time.perf_counter()
        predictor(frame)
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent)


def hands() -> list[Shot]:
    """Returns frames of four people's hands, a dozen of each, as far as they hold any.

    Raises:
        ValueError: The packages that make them are not installed.
    """
    from datasets.people.people import require_packages

    require_packages()
    from datasets.hands.frames import make_frames
    from datasets.people.figure import Figure

    figure = Figure()
    shots = [
        Shot(decode_depth(example), np.asarray(example["camera"]))
        for person in range(4)
        for example in make_frames(figure, [], HAND21, 0, "test", person, 12)
    ]
    return [shot for shot in shots if shot.depth.any()]


def three_people(frames: list[Frame], number: int) -> np.ndarray:
    """Returns a frame [height, width] that has the people of two others beside its own.

    Args:
        frames: Of other people every ten or fewer.
        number: Of the frame that gets them.
    """
    depth = frames[number].depth_mm.copy()
    middle = float(np.nonzero(frames[number].parts)[1].mean())
    for step, place in ((7, -0.3), (13, 0.3)):
        other = frames[(number + step) % len(frames)]
        rows, columns = np.nonzero((other.parts > 0) & (other.depth_mm > 0))
        shift = middle + place * depth.shape[1] - columns.mean()
        there = (columns + round(shift)).clip(0, depth.shape[1] - 1)
        behind = depth[rows, there]
        readings = other.depth_mm[rows, columns]
        depth[rows, there] = np.where(
            behind == 0, readings, np.minimum(behind, readings)
        )
    return depth


if __name__ == "__main__":
    with script("latency.py"):
        runtime.prepare()
        main(tyro.cli(LatencyConfig, use_underscores=True))
