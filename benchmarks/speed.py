"""How fast a network trains and answers: `python -m benchmarks.speed`.

Everything is timed in one run, what is compared in turns, and a ratio is the median of
ratios of neighbours: a machine that is busy with other things slows both.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import datasets
from benchmarks import profiles
from benchmarks.harness import markdown
from cmbjax import runtime
from cmbjax.data.augment import Augmentation
from cmbjax.data.batches import training_batches
from cmbjax.data.examples import DepthFrames
from cmbjax.data.flags import Flags, check_ranges
from cmbjax.data.views import Preparation
from cmbjax.export import formats
from cmbjax.files import write_json, write_text
from cmbjax.models import MODELS, fast
from cmbjax.models.layers import PLAIN, Form
from cmbjax.models.posenet import PoseNet
from cmbjax.predict.card import ONNX_FILE
from cmbjax.predict.runtimes import open_network
from cmbjax.registry import pick
from cmbjax.scripts import script
from cmbjax.train import step as training
from cmbjax.train.config import RANGES

JOINTS = 19
EAGER = "PyTorch eager, channels last"
AGREEMENT = 1e-4  # of the largest value, between us and a twin

Timed = Callable[[], Any]
Row = dict[str, Any]


INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedConfig(Flags):
    """Measures training, inference, input and memory, and writes speed.md."""

    model: str = "cmb"
    """A name in MODELS; PyTorch has a twin of cmb alone."""
    train_sides: tuple[int, ...] = (128, 192)
    """Sides of the training step."""
    side: int = 192
    """Side of inference."""
    batch_size: int = 16
    """Frames of a training step."""
    width: float = 1.0
    """Multiplies every channel count."""
    trunk_norm: bool = True
    """As in train.py."""
    repeats: int = 20
    """Timed turns of inference; a training step has a quarter."""
    bfloat16: bool = True
    """Times it as well; it takes long on a processor without instructions for it."""
    dataset: str = "mannequin"
    """Whose input pipeline is timed."""
    tfds_dir: Path | None = None
    """Folder of prepared data sets."""
    out_dir: Path = Path("runs/speed")
    """Gets speed.md and speed.json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        model = pick(MODELS, "model", self.model)(num_joints=JOINTS)
        if not isinstance(model, PoseNet):
            raise ValueError(
                f"--model={self.model} has one form alone: expected a network with "
                "memory blocks, or one of those without that it is compared with"
            )
        sides = RANGES["side"]
        check_ranges(
            self, {"side": sides, "train_sides": sides, "width": RANGES["width"]}
        )
        for side in (self.side, *self.train_sides):
            if side % model.divisor:
                raise ValueError(
                    f"--side and --train_sides must be multiples of {model.divisor}, "
                    f"got {side}"
                )
        if not self.train_sides:
            raise ValueError("--train_sides must be at least one, got none")


def main(config: SpeedConfig) -> None:
    """Runs every part, and writes the tables."""
    for side in config.train_sides:
        runtime.check_memory(
            f"--batch_size={config.batch_size} --train_sides={side} "
            f"--width={config.width:g}",
            int(config.batch_size * (side * max(1.0, config.width)) ** 2),
            functools.partial(
                training.bytes_of_step,
                MODELS[config.model](num_joints=JOINTS, width=config.width, form=PLAIN),
                side=side,
                batch_size=config.batch_size,
            ),
        )
    frames = datasets.load(config.dataset, None, config.tfds_dir, split="train")
    config.out_dir.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Row]] = {}
    for title, rows in measured(config, frames):
        tables[title] = rows
        # As they come: what a stopped run has measured stays.
        write_json(config.out_dir / "speed.json", tables)
        text = f"## {title}\n\n{markdown(rows)}"
        print(text, flush=True)
    text = "\n".join(
        f"## {title}\n\n{markdown(rows)}" for title, rows in tables.items()
    )
    write_text(config.out_dir / "speed.md", text)


def measured(
    config: SpeedConfig, frames: DepthFrames
) -> Iterator[tuple[str, list[Row]]]:
    """Yields each table, with its title, when it is measured."""
    rate = matrix_product_rate()
    yield "Machine", [machine(rate)]
    steps = training_steps(config, rate)
    yield "Training step", steps
    yield "Inference, batch 1", inference(config, rate)
    yield "Training step by layer", by_layer(config)
    yield "Input pipeline", input_pipeline(config, steps, frames)


