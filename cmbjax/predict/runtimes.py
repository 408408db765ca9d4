"""What runs an exported network: ONNX Runtime, OpenVINO or JAX."""

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cmbjax.predict.card import (
    INT8_FILE,
    MEMORY_FILE,
    ONNX_FILE,
    STABLEHLO_FILE,
    WEIGHTS_FILE,
    Card,
)
from cmbjax.sessions import open_session

Backend = Literal["onnxruntime", "openvino", "jax"]
Precision = Literal["f32", "bf16", "int8"]
Outputs = dict[str, np.ndarray]  # heatmaps, depth_maps, joints: what there is
Memory = dict[str, Any]  # of each block; empty where it is frozen
Run = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]

NEW = "new_"  # before the name of a block's memory, among outputs


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
    file = INT8_FILE if precision == "int8" else ONNX_FILE
    network = open_network(
        card.file(file), tuple(card.outputs), backend=backend, precision=precision
    )
    first: Memory = {}
    if memory == "rolling":
        with np.load(card.file(MEMORY_FILE)) as stored:
            first = dict(stored)

    def run(depth: np.ndarray, memory: Memory) -> tuple[Outputs, Memory]:
        outputs = network({"depth": depth, **memory})
        new = {name: outputs.pop(NEW + name) for name in memory}
        return outputs, new

    return Runtime(run, first)


def open_network(
    path: Path,
    output_names: Sequence[str],
    *,
    backend: str = "openvino",
    precision: str = "f32",
) -> Callable[[dict[str, np.ndarray]], Outputs]:
    """Returns the network in a file, as a function of its inputs by name.

    Args:
        path: Of a network.onnx or a network.stablehlo.
        output_names: What it returns, in this order.
        backend: What runs ONNX on the CPU: onnxruntime or openvino.
        precision: Of OpenVINO: f32, or bf16, faster with AVX-512 or AMX. What is in
            the file as int8 stays that.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of neither kind, or what runs it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; export.py writes one")
    if path.suffix == Path(STABLEHLO_FILE).suffix:
        run = _open_stablehlo(path)
    elif path.suffix != Path(ONNX_FILE).suffix:
        raise ValueError(f"{path} is neither a {ONNX_FILE} nor a {STABLEHLO_FILE}")
    elif backend == "onnxruntime":
        run = _open_onnxruntime(path)
    else:
        run = _open_openvino(path, precision)
    return lambda inputs: dict(zip(output_names, run(inputs), strict=True))


def _open_onnxruntime(path: Path) -> Run:
    session = open_session(path)
    return lambda inputs: session.run(None, inputs)


def _open_openvino(path: Path, precision: str) -> Run:
    # Without its telemetry, which forks this process to report each import.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError:
        raise ValueError(
            "backend openvino is not installed here: pip install openvino"
        ) from None
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    network = openvino.Core().compile_model(path, "CPU", hint)
    of_thread = threading.local()  # a request serves one call at a time

    def run(inputs: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        if not hasattr(of_thread, "request"):
            of_thread.request = network.create_infer_request()
        # Copies: the next call writes the request's own arrays.
        return [np.array(value) for value in of_thread.request.infer(inputs).values()]

    return run


def _open_stablehlo(path: Path) -> Run:
    import jax
    from jax import export

    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda inputs: list(map(np.asarray, call(*inputs.values())))


def load_weights(card: Card) -> tuple[Any, dict[str, Any]]:
    """Returns the network of an exported folder, for JAX, and its variables.

    Raises:
        FileNotFoundError: There are no weights.
        ValueError: The file is damaged, or this version has no such network.
    """
    import jax.numpy as jnp
    from flax import traverse_util

    from cmbjax.models import MODELS
    from cmbjax.registry import pick

    arguments = dict(card.network)
    make = pick(MODELS, "network", arguments.pop("name"))
    try:
        model = make(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{card.folder} is of another version of cmbjax: {error}"
        ) from None
    with np.load(card.file(WEIGHTS_FILE)) as stored:
        arrays = {name: jnp.asarray(value) for name, value in stored.items()}
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return model, {"params": {}, "memory": {}, "batch_stats": {}, **variables}


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
        raise ValueError(f"memory='rolling': {card.network['name']} has no memory")
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


def _as_numpy(outputs: Any) -> Outputs:
    """Returns what there is of a network's `Outputs`."""
    return {
        name: np.asarray(value)
        for name, value in outputs._asdict().items()
        if value is not None
    }
