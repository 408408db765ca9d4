"""What runs an exported network: ONNX Runtime, OpenVINO or JAX."""

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from cmbjax.files import read_npz
from cmbjax.predict.card import (
    CARD_FILE,
    INT8_FILE,
    MEMORY_FILE,
    ONNX_FILE,
    STABLEHLO_FILE,
    WEIGHTS_FILE,
    Card,
    Shapes,
    listed,
)
from cmbjax.sessions import open_session

Backend = Literal["onnxruntime", "openvino", "jax"]
Precision = Literal["f32", "bf16", "int8"]
Outputs = dict[str, np.ndarray]  # heatmaps, depth_maps, joints: what there is
Memory = dict[str, Any]  # of each block; empty where it is frozen
Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]

NEW = "new_"  # before the name of a block's memory, among outputs
OPENING = threading.Lock()


class Runtime(NamedTuple):
    """A network that is ready to run.

    Attributes:
        run: Returns the outputs for depth [1, side, side, 1], and the new memory.
        memory: Before the first frame; empty where it is frozen.
    """

    run: Callable[[np.ndarray, Memory], tuple[Outputs, Memory]]
    memory: Memory


def open_runtime(
    card: Card, *, memory: str, backend: str, precision: str = "f32"
) -> Runtime:
    """Returns the network of an exported folder, run by a backend.

    Args:
        card: Of the folder.
        memory: "frozen" or "rolling".
        backend: See `Backend`; jax needs the weights, others network.onnx.
        precision: f32, bf16 (of openvino), or int8 (needs network-int8.onnx).

    Raises:
        FileNotFoundError: The backend's file is missing.
        ValueError: The file is damaged, or of another memory or batch size, or the
            backend is not installed.
    """
    if backend == "jax":
        return _open_jax(card, memory)
    if card.memory != memory or card.batch_size != 1:
        raise ValueError(
            f"{card.folder} holds a {card.memory} network for {card.batch_size} frames "
            f"at once; backend {backend} needs a {memory} one for 1: see export.py "
            "--memory --batch_size"
        )
    first: Memory = read_npz(card.file(MEMORY_FILE)) if memory == "rolling" else {}
    kept = {name: value.shape for name, value in first.items()}
    if any(card.outputs.get(NEW + name) != shape for name, shape in kept.items()):
        raise ValueError(
            f"{card.folder / CARD_FILE}: outputs are {listed(card.outputs)}; expected "
            f"among them {NEW}<name> of each memory, {listed(kept)}"
        )
    network = open_network(
        card.file(INT8_FILE if precision == "int8" else ONNX_FILE),
        card.outputs,
        backend=backend,
        precision=precision,
        inputs={"depth": (1, card.side, card.side, 1), **kept},
    )

    def run(depth: np.ndarray, memory: Memory) -> tuple[Outputs, Memory]:
        outputs = network({"depth": depth, **memory})
        new = {name: outputs.pop(NEW + name) for name in memory}
        return outputs, new

    return Runtime(run, first)


class Opened(NamedTuple):
    """A file that is ready to run.

    Attributes:
        run: Returns the outputs for inputs by name.
        outputs: Shapes, by name; of StableHLO names are numbers.
        inputs: Likewise; None of StableHLO.
    """

    run: Run
    outputs: Shapes
    inputs: Shapes | None = None