def median_times(timed: Mapping[str, Timed], repeats: int) -> dict[str, np.ndarray]:
    """Returns [repeats] seconds of each, run in turns after two turns of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats + 2):
        for name, run in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values[2:]) for name, values in seconds.items()}


def median_ratio(ours: np.ndarray, reference: np.ndarray) -> float:
    """Returns the median over turns of the ratio of two times."""
    return round(statistics.median(ours / reference), 3)


def matrix_product_rate(size: int = 2048) -> float:
    """Returns multiplications and additions a second of a large float32 product."""
    matrix = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    seconds = median_times({"product": lambda: product(matrix, matrix)}, 5)["product"]
    return 2 * size**3 / statistics.median(seconds)


def machine(rate: float) -> Row:
    """Returns what is measured on."""
    device = jax.devices()[0]
    return {
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "processor": f"{platform.machine()} {processor()}",
        "instruction sets": ", ".join(instruction_sets()) or "not known",
        "other load, processes": round(os.getloadavg()[0], 1),
        "jax": jax.__version__,
        "matrix product, GFLOP/s": round(rate / 1e9),
    }


def _cpu_info(key: str) -> str:
    """Returns what Linux says of the first processor, or nothing."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return found[0] if found else ""


def processor() -> str:
    """Returns the processor's name, and how many of it this process may use."""
    return f"{_cpu_info('model name')}, {len(os.sched_getaffinity(0))} cores"


def instruction_sets() -> list[str]:
    """Returns which of the vector instruction sets the processor has."""
    flags = _cpu_info("flags").split()
    return [name for name in INSTRUCTION_SETS if name in flags]


def make_network(config: SpeedConfig, side: int, batch_size: int, **options: Any):
    """Returns the model, its optimizer, and a state whose BN has seen something."""
    model = MODELS[config.model](
        num_joints=JOINTS, width=config.width, trunk_norm=config.trunk_norm, **options
    )
    optimizer = optax.adam(1e-4)
    state = training.create_state(
        jax.random.key(0), model, optimizer, side=side, batch_size=batch_size
    )
    statistics = jax.tree.map(lambda leaf: leaf + 0.1, state.batch_stats)
    return model, optimizer, state._replace(batch_stats=statistics)


def random_batch(side: int, batch_size: int) -> dict[str, np.ndarray]:
    """Returns what `data.views.training_view` would, of noise."""
    rng = np.random.default_rng(0)
    joints_px = rng.uniform(0, side, (batch_size, JOINTS, 2))
    return {
        "depth": rng.uniform(-1, 1, (batch_size, side, side, 1)).astype(np.float32),
        "joints_px": joints_px.astype(np.float32),
        "joints_z": np.zeros((batch_size, JOINTS), np.float32),
        "visible": np.ones((batch_size, JOINTS), bool),
    }


