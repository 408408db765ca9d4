"""Runs of train.py and evaluate.py, each done once: what all tables are made of.

A run's folder is named by its flags, so that tables share runs, and whatever was
stopped goes on where it was. `--preset=paper` is the paper's setting, for the data set
and the machine that it asks for.
"""

import concurrent.futures
import csv
import dataclasses
import functools
import itertools
import math
import os
import queue
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

import datasets
from benchmarks import differences, paper
from benchmarks.paper import Column
from cmbjax import metrics, plots
from cmbjax.data.examples import DepthFrames
from cmbjax.data.flags import DataFlags
from cmbjax.evaluate.report import CEILING, FLOOR
from cmbjax.files import expanded, read_json, write_text
from cmbjax.models import MODELS
from cmbjax.models.posenet import PoseNet
from cmbjax.scripts import script
from cmbjax.train.config import TrainConfig
from cmbjax.train.loop import read_records
from cmbjax.train.run import Run

ROOT = Path(__file__).parent.parent
TUNING_SEED = 100  # of the runs that choose a learning rate, and of no row
TUNING_SHARE = 0.1  # of the training data
VALIDATIONS = 5  # of a run, for the picture of all
# The columns of METRICS over which methods are compared.
OVER_ALL = {"pdj": "PDJ mean", "pckh": "PCKh@0.5", "map_10cm": "mAP@10cm"}
ERROR = "mean error mm"  # of what has no torso
ABOUT_SHARES = (
    "Of a share too, the floor and the joints' offsets behind the surface, where depth "
    "is looked up, are of all training frames."
)
# A step of theirs takes as long as ten of ours, or longer.
COSTLY = ("phr", "cpm", "cpm_vgg", "ieml", "cnn3d", "vi")
FORESTS = ("rf", "rtw", "xu_cheng")  # of train_forest.py

Flags = Mapping[str, Any]
T = TypeVar("T")
CHILDREN: set[subprocess.Popen[str]] = set()  # that run

