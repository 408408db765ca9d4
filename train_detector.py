"""Trains what finds people or hands: `python train_detector.py --data_dir=mocap`."""

import dataclasses
import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import optax
import tyro
from flax import traverse_util
from tqdm import tqdm

import datasets
from cmbjax import runtime
from cmbjax.data import detection
from cmbjax.data.flags import Flags, check_ranges
from cmbjax.depth import detector
from cmbjax.export.card import check_share, mean_of, save_weights
from cmbjax.files import (
    as_json,
    checksum,
    read_npz,
    whole_file,
    write_json,
)
from cmbjax.models.detector import HEAD, LAYERS, Detector, folded, loss
from cmbjax.scripts import script
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.config import RANGES
from cmbjax.train.loop import Interrupted, fit, read_records
from cmbjax.train.run import claim_folder
from cmbjax.train.step import TrainState
from datasets.crowd.crowd import Crowd

# Of what is found the data set, and its configs.
TRAINED_ON = {"people": ("crowd", "crowd+above+many"), "hands": ("hands", "hands")}
AHEAD = 4  # batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorConfig(Flags):
    """Trains on the synthetic data set crowd, or hands, and writes detector.onnx.

    Started again in its folder, it goes on.
    """

    what: Literal["people", "hands"] = "people"
    """What is found: people, of the data set crowd, or hands, of the data set hands."""
    data_dir: Path | None = None
    """Folder of motion capture, as of the data set people."""
    config: str | None = None
    """Of the data set, or several joined by +; by default crowd+above+many, or
    hands."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets; by default that of TFDS."""
    run_dir: Path | None = None
    """Gets detector.onnx, detector.json about it, and checkpoints; by default
    runs/detector or runs/hand-detector."""
    num_steps: int = 20_000
    """Steps of training."""
    batch_size: int = 24
    """Views a step."""
    learning_rate: float = 3e-3
    """Of AdamW, at its highest."""
    init_from: Path | None = None
    """A detector.npz to start from; by default nothing is known at the start."""
    mean_with: Path | None = None
    """Another run's detector.npz: the mean of both networks is what is written."""
    mean_share: float = 0.5
    """The other network's part in that mean, between 0 and 1."""
    seed: int = 0
    """Of parameters and views."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.mean_share)
        check_ranges(self, {"learning_rate": RANGES["learning_rate"]})

    @property
    def configs(self) -> str:
        """Configs of the data set, joined by +."""
        return self.config or TRAINED_ON[self.what][1]

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.run_dir or Path("runs") / detector.FOLDERS[self.what]


def claim(config: DetectorConfig) -> None:
    """Makes the run's folder, or finds it to be of this config.

    Raises:
        ValueError: It holds a run of another, or something else.
    """
    flags = ("num_steps", "batch_size", "learning_rate", "seed")
    mine = {name: getattr(config, name) for name in flags}
    mine["config"] = config.configs
    mine["init_from"] = config.init_from and str(config.init_from)
    claim_folder(config.folder / "config.json", mine, "a run")


def main(config: DetectorConfig) -> dict[str, Any]:
    """Trains, exports, and returns how many people of the test split are found.

    Raises:
        FloatingPointError: A loss is not finite; the last good checkpoint stands.
        Interrupted: SIGTERM or SIGINT came while it trained; the state was saved.
    """
    frames, test = (load(config, split) for split in ("train", "test"))
    other = made_of = None
    if config.mean_with is not None:
        shapes = jax.eval_shape(initial, jax.random.key(0))
        other = read_weights(config.mean_with, shapes, "--mean_with")
        made_of = checksum(config.mean_with)
    state = trained(config, frames)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    if other is not None:
        variables = mean_of(variables, other, config.mean_share)
    path = config.folder / "detector.onnx"
    write_onnx(path, variables)
    save_weights(path.with_suffix(".npz"), variables)
    records = read_records(config.folder / "metrics.jsonl")
    losses = [record["loss"] for record in records if record.get("loss") is not None]
    card: dict[str, Any] = {
        "sha256": checksum(path),
        "command": f"python train_detector.py --what={config.what} "
        f"--num_steps={config.num_steps}",
        "config": config.configs,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "mean_with": made_of,
        "mean_share": None if other is None else config.mean_share,
        "loss": float(np.mean(losses[-4:])) if losses else None,
    }
    write_json(path.with_suffix(".json"), card)
    card |= {"least_score": detector.LEAST_SCORE}
    card |= {"test": score(detector.Detector(path, config.what), test, config.what)}
    write_json(path.with_suffix(".json"), card)
    return card


def initial(key: jax.Array) -> Any:
    """Returns the variables of a network that knows nothing."""
    image = jnp.zeros((1, detector.SIDE, detector.SIDE, 3))
    return Detector().init(key, image, train=False)


def trained(config: DetectorConfig, frames: list[detection.Frame]) -> TrainState:
    """Returns the state after the last step; the folder is made, or gone on in."""
    model = Detector()
    schedule = optax.warmup_cosine_decay_schedule(
        0, config.learning_rate, config.num_steps // 20, config.num_steps
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(5.0), optax.adamw(schedule, weight_decay=1e-4)
    )
    variables = jax.jit(initial, compiler_options=runtime.COMPILED_QUICKLY)(
        jax.random.key(config.seed)
    )
    if config.init_from is not None and not Checkpoints.are_in(config.folder):
        variables = read_weights(config.init_from, variables, "--init_from")
    opt_state = optimizer.init(variables["params"])
    state = TrainState(jnp.int32(0), memory={}, opt_state=opt_state, **variables)
    make_batches = functools.partial(
        detection.batches, frames, seed=config.seed, hands=config.what == "hands"
    )

    def step(state: TrainState, batch: Any, number: int) -> tuple[TrainState, Any]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        variables, opt_state, value = train_step(
            variables, state.opt_state, *batch, model=model, optimizer=optimizer
        )
        done = state.step + 1
        return TrainState(done, memory={}, opt_state=opt_state, **variables), value

    size = config.batch_size
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype),
        next(make_batches(1)),
    )
    runtime.check_memory(
        f"--batch_size={size}",
        size * detector.SIDE**2,
        lambda: runtime.bytes_at_once(step, state, batch, 0),
    )
    # From here on the flags are good: what is refused before leaves no folder behind.
    claim(config)
    checkpoints = Checkpoints(config.folder)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state)
    try:
        with Ahead(make_batches(size, first=int(state.step))) as data:
            return fit(
                state,
                data,
                step=step,
                validate=lambda _: {},
                checkpoints=checkpoints,
                run_dir=config.folder,
                num_steps=config.num_steps,
                log_every=50,
                validate_every=0,
                checkpoint_every=1000,
            )
    finally:
        checkpoints.close()


@functools.partial(
    jax.jit, static_argnames=("model", "optimizer"), donate_argnums=(0, 1)
)
def train_step(
    variables: Any,
    opt_state: Any,
    images: Any,
    targets: Any,
    *,
    model: Detector,
    optimizer: optax.GradientTransformation,
) -> tuple[Any, Any, Any]:
    """Returns the next variables and state of the optimizer, and the loss."""

    def loss_fn(params: Any) -> tuple[Any, Any]:
        maps, new = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return loss(maps, targets), new

    (value, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, **new}, opt_state, value


def load(config: DetectorConfig, split: str) -> list[detection.Frame]:
    """Returns the frames of a split, prepared if that is still to be done."""
    frames = []
    dataset, _ = TRAINED_ON[config.what]
    for name in config.configs.split("+"):
        builder = datasets.prepared(
            f"{dataset}/{name}", config.data_dir, config.tfds_dir
        )
        assert isinstance(builder, Crowd), "hands are of this kind, too"
        frames += [
            detection.read_frame(example, builder.skeleton)
            for example in tqdm(
                builder.whole_frames(split),
                desc=f"{name} {split}",
                unit="frame",
                mininterval=5,
            )
        ]
    return frames


class Ahead:
    """Batches that are made in a thread, some steps before they are asked for.

    What making them raises is raised where they are asked for.
    """

    def __init__(self, data: Iterator[Any]) -> None:
        """Takes an endless iterator."""
        self._data, self._thread = data, ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __next__(self) -> Any:
        while len(self._waiting) < AHEAD:
            self._waiting.append(self._thread.submit(next, self._data))
        return self._waiting.popleft().result()

    def get_state(self) -> dict[str, Any]:
        """Returns nothing: what a batch is depends on its number alone."""
        return {}


def read_weights(path: Path, like: Any, flag: str) -> Any:
    """Returns what `save_weights` wrote, in a file that a flag names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, not of finite numbers, or of another network; names
            the first array that differs.
    """
    arrays = read_npz(path)
    flat = traverse_util.flatten_dict(like, sep="/")
    for name in sorted(flat.keys() | arrays.keys()):
        here, there = (x[name].shape if name in x else None for x in (flat, arrays))
        if here != there:
            raise ValueError(f"{flag}={path}: {name} is {there} there, expected {here}")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{flag}={path}: {name} is not finite")
    loaded = {name: jnp.asarray(value) for name, value in arrays.items()}
    return traverse_util.unflatten_dict(loaded, sep="/")


def write_onnx(path: Path, variables: Any) -> None:
    """Writes the network for pictures of any size, BN folded into its filters.

    Channels are first; width and height are to be multiples of 16.
    """
    nodes, weights = [], []
    layers = folded(variables)

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(onnx.numpy_helper.from_array(values, name))
        return name

    scales = constant("twice", np.array([1, 1, 2, 2], np.float32))

    def convolve(name: str, source: str, *, stride: int = 1, dilation: int = 1) -> None:
        kernel, bias = layers[name]
        pad = dilation * (len(kernel) // 2)
        inputs = [
            source,
            constant(
                f"{name}.kernel", np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            ),
            constant(f"{name}.bias", bias.astype(np.float32)),
        ]
        nodes.append(
            onnx.helper.make_node(
                "Conv",
                inputs,
                [name if name == HEAD else f"{name}.sum"],
                strides=[stride] * 2,
                dilations=[dilation] * 2,
                pads=[pad] * 4,
                kernel_shape=list(kernel.shape[:2]),
            )
        )
        if name != HEAD:
            nodes.append(onnx.helper.make_node("Relu", [f"{name}.sum"], [name]))

    for layer in LAYERS:
        parts = []
        for source in layer.inputs:
            if source[-1] == "+":
                source = source[:-1]
                up = f"{source}.twice"
                nodes.append(
                    onnx.helper.make_node(
                        "Resize",
                        [source, "", scales],
                        [up],
                        mode="nearest",
                        coordinate_transformation_mode="asymmetric",
                        nearest_mode="floor",
                    )
                )
                source = up
            parts.append(source)
        if len(parts) > 1:
            joint = f"{layer.name}.parts"
            nodes.append(onnx.helper.make_node("Concat", parts, [joint], axis=1))
            parts = [joint]
        convolve(layer.name, parts[0], stride=layer.stride, dilation=layer.dilation)
    convolve(HEAD, LAYERS[-1].name)
    graph = onnx.helper.make_graph(
        nodes,
        "detector",
        [
            onnx.helper.make_tensor_value_info(
                "input", onnx.TensorProto.FLOAT, [1, 3, "height", "width"]
            )
        ],
        [
            onnx.helper.make_tensor_value_info(
                HEAD, onnx.TensorProto.FLOAT, [1, detector.CHANNELS, "rows", "columns"]
            )
        ],
        weights,
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.checker.check_model(model)
    with whole_file(path) as file:
        file.write(model.SerializeToString())


def score(
    network: Any, frames: list[detection.Frame], what: str = "people"
) -> dict[str, Any]:
    """Returns how many people are found (IoU 0.5), and false alarms (IoU 0.3) a frame.

    Of whom hardly anything is seen may be found or not: see `detection.Frame`.

    Args:
        network: Gives the people in a depth image.
        frames: Of the data set crowd, or hands.
        what: People or hands.

    Returns:
        Numbers of frames and people, recall over all and by kind of person, false
        alarms a frame, and those a frame without anybody.
    """
    kinds: dict[str, list[bool]] = {}
    alarms: list[int] = []
    for frame in frames:
        guesses = [person.box for person in network(frame.depth)]
        people = np.flatnonzero(frame.clear)
        found, false = detection.matched(guesses, frame.boxes, people)
        for person, guess in zip(people.tolist(), found, strict=True):
            for kind in detection.kinds_of(frame, person, what):
                kinds.setdefault(kind, []).append(guess is not None)
        alarms.append(false)
    empty = [n for n, frame in zip(alarms, frames, strict=True) if not len(frame.boxes)]
    return {
        "frames": len(frames),
        what: len(kinds.get("all", ())),
        "recall": {kind: float(np.mean(kinds[kind])) for kind in sorted(kinds)},
        "false_alarms_a_frame": float(np.mean(alarms)),
        "false_alarms_an_empty_frame": float(np.mean(empty)) if empty else None,
    }


if __name__ == "__main__":
    with script("train_detector.py", FloatingPointError, Interrupted):
        runtime.prepare()
        print(as_json(main(tyro.cli(DetectorConfig, use_underscores=True)), indent=1))
