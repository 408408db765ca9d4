"""What grows with what, on this machine: `python -m benchmarks.scale`.

Training, inference, people in a frame, processes that make frames, and frames of a data
set that is read, each against one number with all others as they are; a table, and a
picture of it.
"""

import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro
from array_record.python.array_record_module import (
    ArrayRecordReader,
    ArrayRecordWriter,
)

from benchmarks.harness import markdown, write_csv
from benchmarks.speed import (
    SpeedConfig,
    machine,
    make_network,
    matrix_product_rate,
    median_times,
    our_step,
    random_batch,
)
from cmbjax import plots, runtime
from cmbjax.camera import ITOP_CAMERA
from cmbjax.data.augment import Augmentation
from cmbjax.data.batches import training_batches
from cmbjax.data.flags import Flags, check_ranges
from cmbjax.data.views import Preparation
from cmbjax.files import read_json, write_json, write_text
from cmbjax.models import fast
from cmbjax.predict.predictor import Predictor
from cmbjax.scripts import script
from datasets import load, prepared
from datasets.builder import SHARD_FRAMES, executor
from datasets.copies import seal
from datasets.mannequin.frames import make_frame

INFERENCE = SpeedConfig(side=192, width=1.0, batch_size=1)
TRAINING = SpeedConfig(side=64, width=0.5, batch_size=16)
NUM_PEOPLE = (1, 2, 3, 5, 8)
VGA = 2  # times 320x240


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleConfig(Flags):
    """Measures what grows with what, and writes scale.md, scale.csv and scale.png."""

    repeats: int = 10
    """Timed turns of each point; a training step has a third."""
    making: int = 8
    """People of whom frames are made by each number of processes; 0 for none."""
    reading: int = 3
    """Times a hundred batches of each size of a data set are read; 0 for none."""
    out_dir: Path = Path("runs/scale")
    """Gets the table and the picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {"repeats": (1, 10_000), "making": (0, 10_000), "reading": (0, 100)}
        check_ranges(self, ranges)


Curve = tuple[str, str, dict[float, float]]  # against what, the unit, values


def main(config: ScaleConfig) -> dict[str, Curve]:
    """Returns every curve by its title."""
    curves: dict[str, Curve] = {}
    about = machine(matrix_product_rate())
    for title, curve in measured(config):
        curves[title] = curve
        print(f"{title}, {curve[1]} against {curve[0]}: {curve[2]}", flush=True)
        rows = [
            {"what": title, "against": against, "value": at, "unit": unit, "": value}
            for title, (against, unit, values) in curves.items()
            for at, value in values.items()
        ]
        # As they come: what a stopped run has measured stays.
        write_csv(config.out_dir / "scale.csv", rows)
        text = f"{markdown([about])}\n{markdown(rows)}"
        write_text(config.out_dir / "scale.md", text)
        plots.cost_curves(curves, config.out_dir / "scale.png")
    return curves


def measured(config: ScaleConfig) -> Iterator[tuple[str, Curve]]:
    """Yields each curve, with its title, when it is measured."""
    for against, unit, values in (
        ("side, px", "ms", (64, 96, 128, 192, 256)),
        ("width", "ms", (0.25, 0.5, 1.0)),
        ("batch", "ms a frame", (1, 4, 16)),
    ):
        points = {x: inference_ms(config, against, x) for x in values}
        yield f"inference, {against.partition(',')[0]}", (against, unit, points)
    for against, values in (
        ("side, px", (64, 96, 128)),
        ("width", (0.25, 0.5, 1.0)),
        ("batch", (4, 16, 64)),
    ):
        points = {x: training_ms(config, against, x) for x in values}
        title = f"training, {against.partition(',')[0]}"
        yield title, (against, "ms a frame", points)
    for scale, size in ((1, "320x240"), (VGA, "640x480")):
        points = people_ms(config, scale)
        yield f"prediction, {size}", ("people", "ms a frame", points)
    if config.making:
        numbers = range(1, (os.cpu_count() or 1) + 1)
        points = {n: frames_per_s(config, n) for n in numbers}
        yield "making people", ("processes", "frames/s", points)
    if config.reading:
        points = reading_per_s(config, (10**4, 10**5, 10**6, 10**7), SHARD_FRAMES)
        yield "reading", ("frames of the data set", "frames/s", points)


def changed(base: SpeedConfig, against: str, value: float) -> tuple[int, int, float]:
    """Returns side, batch and width of a network, one of them changed."""
    side = int(value) if against.startswith("side") else base.side
    batch = int(value) if against == "batch" else base.batch_size
    return side, batch, value if against == "width" else base.width


def inference_ms(config: ScaleConfig, against: str, value: float) -> float:
    """Returns milliseconds a frame of the folded network."""
    side, batch, width = changed(INFERENCE, against, value)
    resized = dataclasses.replace(INFERENCE, width=width)
    model, _, state = make_network(resized, side, 1)
    network = fast.compile_for(
        fast.freeze(model, state.variables, r=3.0), side=side, batch_size=batch
    )
    depth = jnp.asarray(random_batch(side, batch)["depth"])
    timed = {"run": functools.partial(network, depth)}
    return _ms(median_times(timed, config.repeats)["run"], batch)


def training_ms(config: ScaleConfig, against: str, value: float) -> float:
    """Returns milliseconds a frame of a training step."""
    side, batch, width = changed(TRAINING, against, value)
    resized = dataclasses.replace(TRAINING, width=width)
    views = random_batch(side, batch)
    step, _ = our_step(resized, side, views, fast.fastest(), 3.0, jnp.float32)
    times = median_times({"step": step}, max(3, config.repeats // 3))["step"]
    return _ms(times, batch)


def people_ms(config: ScaleConfig, scale: int) -> dict[float, float]:
    """Returns milliseconds from a raw frame to metres, by the number of people.

    The first is found; the others stand in its place: each costs a crop, a pass through
    the network, and its decoding.
    """
    predictor = Predictor(camera=ITOP_CAMERA * scale, people="all")
    frames = [make_frame(0, "test", i).depth_mm for i in range(10)]
    found = [(f.repeat(scale, 0).repeat(scale, 1), predictor.find(f)) for f in frames]
    usable = [
        (frame, max(people, key=lambda person: person.score).box * scale)
        for frame, people in found
        if people
    ]
    means: dict[float, float] = {}
    for number in NUM_PEOPLE:
        times = []
        for frame, box in usable * max(1, config.repeats // 2):
            start = time.perf_counter()
            depth_mm = predictor.read(frame)
            predictor.find(depth_mm)
            predictor.poses(depth_mm, boxes=np.stack([box] * number))
            times.append(time.perf_counter() - start)
        means[number] = _ms(np.array(times), 1)
    return means


def frames_per_s(config: ScaleConfig, workers: int) -> float:
    """Returns how many frames of `people` so many processes make, once they run."""
    from datasets.people.people import Part, make_frames, make_part, require_packages

    require_packages()
    with (
        tempfile.TemporaryDirectory() as folder,
        executor(workers, chunk=1) as run,
    ):
        parts = [
            Part(
                path=Path(folder, str(person)),
                source="",
                skeleton="body15",
                seed=0,
                split="train",
                people=range(person, person + 1),
                make=make_frames,
            )
            for person in range(workers * (1 + config.making))
        ]
        list(run(make_part, parts[:workers]))  # each process loads the body once
        start = time.perf_counter()
        frames = sum(run(make_part, parts[workers:]))
        return round(frames / (time.perf_counter() - start), 1)


def reading_per_s(
    config: ScaleConfig, sizes: Sequence[int], shard_frames: int
) -> dict[float, float]:
    """Returns how many frames a second training gets of data sets of these sizes.

    Prints of each what it takes, in memory and in seconds until its first batch.
    """
    points: dict[float, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        name, tfds_dir = "mannequin/tiny", Path(folder)
        copy = Path(prepared(name, tfds_dir=tfds_dir).data_dir)
        (first,) = copy.glob("*-train.array_record-*")
        first = first.rename(copy / "first")
        for size in sizes:
            multiply(copy, first, size, shard_frames)
            start, before = time.perf_counter(), resident_mb()
            frames = load(name, tfds_dir=tfds_dir, split="train")
            batches = training_batches(
                frames,
                preparation=Preparation(side=96, crop="person", depth_range=1000),
                augmentation=Augmentation(),
                batch_size=TRAINING.batch_size,
                seed=0,
            )
            next(batches)
            started = time.perf_counter() - start
            read = functools.partial(next, batches)
            times = median_times({"read": read}, 100 * config.reading)["read"]
            points[size] = round(TRAINING.batch_size / float(times.mean()), 1)
            print(
                f"{len(frames)} frames: {started:.2f} s to the first batch, "
                f"{resident_mb() - before:.0f} MB"
            )
            del frames, batches, read
    return points


def multiply(copy: Path, first: Path, frames: int, shard_frames: int) -> None:
    """Gives a prepared copy's training split so many frames, in whole shards.

    Its shards are one file under many names, so that a disk holds them: what it costs
    to know of, order and open so many is real, and reading them from a disk is not.

    Args:
        copy: Of mannequin/tiny; its shards go.
        first: The shard of which frames are taken, again and again.
        frames: At least.
        shard_frames: Frames of a shard.
    """
    records = ArrayRecordReader(str(first)).read_all()
    shard = copy / "shard"
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for i in range(shard_frames):
        writer.write(records[i % len(records)])
    writer.close()
    for path in copy.glob("*-train.array_record-*"):
        path.unlink()
    number = -(-frames // shard_frames)
    for i in range(number):
        link = copy / f"mannequin-train.array_record-{i:05d}-of-{number:05d}"
        link.hardlink_to(shard)
    path = copy / "dataset_info.json"
    info = read_json(path)
    for split in info["splits"]:
        if split["name"] == "train":
            split["shardLengths"] = [str(shard_frames)] * number
    write_json(path, info)
    seal(copy)


def resident_mb() -> float:
    """Returns how much memory this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _ms(seconds: np.ndarray, frames: int) -> float:
    return round(1e3 * float(statistics.median(seconds)) / frames, 2)


if __name__ == "__main__":
    with script("scale.py"):
        runtime.prepare()
        main(tyro.cli(ScaleConfig, use_underscores=True))