# Flags of train.py. The paper's own are its defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "side": 64,
        "width": 0.25,
        "num_steps": 500,
        "schedule": "cosine",
        "r_switch_step": 150,
    },
    "medium": {
        "side": 96,
        "width": 0.5,
        "num_steps": 1500,
        "schedule": "cosine",
        "r_switch_step": 500,
    },
    # Its augmentation is flipping and rotation alone; see also `Sweep.full`.
    "paper": {
        "num_steps": 40_000,
        "augmentation.scale": 0.0,
        "augmentation.shift": 0.0,
        "augmentation.reference": 0.0,
        "augmentation.noise": 0.0,
        "augmentation.holes": 0,
    },
}
# What the preset has and the paper does not give.
OWN_OF_PRESET = ("num_steps",)
ALL_DATA = "all_data"  # in --init_from: the run of the same flags on all of the data
# What a run has of its own that starts from there.
FINE_TUNING = ("init_from", "train_share", "r_switch_step")
# Flags of a row that say which method it is, or stand in a table's note by themselves.
NAMED = ("model", "learning_rate", "num_steps", "num_frames", "seed")
OF_PAPER = {"head3d": "dense"}  # of a row's own flags what the paper has as well
# Of rows that are tuned; the search begins at the rate below.
LEARNING_RATES = (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
FIRST_RATE = 2e-3
PAPER_RATE = 2.5e-4
# What was best for each row of the small preset on a tenth of mannequin; of the medium
# one none is higher than where a search begins.
KNOWN_RATES = {"phr": 4e-3, "cpm": 2.5e-4, "ieml": 4e-3, "ief": 2e-3, "vi": 1e-3}
KNOWN_RATES |= {"cnn3d": 1.6e-2, "convgru": 4e-3}
KNOWN_RATES_OF_OURS = {"none": 8e-3, "maps": 4e-3, "dense": 2e-3}  # by head
PAPER_SIDE = TrainConfig.side
# The sides at which Table 5 counts, or that a method's authors have.
PAPER_SIDES = {"phr": 256, "cpm": 184, "cpm_vgg": 184, "ief": 224, "cnn3d": 128}


class Results(TypedDict):
    """What tables read of results.json."""

    table: dict[str, dict[str, float | None]]
    frames: str
    overall_row: str
    rows_beside: NotRequired[list[str]]


def read_results(folder: Path) -> Results:
    """Returns what an evaluation wrote into a folder.

    Raises:
        ValueError: Something else is there; names the file.
    """
    results: Results = read_json(folder / "results.json", Results)
    return results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(DataFlags):
    """Which runs a table is made of."""

    preset: Literal["small", "medium", "paper"] = "small"
    """small: 64 pixels, a quarter of the channels, 500 steps; medium: 96 pixels (of SH
    and PHR 128, the next that they can have), half of the channels, 1,500 steps; paper:
    the paper's setting."""
    seeds: int = 3
    """Runs of each row, with seeds from 0."""
    tune: bool = True
    """Whether each row's learning rate is chosen on this data set; by default it is,
    else a small row has the rate that was best for it on mannequin, and a medium one
    that, but at most 2e-3."""
    num_steps: int | None = None
    """Of every row's runs; by default the preset's, with which rates are chosen."""
    costly_steps: int | None = None
    """Of the rows of networks in COSTLY, whose steps take ten times as long as ours;
    by default as many as all others have."""
    compared_seeds: int | None = None
    """Runs of each row that is not of the paper's network; by default `seeds`."""
    forest_frames: int | None = None
    """Training frames that forests are grown on; by default train_forest.py's."""
    decode: str | None = None
    """How all heat maps are read in tests; by default as each network's authors do."""
    jobs: int = 1
    """Runs at the same time, each on its share of the processor's cores."""
    runs_dir: Path = Path("runs")
    """Gets a folder a run, in <preset>_<dataset>/."""
    out_dir: Path | None = None
    """Gets table, CSV and picture; by default results/ beside the runs."""

    @property
    def folder(self) -> Path:
        """Of the runs."""
        name = f"{self.preset}_{self.dataset.replace('/', '_')}"
        if self.num_steps is not None:
            name += f"_{self.num_steps}"
        return self.runs_dir / name

    @property
    def results(self) -> Path:
        """Of what is made of them."""
        return self.out_dir or self.folder / "results"

    def full(self, flags: Flags) -> dict[str, Any]:
        """Returns all flags of a run but for its folder and its data."""
        preset = dict(PRESETS[self.preset])
        if self.num_steps is not None:
            preset |= {
                "num_steps": self.num_steps,
                "r_switch_step": self.num_steps // 3,
            }
        model = flags.get("model", "cmb")
        if self.preset == "paper" and model in PAPER_SIDES:
            preset["side"] = PAPER_SIDES[model]
        elif "side" in preset and model in MODELS:  # SH and PHR: a multiple of 64
            divisor = MODELS[model](num_joints=1).divisor
            preset["side"] += -preset["side"] % divisor
        if self.preset == "paper" and is_ours(model):
            preset["trunk_norm"] = False
        full = preset | dict(flags)
        every = max(1, full["num_steps"] // VALIDATIONS)
        return {"validate_every": every, **full}

    def departures(self, rows: Mapping[str, Flags]) -> str:
        """Returns how a table's rows differ from the paper's setting.

        Args:
            rows: Flags of each; those of the paper's network are compared in all, of
                others what they have of their own.
        """
        mine = self.full({})
        mine |= {"decode": self.decode_of({}) or "the network's own"}
        as_paper = dataclasses.replace(
            self, preset="paper", num_steps=None, decode=None
        )
        theirs = as_paper.full({}) | {"decode": "argmax"}
        different = [
            f"{name} {mine.get(name, 'as by default')} "
            f"({'--preset=paper' if name in OWN_OF_PRESET else 'the paper'}: "
            f"{theirs.get(name, 'as by default')})"
            for name in sorted((mine.keys() | theirs.keys()) - {"validate_every"})
            if mine.get(name) != theirs.get(name)
        ]
        own: dict[tuple[str, Any], list[str]] = {}
        for row, flags in rows.items():
            for name, value in flags.items():
                if name not in NAMED and OF_PAPER.get(name) != value:
                    own.setdefault((name, value), []).append(row)
        different += [
            f"{name} {value} (of {', '.join(of)})" for (name, value), of in own.items()
        ]
        return "Differs from the paper's setting in: " + (
            "; ".join(different) + "." if different else "nothing that it states."
        )

    def decode_of(self, flags: Flags) -> str | None:
        """Returns how heat maps are read in tests; None as the network's authors do."""
        if self.decode is None and self.preset == "paper":
            return "argmax" if is_ours(flags.get("model", "cmb")) else None
        return self.decode

    def run_dir(self, flags: Flags) -> Path:
        """Returns the folder of a run, which is named by what the preset does not say.

        No file system that we know takes more than 255 characters.
        """
        return self.folder / ",".join(map(_word, sorted(flags.items())))

    def load(self, split: str) -> DepthFrames:
        """Returns a split of the data set."""
        return datasets.load(self.dataset, self.data_dir, self.tfds_dir, split=split)

    @functools.cached_property
    def frames(self) -> DepthFrames:
        """The training split, prepared once, and not by all jobs at a time."""
        return self.load("train")

    def _afforded(self, flags: Flags) -> dict[str, Any]:
        """Returns a row's flags with what is its kind's own: fewer steps, or frames."""
        own: dict[str, Any] = {}
        if self.costly_steps is not None and flags.get("model") in COSTLY:
            own = {"num_steps": self.costly_steps}
        if self.forest_frames is not None and flags.get("model") in FORESTS:
            own = {"num_frames": self.forest_frames}
        return {**flags, **own}

    def train(self, flags: Flags) -> Path:
        """Trains a run, unless it is done, and returns its folder.

        Raises:
            ValueError: It failed, or the folder's run saw other frames.
        """
        run_dir, full = self.run_dir(flags), self.full(flags)
        if _last_validation(run_dir, full["num_steps"]) is None:
            if full.get("init_from") == ALL_DATA:
                whole = {k: v for k, v in flags.items() if k not in FINE_TUNING}
                full["init_from"] = self.train(whole)
            self._call("train.py", {"run_dir": run_dir, **self._data, **full})
        else:
            Run.open(run_dir).take_statistics(self.frames)
        return run_dir

    def validation(self, flags: Flags) -> dict[str, float]:
        """Returns what a run, trained to its end, scores on the validation split."""
        record = _last_validation(self.train(flags), self.full(flags)["num_steps"])
        assert record is not None, "train.py ends with a validation"
        return record

    def evaluate(self, flags: Flags, **options: Any) -> Results:
        """Returns results.json of a run's evaluation, made if it is not there.

        Args:
            flags: Of the run.
            **options: Of evaluate.py; by default the test split.
        """
        if flags.get("model") in FORESTS:
            return self._forest(flags)
        run_dir = self.train(flags)
        out_dir = self.evaluation_dir(flags, **options)
        if not (out_dir / "results.json").exists():
            inputs = {"run_dir": run_dir, "out_dir": out_dir, **self._data}
            self._call("evaluate.py", inputs | self._decoding(flags) | options)
        return read_results(out_dir)

    def _forest(self, flags: Flags) -> Results:
        """Returns results.json of a forest, which has neither steps nor a rate.

        Raises:
            ValueError: It failed, or was tested on other frames.
        """
        out_dir = self._forest_dir(flags)
        if not (out_dir / "results.json").exists():
            inputs = {"run_dir": self.run_dir(flags), **self._data}
            self._call("train_forest.py", inputs | dict(flags))
        results = read_results(out_dir)
        if results["frames"] != self.test.name:
            raise ValueError(
                f"{out_dir} holds a test on {results['frames']}, but the data set is "
                f"now {self.test.name}; choose another --runs_dir"
            )
        return results

    def _forest_dir(self, flags: Flags) -> Path:
        crop = flags.get("crop", self.frames.crop)
        return self.run_dir(flags) / "evaluations" / crop

    @functools.cached_property
    def test(self) -> DepthFrames:
        """The test split."""
        return self.load("test")

    @functools.cached_property
    def people(self) -> list[str]:
        """Who is in each frame of the test split."""
        names = (example["subject"] for example in self.test.source)
        return [n.decode() if isinstance(n, bytes) else str(n) for n in names]

    def frame_scores(self, flags: Flags, metric: str) -> np.ndarray:
        """Returns `differences.frame_scores` of the test frames, of the first seed."""
        flags = {**flags, "seed": 0}
        folder = self.evaluation_dir(flags)
        if flags.get("model") in FORESTS:
            folder = self._forest_dir(flags)
        return differences.frame_scores(
            folder / "joints.csv", self.frames.skeleton, metric
        )

    def evaluation_dir(self, flags: Flags, **options: Any) -> Path:
        """Returns the folder of an evaluation; see `evaluate`."""
        options = self._decoding(flags) | options
        name = ",".join(map(_word, sorted(options.items()))) or "test"
        return self.run_dir(flags) / "evaluations" / name

    def tuned(self, flags: Flags) -> dict[str, Any]:
        """Returns flags with the learning rate that is best on the validation split.

        It is better than its neighbours, where there are two, on a tenth of the data,
        with a seed that no row has and as many steps as the preset has. What is its
        kind's own, fewer steps or frames, is among the flags, too.
        """
        flags = self._afforded(flags)
        if flags.get("model") in FORESTS:
            return flags
        rates, best = LEARNING_RATES, LEARNING_RATES.index(FIRST_RATE)
        if not self.tune or self.preset == "paper" or "learning_rate" in flags:
            return {"learning_rate": self._known_rate(flags), **flags}
        tuning = {**flags, "train_share": TUNING_SHARE, "seed": TUNING_SEED}
        tuner = dataclasses.replace(self, num_steps=None)
        scores: dict[int, float] = {}
        tried = {best}
        while tried - scores.keys():
            for i in tried - scores.keys():
                scores[i] = tuner._score({**tuning, "learning_rate": rates[i]})
            best = max(scores, key=lambda i: (scores[i], -i))
            tried |= {i for i in (best - 1, best + 1) if 0 <= i < len(rates)}
        return {**flags, "learning_rate": rates[best]}

    def _known_rate(self, flags: Flags) -> float:
        """Returns the learning rate of a row that chooses none."""
        if self.preset == "paper":
            return PAPER_RATE
        of_head = KNOWN_RATES_OF_OURS[flags.get("head3d", "none")]
        rate = KNOWN_RATES.get(flags.get("model", "cmb"), of_head)
        # Twice the channels want a lower one: of Ours this was measured, see
        # docs/results.md, of the compared methods it was not.
        return rate if self.preset == "small" else min(rate, FIRST_RATE)

    def tuned_rows(self, rows: Mapping[str, Flags]) -> dict[str, dict[str, Any]]:
        """Returns what `tuned` does of each row, by its name."""
        return dict(zip(rows, self.each(self.tuned, rows.values()), strict=True))

    def _score(self, flags: Flags) -> float:
        """Returns what the best rate has the most of: nothing is below divergence."""
        run_dir = self.run_dir(flags)
        if not _diverged(run_dir):
            try:
                return criterion(flags, self.validation(flags))
            except ValueError:
                if not _diverged(run_dir):
                    raise
        return -math.inf

    def each(self, function: Callable[..., T], arguments: Iterable[Any]) -> list[T]:
        """Returns the function's values, `jobs` at a time.

        Raises:
            ValueError: Some failed, the others are done; names all that failed.
        """
        shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
        for share in shares_of_cores(self.jobs):
            shares.put(share)

        def take_a_share() -> None:
            if hasattr(os, "sched_setaffinity"):  # Linux: of the processes to come
                os.sched_setaffinity(0, shares.get())

        with concurrent.futures.ThreadPoolExecutor(
            self.jobs, initializer=take_a_share
        ) as pool:
            try:
                futures = [pool.submit(function, argument) for argument in arguments]
                waiting = concurrent.futures.as_completed(futures)
                for _ in tqdm(waiting, total=len(futures), desc="runs", unit="run"):
                    pass
            except BaseException:  # Ctrl-C, SIGTERM: what has not begun does not begin
                pool.shutdown(wait=False, cancel_futures=True)
                for child in list(CHILDREN):
                    child.terminate()
                raise
        failed = [str(f.exception()) for f in futures if f.exception() is not None]
        if failed:
            raise ValueError("\n".join(dict.fromkeys(failed)))
        return [future.result() for future in futures]

    def of_seeds(
        self, function: Callable[..., T], rows: Iterable[Flags]
    ) -> list[list[T]]:
        """Returns, of each row, the function's values of its runs, one a seed."""
        runs = [self.runs_of(row) for row in rows]
        values = iter(self.each(function, itertools.chain(*runs)))
        return [list(itertools.islice(values, len(of_row))) for of_row in runs]

    def runs_of(self, row: Flags) -> list[dict[str, Any]]:
        """Returns the flags of a row's runs, one a seed."""
        seeds = self.seeds
        if self.compared_seeds is not None and not is_ours(row.get("model", "cmb")):
            seeds = self.compared_seeds
        return [{**row, "seed": seed} for seed in range(seeds)]

    def require(self, metric: str) -> None:
        """Refuses a metric before anything is trained for it.

        Raises:
            ValueError: The data set has no torso, head or 3-D joints for it.
        """
        frames = self.frames
        metrics.require(frames.skeleton, metric, has_metres=frames.metric)

    @property
    def command(self) -> str:
        """The command line that this script was called with."""
        module = Path(sys.argv[0]).stem
        return f"python -m benchmarks.{module} {shlex.join(sys.argv[1:])}".strip()

    @property
    def _data(self) -> dict[str, Any]:
        inputs = {
            "dataset": self.dataset,
            "data_dir": self.data_dir,
            "tfds_dir": self.tfds_dir,
        }
        return {name: value for name, value in inputs.items() if value is not None}

    def _decoding(self, flags: Flags) -> dict[str, Any]:
        decode = self.decode_of(flags)
        return {} if decode is None else {"decode": decode}

    def _call(self, script: str, flags: Flags) -> None:
        command = [sys.executable, str(ROOT / script), *map(_flag, flags.items())]
        with subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as child:
            CHILDREN.add(child)
            try:
                _, errors = child.communicate()
            except BaseException:  # what is asked to end, saves first
                child.terminate()
                raise
            finally:
                CHILDREN.discard(child)
        if child.returncode:
            lines = errors.strip().splitlines() or ["no message"]
            starts = [
                i for i, line in enumerate(lines) if line.startswith(f"{script}:")
            ]
            words = "\n".join(lines[starts[-1] if starts else -1 :])
            raise ValueError(
                f"{shlex.join(command[1:])} ended with {child.returncode}: {words}"
            )


def shares_of_cores(jobs: int) -> list[set[int]]:
    """Returns which of this process's cores each of so many jobs has."""
    cores = list(range(os.cpu_count() or 1))
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::jobs]) or {cores[i % len(cores)]} for i in range(jobs)]