def open_network(
    path: Path,
    outputs: Iterable[str] | Shapes,
    *,
    backend: str = "openvino",
    precision: str = "f32",
    inputs: Shapes | None = None,
) -> Callable[[dict[str, np.ndarray]], Outputs]:
    """Returns the network in a file, as a function of its inputs by name.

    Args:
        path: Of a network.onnx or a network.stablehlo.
        outputs: Names of what it returns, in this order, and shapes where it is known
            that they must be these.
        backend: What runs ONNX on the CPU: onnxruntime or openvino.
        precision: Of OpenVINO: f32, or bf16, faster with AVX-512 or AMX. What is in
            the file as int8 stays that.
        inputs: What an ONNX file must take, where that is known.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of neither kind, cannot be run, or takes or returns something
            else, or what runs it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; export.py writes one")
    open_file: Callable[[Path], Opened]
    if path.suffix == Path(STABLEHLO_FILE).suffix:
        open_file = _open_stablehlo
    elif path.suffix != Path(ONNX_FILE).suffix:
        raise ValueError(f"{path} is neither a {ONNX_FILE} nor a {STABLEHLO_FILE}")
    elif backend == "onnxruntime":
        open_file = _open_onnxruntime
    else:
        open_file = functools.partial(_open_openvino, precision=precision)
    try:
        opened = open_file(path)
    # What runtimes raise of files that they cannot run is not documented: among others
    # are bare Exception and RuntimeError.
    except Exception as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be run: {what:.200}") from None
    names, found = tuple(outputs), opened.outputs
    if path.suffix == Path(STABLEHLO_FILE).suffix and len(found) == len(names):
        found = dict(zip(names, found.values(), strict=True))
    expected = dict(outputs) if isinstance(outputs, Mapping) else found
    if tuple(found) != names or found != expected:
        told = listed(expected) if isinstance(outputs, Mapping) else ", ".join(names)
        raise ValueError(
            f"{path} returns {listed(found)}; expected by {CARD_FILE}: {told}"
        )
    if inputs is not None and opened.inputs != inputs:
        raise ValueError(
            f"{path} takes {listed(opened.inputs or {})}; expected by {CARD_FILE}: "
            f"{listed(inputs)}"
        )
    return lambda values: dict(zip(names, opened.run(values), strict=True))


def _open_onnxruntime(path: Path) -> Opened:
    session = open_session(path)
    outputs, inputs = (
        {value.name: tuple(value.shape) for value in values}
        for values in (session.get_outputs(), session.get_inputs())
    )
    return Opened(lambda values: session.run(None, values), outputs, inputs)


@functools.cache
def _openvino_core() -> Any:
    """Returns what compiles for OpenVINO, which lives as long as this process.

    The first network that a core compiles gives its thread a stack for signals, which
    goes with the core: where another thread lets go of it, garbage collection for one,
    the next signal, Ctrl-C too, is a segmentation fault.
    """
    # Without its telemetry, which forks this process to report each import.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError:
        raise ValueError(
            "backend openvino is not installed here: pip install openvino"
        ) from None
    return openvino.Core()


def _open_openvino(path: Path, precision: str) -> Opened:
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    with OPENING:  # threads get the same one
        core = _openvino_core()
    model = core.read_model(path)
    network = core.compile_model(model, "CPU", hint)
    of_thread = threading.local()  # a request serves one call at a time

    def run(values: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        if not hasattr(of_thread, "request"):
            of_thread.request = network.create_infer_request()
        # Copies: the next call writes the request's own arrays.
        return [np.array(value) for value in of_thread.request.infer(values).values()]

    outputs, inputs = (
        {value.any_name: tuple(value.shape) for value in values}
        # Of the file: where compiling drops a sum with zero, the name of what was added
        # joins the output's.
        for values in (model.outputs, model.inputs)
    )
    return Opened(run, outputs, inputs)


def _open_stablehlo(path: Path) -> Opened:
    import jax
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    outputs = {str(i): value.shape for i, value in enumerate(exported.out_avals)}
    return Opened(lambda values: list(map(np.asarray, call(*values.values()))), outputs)


def load_weights(card: Card) -> tuple[Any, dict[str, Any]]:
    """Returns the network of an exported folder, for JAX, and its variables.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The file is damaged, this version has no such network, or the
            weights are of another one.
    """
    import jax.numpy as jnp
    from flax import traverse_util

    from cmbjax.models import MODELS
    from cmbjax.registry import pick

    arguments = msgspec.structs.asdict(card.network)
    arrays = read_npz(card.file(WEIGHTS_FILE))
    found = {name: value.shape for name, value in arrays.items()}
    try:
        model = pick(MODELS, "network", arguments.pop("name"))(**arguments)
        expected = _shapes(model, card.side, found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{card.folder / CARD_FILE}: network and side are of none that this "
            f"version of cmbjax has: {error}"
        ) from None
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{card.folder / WEIGHTS_FILE} is not of the network of {CARD_FILE}: "
                f"{name} is {found.get(name)} there, expected {expected.get(name)}"
            )
    values = {name: jnp.asarray(value) for name, value in arrays.items()}
    variables = traverse_util.unflatten_dict(values, sep="/")
    return model, {"params": {}, "memory": {}, "batch_stats": {}, **variables}


def _shapes(model: Any, side: int, stored: Shapes) -> Shapes:
    """Returns the shapes of a network's variables, for as many slots as are stored."""
    import jax
    from flax import traverse_util

    memories = (x for name, x in stored.items() if name.startswith("memory/"))
    slots = next((shape[0] for shape in memories if len(shape) == 4), 1)
    depth = jax.ShapeDtypeStruct((slots, side, side, model.num_frames), "float32")
    init = functools.partial(model.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), depth)
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: value.shape for name, value in flat.items()}


def _open_jax(card: Card, memory: str) -> Runtime:
    import jax

    from cmbjax.models import fast
    from cmbjax.models.memory import num_slots
    from cmbjax.runtime import keep_compiled, keeping_small_programs

    keep_compiled()
    model, variables = load_weights(card)
    if memory == "frozen":
        with keeping_small_programs():
            network = fast.freeze(model, variables, r=card.r)
            frozen = fast.compile_for(network, side=card.side)
        return Runtime(lambda depth, _: (_as_numpy(frozen(depth)), {}), {})
    stored = variables["memory"]
    if not stored:
        raise ValueError(f"memory='rolling': {card.network.name} has no memory")
    if num_slots(stored) not in (None, 1):
        raise ValueError(
            "memory='rolling': this network's per_sample memory has slots for a batch "
            f"of {num_slots(stored)}, and a stream has one frame at a time"
        )
    names, tree = sorted(stored), jax.tree.structure(stored)
    step = jax.jit(fast.roll(model, variables, r=card.r))

    def run(depth: np.ndarray, memory: Memory) -> tuple[Outputs, Memory]:
        outputs, new = step(depth, jax.tree.unflatten(tree, list(memory.values())))
        return _as_numpy(outputs), dict(zip(names, jax.tree.leaves(new), strict=True))

    return Runtime(run, dict(zip(names, jax.tree.leaves(stored), strict=True)))


def there(outputs: Any) -> dict[str, Any]:
    """Returns what there is of a network's `models.Outputs`, by name."""
    return {
        name: value for name, value in outputs._asdict().items() if value is not None
    }


def _as_numpy(outputs: Any) -> Outputs:
    return {name: np.asarray(value) for name, value in there(outputs).items()}
