"""Trains the shipped networks on people who are made meanwhile, without end.

`python train_fresh.py --data_dir=mocap --minutes=9`, on an accelerator with many cores.
"""

import dataclasses
import functools
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import cmbjax
from cmbjax import runtime
from cmbjax.data import detection
from cmbjax.data.augment import Augmentation
from cmbjax.data.examples import Example, decode_depth
from cmbjax.data.flags import Flags
from cmbjax.data.views import Preparation, training_view
from cmbjax.depth import detector
from cmbjax.export.card import save_weights
from cmbjax.files import write_json
from cmbjax.models.detector import Detector
from cmbjax.skeletons import SKELETONS, Skeleton
from cmbjax.train import step
from datasets.crowd.crowd import EachPerson
from datasets.crowd.frames import ABOVE
from datasets.crowd.frames import make_frames as make_crowd
from datasets.people.figure import Figure
from datasets.people.frames import make_frames as make_person
from datasets.people.motion import read_clips
from datasets.people.people import split_clips
from train_detector import read_weights
from train_detector import train_step as detector_step

SIDE, DEPTH_RANGE = 96, 1000.0  # of the pose networks: pixels, millimetres
CHUNK = 32  # views that are handed over together
SAVE_EVERY = 120  # seconds
STEPS = 25  # of one network between two looks for new views
# What a process makes next: odds, and how many groups or persons of it.
MADE = {"crowd": (0.56, 1), "above": (0.22, 1), "person": (0.22, 3)}
POSE_VIEWS = 8  # of each person
FRAME_VIEWS = 4  # of each whole frame
POOL = 1500  # persons, or frames, from which a process draws
PREPARATION = Preparation(side=SIDE, crop="person", depth_range=DEPTH_RANGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreshConfig(Flags):
    """Trains two pose networks and the detector side by side.

    Processes make frames and views of them; the newest views lie on the accelerator,
    and each step draws from them. The learning rate follows the clock.
    """

    data_dir: Path | None = None
    """Folder of motion capture, as of the data set people; by default none."""
    run_dir: Path = Path("runs/fresh")
    """Gets people.npz, above.npz and detector.npz, and metrics.jsonl."""
    minutes: float = 9.0
    """How long."""
    workers: int = 0
    """Processes that make frames; 0 for one a processor, less one."""
    batch_size: int = 96
    """Views a step."""
    capacity: int = 200_000
    """Views that are kept of each kind, if there are as many."""
    learning_rate: float = 1e-3
    """Of Adam for the pose networks, at its highest."""
    detector_learning_rate: float = 2e-3
    """Of AdamW for the detector, at its highest."""
    augmentation: Augmentation = Augmentation(damage=0.15)
    """Of the pose networks' views."""
    init_from: Path | None = None
    """Folder of an earlier run's three files; by default the shipped weights."""
    seed: int = 1
    """Of people, views and order; who is made also depends on the number of workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes <= 0:
            raise ValueError(f"--minutes must be above 0, got {self.minutes}")
        if self.workers < 0:
            raise ValueError(f"--workers must be at least 0, got {self.workers}")
        if self.capacity < self.batch_size:
            raise ValueError(
                f"--capacity must be at least --batch_size={self.batch_size}, got "
                f"{self.capacity}"
            )


# Processes that make views.


def produce(config: FreshConfig, number: int, workers: int, queue: Any) -> None:
    """Makes views and hands over the files that they are in, until it is ended."""
    cv2.setNumThreads(1)
    jax.config.update("jax_platforms", "cpu")
    folder = Path(tempfile.mkdtemp(dir=scratch(config)))
    for name, kind, views in views_without_end(config, number, workers):
        path = folder / f"{kind}_{name}.npz"
        stacked = {key: np.stack([v[key] for v in views]) for key in views[0]}
        np.savez(path, **stacked)
        queue.put((kind, str(path)))


def views_without_end(
    config: FreshConfig, number: int, workers: int
) -> Iterator[tuple[int, str, list[dict[str, np.ndarray]]]]:
    """Yields chunks of views: a number, of which network, and the views.

    Args:
        config: Of the run.
        number: Of the process, from 0.
        workers: Processes in all.
    """
    rng = np.random.default_rng([config.seed, number])
    skeleton = SKELETONS["body15"]
    neck = skeleton.joints.index("neck")
    hips = (skeleton.joints.index("right_hip"), skeleton.joints.index("left_hip"))
    figure = Figure()
    clips = split_clips(read_clips(config.data_dir), "train") if config.data_dir else []
    persons: dict[str, deque[Example]] = {
        kind: deque(maxlen=POOL) for kind in ("people", "above")
    }
    frames: deque[detection.Frame] = deque(maxlen=POOL)
    waiting: dict[str, list[dict[str, np.ndarray]]] = {
        kind: [] for kind in ("people", "above", "detector")
    }
    names = itertools.count()
    odds = np.array([odds for odds, _ in MADE.values()])
    for turn in itertools.count():
        made = list(MADE)[int(rng.choice(len(MADE), p=odds / odds.sum()))]
        make = {
            "crowd": make_crowd,
            "above": functools.partial(
                make_crowd, mountings=ABOVE, towards_camera=False
            ),
            "person": make_person,
        }[made]
        count = MADE[made][1]
        new: list[Any] = []
        for one in range(count):
            group = (turn * workers + number) * count + one
            new += make(figure, clips, skeleton, config.seed, "train", group)
        kind = "above" if made == "above" else "people"
        new = [{**x, "depth": decode_depth(x)} for x in new]
        whole = [] if made == "person" else new
        each: list[Example] = new if made == "person" else list(EachPerson(new))
        persons[kind].extend(each)
        frames.extend(detection.read_frame(x, neck=neck, hips=hips) for x in whole)
        for _ in range(POSE_VIEWS * len(each)):
            example = persons[kind][int(rng.integers(len(persons[kind])))]
            waiting[kind].append(pose_view(config, example, rng, skeleton))
        for _ in range(FRAME_VIEWS * len(whole)):
            image, targets = detection.training_image(
                rng, frames[int(rng.integers(len(frames)))]
            )
            waiting["detector"].append(as_stored({"image": image, **targets}))
        for kind, views in waiting.items():
            while len(views) >= CHUNK:
                order = rng.permutation(len(views))
                chosen = [views[i] for i in order[:CHUNK]]
                waiting[kind] = views = [views[i] for i in order[CHUNK:]]
                yield next(names), kind, chosen


def pose_view(
    config: FreshConfig,
    example: Example,
    rng: np.random.Generator,
    skeleton: Skeleton,
) -> dict[str, np.ndarray]:
    """Returns a random view of a person."""
    return as_stored(
        training_view(
            example,
            rng,
            preparation=PREPARATION,
            augmentation=config.augmentation,
            skeleton=skeleton,
        )
    )


def as_stored(view: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a view whose maps take half the memory."""
    return {
        name: value.astype(np.float16)
        if value.ndim > 1 and value.shape[-1] != 2 and value.dtype != bool
        else value
        for name, value in view.items()
    }


def scratch(config: FreshConfig) -> Path:
    """Returns the folder of views on their way."""
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else config.run_dir) / f"fresh_{os.getppid()}"