def is_ours(model: str) -> bool:
    """Tells whether a model is the paper's network, or one of its ablations."""
    return model in MODELS and isinstance(MODELS[model](num_joints=1), PoseNet)


def criterion(flags: Flags, record: Mapping[str, float]) -> float:
    """Returns what the best run of several has the most of, in its validation.

    A network with a 3-D head is judged by its 3-D joints, others by PDJ; hands, which
    have no torso and are no longer than 10 cm, by their mean error.
    """
    has_torso = f"validation/{OVER_ALL['pdj']}" in record
    title = OVER_ALL["map_10cm" if "head3d" in flags else "pdj"]
    value = record.get(f"validation/{title if has_torso else ERROR}")
    if value is None:
        raise ValueError(f"no rate can be chosen: a validation has {', '.join(record)}")
    return value if has_torso else -value


def with_share(flags: Flags, share: float) -> dict[str, Any]:
    """Returns flags of a run on a share of the data; of all of it, the same flags."""
    return {**flags} if share == 1 else {**flags, "train_share": share}


def _last_validation(run_dir: Path, num_steps: int) -> dict[str, float] | None:
    for record in read_records(run_dir / "metrics.jsonl"):
        if record["step"] == num_steps and "loss" not in record:
            return record
    return None


def _diverged(run_dir: Path) -> bool:
    records = read_records(run_dir / "metrics.jsonl")
    return any(record.get("loss", 0) is None for record in records)