def training_steps(config: SpeedConfig, rate: float) -> list[Row]:
    """Compares steps of the plain and the fast form, and of PyTorch."""
    rows = []
    for side in config.train_sides:
        batch = random_batch(side, config.batch_size)
        timed: dict[str, Timed] = {}
        about: dict[str, Row] = {}
        fastest = fast.fastest()
        forms = {"plain": PLAIN, "direct convolutions": fast.FAST, "fast": fastest}
        if fastest == fast.FAST:
            del forms["direct convolutions"]  # that is the fastest, and not made twice
        for kind, r, dtype in (
            *((kind, 3.0, jnp.float32) for kind in forms),
            ("fast", 1.0, jnp.float32),
            *([("fast", 3.0, jnp.bfloat16)] if config.bfloat16 else []),
        ):
            name = f"{kind}, {dtype.__name__}, r = {r:g}"
            timed[name], about[name] = our_step(
                config, side, batch, forms[kind], r, dtype
            )
        if has_torch(config):
            timed[EAGER] = torch_step(config, side, batch)
            timed["torch.compile"] = torch_step(config, side, batch, compiled=True)
            if config.bfloat16:
                bfloat16 = torch_step(config, side, batch, bfloat16=True)
                timed["PyTorch eager, bfloat16"] = bfloat16
        seconds = median_times(timed, max(3, config.repeats // 4))
        reference = seconds.get(EAGER)
        for name, values in seconds.items():
            median = statistics.median(values)
            row: Row = {
                "side": side,
                "batch": config.batch_size,
                "step": name,
                "s": round(median, 3),
                "frames/s": round(config.batch_size / median, 1),
                "x PyTorch": ""
                if reference is None
                else median_ratio(values, reference),
                "GFLOP": "",
                "of matrix product": "",
                "peak MB": "",
            }
            if name in about:
                row.update(about[name])
                row["of matrix product"] = f"{1e9 * row['GFLOP'] / median / rate:.0%}"
            rows.append(row)
    return rows


def our_step(
    config: SpeedConfig,
    side: int,
    batch: dict[str, np.ndarray],
    form: Form,
    r: float,
    dtype: Any,
) -> tuple[Timed, Row]:
    """Returns one training step to run, with its multiplications and its memory."""
    size = len(batch["depth"])
    model, optimizer, state = make_network(config, side, size, form=form, dtype=dtype)
    key = jax.random.key(0)
    compiled = training.train_step.lower(
        state, batch, key, model=model, optimizer=optimizer, sigma=1.5, r=r
    ).compile()
    holder = [state]

    def step() -> jax.Array:
        holder[0], loss = compiled(holder[0], batch, key)
        return loss

    about = {"GFLOP": round(flops_of(compiled) / 1e9, 1), "peak MB": peak_mb(compiled)}
    return step, about


def flops_of(compiled: Any) -> float:
    """Returns XLA's count; of a loop's body it counts one turn."""
    return float(compiled.cost_analysis()["flops"])


def peak_mb(compiled: Any) -> int:
    """Returns arguments, results and all that lives between, without donated twins."""
    memory = compiled.memory_analysis()
    whole = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    return round(whole / 2**20)


def has_torch(config: SpeedConfig) -> bool:
    """Whether there is a twin to compare with."""
    return config.model == "cmb" and importlib.util.find_spec("torch") is not None


def make_twin(
    config: SpeedConfig, model: Any, variables: Any, depth: np.ndarray
) -> Any:
    """Returns PyTorch's twin, channels last, once its heat maps agree with ours.

    Raises:
        ValueError: They do not.
    """
    import torch

    from benchmarks.twin import twin_of

    twin = twin_of(variables, side=depth.shape[1], width=config.width).eval()
    twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        theirs = twin(as_torch(depth), 3.0).numpy().transpose(0, 2, 3, 1)
    ours = np.asarray(model.apply(variables, depth, train=False, r=3.0))
    error = np.abs(theirs - ours).max() / np.abs(ours).max()
    if not error < AGREEMENT:
        raise ValueError(f"PyTorch's twin differs by {error:.1e} of the largest value")
    return twin


def as_torch(depth: np.ndarray) -> Any:
    """Returns the images as PyTorch wants them."""
    import torch

    images = torch.tensor(depth.transpose(0, 3, 1, 2))
    return images.contiguous(memory_format=torch.channels_last)


def torch_step(
    config: SpeedConfig,
    side: int,
    batch: dict[str, np.ndarray],
    *,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Timed:
    """Returns one training step of the twin.

    Args:
        config: Of the benchmark.
        side: Of the input, pixels.
        batch: See `random_batch`.
        compiled: By torch.compile.
        bfloat16: Where autocast has it, as `--dtype=bfloat16` is ours.
    """
    import torch

    depth = batch["depth"]
    model, _, state = make_network(config, side, len(depth))
    twin = make_twin(config, model, state.variables, depth[:1]).train()
    optimizer = torch.optim.Adam(twin.parameters(), 1e-4)
    network = torch.compile(twin) if compiled else twin
    images, targets = (
        as_torch(depth),
        torch.rand(len(depth), JOINTS, side // 2, side // 2),
    )

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            maps = network(images, 3.0)
        loss = ((maps.float() - targets) ** 2).sum((2, 3)).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(config: SpeedConfig, rate: float) -> list[Row]:
    """Compares the plain network, the folded one, PyTorch, and runtimes for ONNX."""
    depth = random_batch(config.side, 1)["depth"]
    model, _, state = make_network(config, config.side, 1)
    variables = state.variables
    plain = fast.in_form(model, PLAIN)
    apply = functools.partial(plain.apply, train=False, r=3.0)
    frozen = fast.freeze(model, variables, r=3.0)
    folded = fast.compile_for(frozen, side=config.side)
    compiled: dict[str, Any] = {
        "plain": jax.jit(apply).lower(variables, depth).compile(),
        "folded": folded,
    }
    timed: dict[str, Timed] = {
        "plain": lambda: compiled["plain"](variables, depth),
        "folded": lambda: folded(jnp.asarray(depth)),
    }
    if has_torch(config):
        import torch

        twin = make_twin(config, model, variables, depth)
        fused, images = torch.compile(twin), as_torch(depth)

        def without_gradient(network: Any) -> Timed:
            def run() -> Any:
                with torch.no_grad():
                    return network(images, 3.0)

            return run

        timed["PyTorch eager"] = without_gradient(twin)
        timed["torch.compile"] = without_gradient(fused)
    timed.update(onnx_runtimes(config, model, variables, depth))
    seconds = median_times(timed, config.repeats)
    reference = seconds.get("torch.compile")
    rows = []
    for name, values in seconds.items():
        median = statistics.median(values)
        row: Row = {
            "network": name,
            "side": config.side,
            "ms": round(1e3 * median, 1),
            "x torch.compile": ""
            if reference is None
            else median_ratio(values, reference),
            "GFLOP": "",
            "of matrix product": "",
            "peak MB": "",
        }
        if name in compiled:
            flops = flops_of(compiled[name])
            row["GFLOP"] = round(flops / 1e9, 2)
            row["of matrix product"] = f"{flops / median / rate:.0%}"
            row["peak MB"] = peak_mb(compiled[name])
        rows.append(row)
    return rows


def onnx_runtimes(
    config: SpeedConfig, model: Any, variables: Any, depth: np.ndarray
) -> dict[str, Timed]:
    """Returns the exported network in each runtime that is installed."""
    if any(importlib.util.find_spec(name) is None for name in formats.ONNX_PACKAGES):
        return {}
    forms = formats.forms(model, variables, side=config.side, r=3.0, rolling=False)
    names = forms.output_names
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONNX_FILE
        formats.write_onnx(path, forms.layers, {"depth": depth}, names)
        networks = {
            "ONNX Runtime": open_network(path, names, backend="onnxruntime"),
            "OpenVINO f32": open_network(path, names),
            "OpenVINO bf16": open_network(path, names, precision="bf16"),
        }
    inputs = {"depth": depth}
    return {name: functools.partial(run, inputs) for name, run in networks.items()}


def by_layer(config: SpeedConfig) -> list[Row]:
    """Returns the share of each layer in a fast training step, on one core.

    By a process of its own: see `profiles.nanoseconds`. "multiplying" is what of both
    ways convolutions and products take.
    """
    spawned = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=spawned, initializer=_on_one_core
    ) as process:
        return process.submit(_by_layer, config).result()


def _on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    runtime.prepare()


def _by_layer(config: SpeedConfig) -> list[Row]:
    side = config.train_sides[0]
    batch = random_batch(side, config.batch_size)
    form = fast.fastest()
    model, optimizer, state = make_network(config, side, config.batch_size, form=form)
    key = jax.random.key(0)
    lowered = training.train_step.lower(
        state, batch, key, model=model, optimizer=optimizer, sigma=1.5, r=3.0
    )
    # A program that was kept has the names of the modules that it was made of then.
    with runtime.jax_option("jax_compilation_cache_include_metadata_in_key", True):
        compiled = lowered.compile()
    operations = profiles.operations_of(compiled.as_text() or "")
    for _ in range(3):
        state, _ = jax.block_until_ready(compiled(state, batch, key))
    times = profiles.nanoseconds(lambda: compiled(state, batch, key))
    spent: collections.Counter[tuple[str, str]] = collections.Counter()
    for name, operation in operations.items():
        layer = profiles.layer_of(operation.path)
        spent[layer, "back" if profiles.GRADIENT in operation.path else "forth"] += (
            times[name]
        )
        if operation.kind in {"convolution", "dot"}:
            spent[layer, "multiplying"] += times[name]
    whole = sum(spent[layer, way] for layer, way in spent if way != "multiplying")
    return [
        {"side": side, "layer": layer}
        | {
            way: f"{spent[layer, way] / whole:.1%}"
            for way in ("forth", "back", "multiplying")
        }
        for layer in sorted(
            {layer for layer, _ in spent}, key=lambda n: -spent[n, "back"]
        )
    ]


def input_pipeline(
    config: SpeedConfig, steps: list[Row], frames: DepthFrames
) -> list[Row]:
    """Returns frames a second that the pipeline delivers, with nothing else at work.

    Args:
        config: Of the benchmark.
        steps: See `training_steps`; the fastest of a side is compared with.
        frames: The split.
    """
    rows = []
    for side in config.train_sides:
        preparation = Preparation(
            side=side, crop="person", depth_range=frames.depth_range or 1000.0
        )
        batches = training_batches(
            frames,
            preparation=preparation,
            augmentation=Augmentation(),
            batch_size=config.batch_size,
            seed=0,
        )
        for _ in range(10):  # what was prefetched before the clock runs
            next(batches)
        turns = 40
        start = time.perf_counter()
        for _ in range(turns):
            next(batches)
        rate = turns * config.batch_size / (time.perf_counter() - start)
        fastest = max(
            row["frames/s"]
            for row in steps
            if row["side"] == side and row["GFLOP"]  # counted of our own steps
        )
        rows.append(
            {
                "data set": frames.name,
                "side": side,
                "frames/s": round(rate),
                "x training": round(rate / fastest, 1),
            }
        )
    return rows


if __name__ == "__main__":
    with script("speed.py"):
        runtime.prepare()
        main(tyro.cli(SpeedConfig, use_underscores=True))