# What learns from them.


class Learner:
    """One network, its optimizer, and the newest views that it draws from."""

    def __init__(self, config: FreshConfig, name: str) -> None:
        self.name, self.config = name, config
        self.key = jax.random.key(config.seed)
        self.buffer: dict[str, jax.Array] = {}
        self.count = self.seen = self.steps = 0
        self._compiled: Any = None
        self.capacity = config.capacity // CHUNK * CHUNK
        if name == "detector":
            self.optimizer = optax.chain(
                optax.clip_by_global_norm(5.0),
                optax.inject_hyperparams(optax.adamw)(0.0, weight_decay=1e-4),
            )
            self.model: Any = Detector()
            path = detector.WEIGHTS.with_suffix(".npz")
            image = jnp.zeros((1, detector.SIDE, detector.SIDE, 3))
            like = self.model.init(jax.random.key(0), image, train=False)
        else:
            self.optimizer = optax.inject_hyperparams(optax.adam)(0.0)
            shipped = "people-96" if name == "people" else "people-above-96"
            self.model, like = cmbjax.load(shipped)
            path = None
        if config.init_from is not None:
            path = config.init_from / f"{name}.npz"
        self.variables = jax.tree.map(jnp.array, like)
        if path is not None:
            self.variables = read_weights(path, like)
        self.opt_state = self.optimizer.init(self.variables["params"])

    @property
    def is_ready(self) -> bool:
        """Whether there are enough views to begin with."""
        return self.count >= min(4096, self.capacity)

    def take(self, views: dict[str, np.ndarray]) -> None:
        """Puts a chunk of views in the place of the oldest."""
        if not self.buffer:
            self.buffer = {
                name: jnp.zeros((self.capacity, *value.shape[1:]), value.dtype)
                for name, value in views.items()
            }
        at = self.seen % self.capacity
        self.buffer = put(self.buffer, views, at)
        self.seen += CHUNK
        self.count = min(self.seen, self.capacity)

    def train(self, learning_rate: float) -> jax.Array:
        """Does `STEPS` steps; returns their mean loss."""
        self.variables, self.opt_state, loss = self._compiled(
            *self._arguments(learning_rate)
        )
        self.steps += STEPS
        return loss

    def compile(self) -> None:
        """Compiles the steps, once the first views have shown what they look like."""
        self._compiled = self._run.lower(*self._arguments(0.0)).compile()

    def _arguments(self, learning_rate: float) -> tuple[Any, ...]:
        key = jax.random.fold_in(self.key, self.steps)
        state = (self.variables, self.opt_state)
        rate = jnp.asarray(learning_rate, jnp.float32)
        return state, self.buffer, jnp.asarray(self.count), key, rate

    @property
    def _run(self) -> Any:
        make_step = self._detector_step if self.name == "detector" else self._pose_step

        def run(state: Any, buffer: Any, count: Any, key: Any, rate: Any) -> Any:
            def body(state: Any, number: Any) -> Any:
                drawn, used = jax.random.split(jax.random.fold_in(key, number))
                chosen = jax.random.randint(drawn, (self.config.batch_size,), 0, count)
                batch = {name: values[chosen] for name, values in buffer.items()}
                batch = {
                    name: x.astype(jnp.float32) if x.dtype == jnp.float16 else x
                    for name, x in batch.items()
                }
                return make_step(state, batch, used)

            variables, opt_state = state
            rates = {"learning_rate": rate}
            opt_state = jax.tree.map(
                lambda part: part._replace(hyperparams=part.hyperparams | rates)
                if hasattr(part, "hyperparams")
                else part,
                opt_state,
                is_leaf=lambda part: hasattr(part, "hyperparams"),
            )
            state, losses = jax.lax.scan(
                body, (variables, opt_state), jnp.arange(STEPS)
            )
            return *state, jnp.mean(losses)

        return jax.jit(run, donate_argnums=0)

    def _detector_step(self, state: Any, batch: Any, key: Any) -> Any:
        del key
        image = batch.pop("image")
        *state, loss = detector_step(
            *state, image, batch, model=self.model, optimizer=self.optimizer
        )
        return tuple(state), loss

    def _pose_step(self, state: Any, batch: Any, key: Any) -> Any:
        variables, opt_state = state
        flip = jax.random.bernoulli(key, shape=(self.config.batch_size,))
        before = step.TrainState(
            step=jnp.zeros((), jnp.int32), opt_state=opt_state, **variables
        )
        after, loss = step.train_step(
            before,
            mirrored(batch, flip),
            key,
            model=self.model,
            optimizer=self.optimizer,
            sigma=self.model.sigma(SIDE),
            r=step.R_AFTER_SWITCH,
        )
        return (after.variables, after.opt_state), loss