def _word(item: tuple[str, Any]) -> str:
    name, value = item
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def _flag(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    if isinstance(value, Path):
        value = expanded(value).absolute()
    return f"--{name}={value}"


class Cell(NamedTuple):
    """A measured value.

    Attributes:
        mean: Over seeds.
        deviation: Over seeds; NaN of a single one.
    """

    mean: float
    deviation: float

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "n/a"
        if np.isnan(self.deviation):
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.deviation:.1f}"


def cell(values: Sequence[float | None]) -> Cell:
    """Returns mean and deviation of one value a seed; None is no number."""
    numbers = np.array(values, float)
    deviation = np.std(numbers, ddof=1) if len(numbers) > 1 else np.nan
    return Cell(float(np.mean(numbers)), float(deviation))


def joint_rows(results: Mapping[str, Any], title: str) -> Column:
    """Returns a column of results.json without floor, ceiling and what is beside."""
    column = results["table"][title]
    return {row: x for row, x in column.items() if row not in rows_beside(results)}


def rows_beside(results: Mapping[str, Any]) -> list[str]:
    """Returns the rows of results.json that are of no joint of the network's own."""
    rows: list[str] = results.get("rows_beside", [FLOOR, CEILING])
    return rows


def over_all(results: Mapping[str, Any], title: str) -> float:
    """Returns a column's value over all joints."""
    return results["table"][title][results["overall_row"]]


def table_rows(results: Mapping[str, Any], metric: str) -> Column:
    """Returns the rows of a table of the paper out of results.json.

    Those of Table 2 are fractions of the torso, over all joints; others are joints.
    Floors and ceilings follow, and before them what another way to read maps gives.
    """
    table, title = results["table"], OVER_ALL[metric]
    if metric == "pdj":
        values = {t: over_all(results, t) for t in table if t.startswith("PDJ")}
    else:
        values = joint_rows(results, title)
    return values | {row: table[title][row] for row in rows_beside(results)}


def compare(
    sweep: Sweep,
    name: str,
    title: str,
    methods: Mapping[str, Flags],
    metric: str,
    published: Mapping[str, Column],
) -> None:
    """Trains and tests methods, and writes their table beside the paper's.

    Args:
        sweep: Which runs.
        name: Of the files.
        title: What is compared.
        methods: Flags of each.
        metric: A name in OVER_ALL.
        published: The paper's numbers of each.

    Raises:
        ValueError: The data set cannot have the metric, or runs failed.
    """
    sweep.require(metric)
    tuned = sweep.tuned_rows(methods)
    evaluations = dict(
        zip(methods, sweep.of_seeds(sweep.evaluate, tuned.values()), strict=True)
    )
    columns: dict[str, dict[str, Cell]] = {}
    for method, results in evaluations.items():
        of_seeds = [table_rows(evaluation, metric) for evaluation in results]
        columns[method] = {
            row: cell([column[row] for column in of_seeds]) for row in of_seeds[0]
        }
    lines = []
    for row in dict.fromkeys(row for column in columns.values() for row in column):
        line = {"": row}
        for method in methods:
            line[method] = str(columns[method].get(row, ""))
            if method in published:
                theirs = published[method].get(row)
                line[f"{method}, paper"] = "" if theirs is None else f"{theirs:.1f}"
        lines.append(line)
    note = about_runs(sweep, tuned, evaluations)
    of_runs = {
        method: [over_all(evaluation, OVER_ALL[metric]) for evaluation in results]
        for method, results in evaluations.items()
    }
    note += "\n\n" + differences.told_apart(of_runs)
    if min(map(len, evaluations.values())) == 1:
        scores = {m: sweep.frame_scores(f, metric) for m, f in tuned.items()}
        note += " " + differences.told_apart_by_people(scores, sweep.people)
    write(sweep, name, title, lines, note)
    long = [
        {
            "method": method,
            "row": row,
            "mean": value.mean,
            "deviation": value.deviation,
            "seeds": len(evaluations[method]),
            "paper": published.get(method, {}).get(row, ""),
        }
        for method, column in columns.items()
        for row, value in column.items()
    ]
    write_csv(sweep.results / f"{name}.csv", long)
    draw_curves(sweep, name, tuned, OVER_ALL[metric])
    plots.bars(
        {m: {r: c.mean for r, c in column.items()} for m, column in columns.items()},
        {
            m: {r: c.deviation for r, c in column.items()}
            for m, column in columns.items()
        },
        {m: published.get(m, {}) for m in columns},
        f"the paper, on {paper.DATA[metric]}",
        "%",
        sweep.results / f"{name}.png",
    )