@functools.partial(jax.jit, donate_argnums=0)
def put(buffer: Any, views: Any, at: Any) -> Any:
    """Returns a buffer with new views at a place."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(values, views[name], at, 0)
        for name, values in buffer.items()
    }


def mirrored(batch: dict[str, Any], flip: Any) -> dict[str, Any]:
    """Returns views, some of them mirrored, the joints of both sides exchanged.

    Args:
        batch: See `data.views.training_view`.
        flip: bool [batch].
    """
    order = np.array(SKELETONS["body15"].mirror)
    joints_px = batch["joints_px"].astype(jnp.float32)
    other = {
        "depth": batch["depth"][:, :, ::-1],
        "joints_px": (joints_px * np.array([-1, 1]) + np.array([SIDE, 0]))[:, order],
        "joints_z": batch["joints_z"][:, order],
        "visible": batch["visible"][:, order],
    }
    return {
        name: jnp.where(flip.reshape(-1, *[1] * (x.ndim - 1)), other[name], x)
        for name, x in batch.items()
    }


def main(config: FreshConfig) -> None:
    """Trains until the time is over, and saves."""
    since = time.perf_counter()
    config.run_dir.mkdir(parents=True, exist_ok=True)
    metrics = config.run_dir / "metrics.jsonl"
    if metrics.exists():
        raise ValueError(f"--run_dir={config.run_dir} holds a run; choose another")
    workers = config.workers or max(1, (os.cpu_count() or 2) - 1)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=32 * workers)
    place = scratch(config).with_name(f"fresh_{os.getpid()}")
    place.mkdir()
    processes = [
        context.Process(
            target=produce, args=(config, number, workers, queue), daemon=True
        )
        for number in range(workers)
    ]
    try:
        for process in processes:
            process.start()
        learners = {n: Learner(config, n) for n in ("people", "above", "detector")}
        fit(config, learners, processes, queue, since)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        shutil.rmtree(place, ignore_errors=True)


def fit(
    config: FreshConfig,
    learners: dict[str, Learner],
    processes: list[Any],
    queue: Any,
    since: float,
) -> None:
    """Trains all networks in turns until the time is over, and saves them."""
    logged = saved = since
    total = 60 * config.minutes
    compiling: dict[str, Future[None]] = {}
    executor = ThreadPoolExecutor(len(learners))
    under_way: dict[str, jax.Array] = {}
    write_json(config.run_dir / "config.json", {"device": str(jax.devices()[0])})
    while (now := time.perf_counter()) - since < total:
        if not any(process.is_alive() for process in processes):
            raise ValueError("all processes that make frames have ended; see above why")
        new = 0
        while new < 8 * len(processes):
            try:
                kind, path = queue.get(timeout=0.0 if new else 0.02)
            except Empty:
                break
            with np.load(path) as stored:
                learners[kind].take(dict(stored))
            if kind not in compiling:
                compiling[kind] = executor.submit(learners[kind].compile)
            Path(path).unlink()
            new += 1
        part = (now - since) / total
        rate = min(1.0, part / 0.08) * 0.5 * (1 + np.cos(np.pi * part))
        losses = {}
        for name, learner in learners.items():
            if learner.is_ready and compiling[name].done():
                compiling[name].result()
                of_detector = name == "detector"
                highest = (
                    config.detector_learning_rate
                    if of_detector
                    else config.learning_rate
                )
                losses[name] = learner.train(float(highest * rate))
        # Waits for the steps before these, so that new views are read meanwhile.
        values = {name: float(loss) for name, loss in under_way.items()}
        under_way = losses
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if bad:
            raise FloatingPointError(f"the loss of {', '.join(bad)} is not finite")
        if now - logged > 15:
            logged = now
            record: dict[str, Any] = {"seconds": round(now - since), "rate": rate}
            for name, learner in learners.items():
                record[name] = [learner.seen, learner.steps, values.get(name)]
            line = json.dumps(record)
            print(line, flush=True)
            with (config.run_dir / "metrics.jsonl").open("a") as file:
                file.write(line + "\n")
        if now - saved > SAVE_EVERY:
            saved = now
            save(config, learners)
    save(config, learners)
    print({name: (x.seen, x.steps) for name, x in learners.items()})


def save(config: FreshConfig, learners: dict[str, Learner]) -> None:
    """Writes the weights of all networks."""
    for name, learner in learners.items():
        save_weights(config.run_dir / f"{name}.npz", learner.variables)


if __name__ == "__main__":
    try:
        runtime.prepare()
        main(tyro.cli(FreshConfig))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train_fresh.py: {error}")