def draw_curves(sweep: Sweep, name: str, rows: Mapping[str, Flags], title: str) -> None:
    """Draws how every run of some rows did in its validations, beside their table.

    Args:
        sweep: Of the runs.
        name: Of the table's files.
        rows: Flags of each; forests have no steps.
        title: Of the column that is drawn.
    """
    curves = {
        row: [
            [
                (record["step"], value)
                for record in read_records(run_dir / "metrics.jsonl")
                if (value := record.get(f"validation/{title}")) is not None
            ]
            for run_dir in map(sweep.run_dir, sweep.runs_of(flags))
        ]
        for row, flags in rows.items()
        if flags.get("model") not in FORESTS
    }
    picture = sweep.results / f"{name}_curves.png"
    plots.validation_curves(curves, f"validation: {title}", picture)


def about_runs(
    sweep: Sweep,
    tuned: Mapping[str, Flags],
    evaluations: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Returns in words what a table's runs are.

    Args:
        sweep: Of the table.
        tuned: Flags of each row.
        evaluations: results.json of each row's runs.
    """
    networks = {m: f for m, f in tuned.items() if f.get("model") not in FORESTS}
    frames = next(iter(evaluations.values()))[0]["frames"]
    about: dict[str, dict[str, Any]] = {
        "steps": {m: sweep.full(f)["num_steps"] for m, f in networks.items()},
        "sides": {
            m: sweep.full(f).get("side", PAPER_SIDE) for m, f in networks.items()
        },
        "seeds": {m: len(results) for m, results in evaluations.items()},
        "learning rates": {m: f"{f['learning_rate']:g}" for m, f in networks.items()},
        "3-D heads": {m: f["head3d"] for m, f in networks.items() if "head3d" in f},
        "frames that forests grow on": {
            m: f.get("num_frames", "train_forest.py's number")
            for m, f in tuned.items()
            if m not in networks
        },
    }
    words = "; ".join(f"{name}: {grouped(of)}" for name, of in about.items() if of)
    return (
        f"Test split of {frames}; {words}. Trained on {len(sweep.frames):,} frames, "
        "which are not what the data set's builder holds out for validation. "
        f"{sweep.departures(tuned)}"
    )


def grouped(of: Mapping[str, Any]) -> str:
    """Returns values in words, each with the rows that have it; what all have, alone.

    So 500 (PHR), 1500 (SH, Ours).
    """
    rows: dict[Any, list[str]] = {}
    for row, value in of.items():
        rows.setdefault(value, []).append(row)
    if len(rows) == 1:
        return str(next(iter(rows)))
    return ", ".join(f"{value} ({', '.join(of)})" for value, of in rows.items())


def write(
    sweep: Sweep, name: str, title: str, rows: Sequence[Flags], note: str
) -> None:
    """Writes a table as Markdown, with the command that made it, and prints it."""
    text = f"## {title}\n\n{note}\n\n{markdown(rows)}\n```sh\n{sweep.command}\n```\n"
    sweep.results.mkdir(parents=True, exist_ok=True)
    write_text(sweep.results / f"{name}.md", text)
    print(text)


def write_csv(path: Path, rows: Sequence[Flags]) -> None:
    """Writes rows of the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[Flags]) -> str:
    """Returns rows of the same keys as a table."""
    if not rows:
        return "nothing to measure\n"
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[str(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(main: Callable[[Sweep], None]) -> None:
    """Calls a script's main function with the command line's flags.

    When it is interrupted, the runs that it has begun save, and end with it.
    """
    with script(Path(sys.argv[0]).name):
        main(tyro.cli(Sweep, description=main.__doc__, use_underscores=True))
