"""Networks as files, StableHLO and ONNX: written, run, and compared.

A network here is a function of arrays, the depth first and then, if it rolls, the
memory of each block; it returns the heat maps, the joints of a 3-D head, and the new
memory.
"""

import contextlib
import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cmbjax import deploy
from cmbjax.models.posenet import PoseNet

Arrays = tuple[Any, ...]  # of JAX, of NumPy, or abstract
Network = Callable[..., Any]

STABLEHLO_FILE = "network.stablehlo"
ONNX_FILE = "network.onnx"
MEMORY_FILE = "memory.npz"

PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 21  # what current releases of most runtimes read
TOLERANCE = 1e-4  # of the range of an output's values

REQUIREMENTS = "requirements-export.txt"
ONNX_PACKAGES = ("jax2onnx", "onnx", "onnxruntime", "openvino")


def require_onnx() -> None:
    """Raises a ValueError that names what ONNX needs and is not installed."""
    specs = {name: importlib.util.find_spec(name) for name in ONNX_PACKAGES}
    if missing := [name for name, spec in specs.items() if spec is None]:
        raise ValueError(
            f"ONNX needs {', '.join(missing)}, not installed here: pip install "
            f"-r {REQUIREMENTS}, or use StableHLO"
        )


class Forms(NamedTuple):
    """One network in the forms that an export needs.

    Attributes:
        trained: As it is trained and evaluated: what the others are compared with.
        folded: The fastest for JAX.
        layers: The fastest for inference runtimes.
        memory: Of each block, if the network rolls: its arguments after the depth.
    """

    trained: Network
    folded: Network
    layers: Network
    memory: dict[str, Any]


def forms(
    model: PoseNet, variables: deploy.Variables, *, r: float, rolling: bool
) -> Forms:
    """Returns a trained network in all forms, computed in float32.

    Args:
        model: The network.
        variables: Parameters, memory and statistics.
        r: Of Eq. 2, as it was in training.
        rolling: Whether the memory is an argument.
    """
    model = model.clone(dtype=jnp.float32)
    plain = model.clone(plain=True)
    if not rolling:
        return Forms(
            trained=functools.partial(model.apply, variables, train=False, r=r),
            folded=deploy.freeze(model, variables, r=r),
            layers=deploy.in_layers(deploy.freeze(plain, variables, r=r)),
            memory={},
        )
    memory = variables["memory"]

    def step(depth: Any, memory: deploy.Variables) -> tuple[Any, deploy.Variables]:
        known = {**variables, "memory": memory}
        outputs, new = model.apply(known, depth, train=False, r=r, mutable=["memory"])
        return outputs, new["memory"]

    steps = (deploy.rolling(x, variables, r=r) for x in (model, plain))
    trained, folded, layers = (_flat(x, memory) for x in (step, *steps))
    blocks = dict(zip(sorted(memory), jax.tree.leaves(memory), strict=True))
    return Forms(trained, folded, deploy.in_layers(layers), blocks)


def _flat(step: Callable[..., Any], memory: deploy.Variables) -> Network:
    """Returns a function of depth and collection as one of arrays."""
    tree = jax.tree.structure(memory)

    def network(depth: Any, *values: Any) -> Arrays:
        outputs, new = step(depth, jax.tree.unflatten(tree, values))
        return (*as_tuple(outputs), *jax.tree.leaves(new))

    return network


def as_tuple(outputs: Any) -> Arrays:
    """Returns what a network returned, whether one array or several."""
    return tuple(outputs) if isinstance(outputs, Sequence) else (outputs,)


def write_stablehlo(path: Path, network: Network, arguments: Arrays) -> None:
    """Writes a network that JAX alone can load, for CPU, CUDA and TPU.

    Args:
        path: Of the file.
        network: With everything constant in it.
        arguments: Arrays, or shapes and types, as it will be called with.
    """
    exported = export.export(jax.jit(network), platforms=PLATFORMS)(*arguments)
    path.write_bytes(exported.serialize())


def write_onnx(
    path: Path,
    network: Network,
    arguments: Mapping[str, Any],
    output_names: Sequence[str],
) -> None:
    """Writes a network as standard ONNX, channels first inside.

    Args:
        path: Of the file.
        network: See `deploy.in_layers`.
        arguments: See `write_stablehlo`; by name.
        output_names: One an output.
    """
    import onnx
    import onnxruntime
    from jax2onnx import to_onnx

    converted = to_onnx(
        network,
        [
            jax.ShapeDtypeStruct(value.shape, value.dtype)
            for value in arguments.values()
        ],
        model_name="cmbjax",
        opset=OPSET,
        input_names=list(arguments),
        output_names=list(output_names),
    )
    # There is a pair of transpositions around each convolution. The basic level, in
    # standard operators, cancels all but the first and the last.
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
        converted.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    model = onnx.load(path)
    used = [x for x in model.opset_import if x.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(used)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def run_stablehlo(path: Path) -> Network:
    """Returns the network in a file, run by JAX."""
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def run_onnxruntime(path: Path) -> Network:
    """Returns the network in a file, run by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def run_openvino(path: Path, *, precision: str = "f32") -> Network:
    """Returns the network in a file, run by OpenVINO on the CPU.

    Args:
        path: Of the file.
        precision: f32, or bf16, which processors with AMX compute much faster.
    """
    # Without its telemetry, which forks this process to report each import.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": precision}
    network = openvino.Core().compile_model(path, "CPU", hint)
    return lambda *arrays: tuple(network(arrays).values())


def run_file(path: Path, *, precision: str = "f32") -> Network:
    """Returns the network in a file of either format.

    Args:
        path: Of the file.
        precision: See `run_openvino`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is neither, or what runs ONNX is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; export.py writes one")
    if path.suffix == Path(STABLEHLO_FILE).suffix:
        return run_stablehlo(path)
    if path.suffix != Path(ONNX_FILE).suffix:
        raise ValueError(f"{path} is neither a {ONNX_FILE} nor a {STABLEHLO_FILE}")
    require_onnx()
    return run_openvino(path, precision=precision)


def run_over(
    network: Network, batches: Iterable[np.ndarray], memory: Sequence[Any] = ()
) -> list[np.ndarray]:
    """Returns a network's outputs over batches, which hand the memory on.

    Args:
        network: To run.
        batches: Normalised depth.
        memory: Before the first batch; none of a frozen network.

    Returns:
        One array an output, the batches along its first axis.
    """
    collected = []
    for depth in batches:
        outputs = as_tuple(network(depth, *map(np.asarray, memory)))
        memory = outputs[len(outputs) - len(memory) :]
        collected.append([np.asarray(output) for output in outputs])
    return [np.stack(values) for values in zip(*collected, strict=True)]


def difference(
    outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> float:
    """Returns the largest difference of any output, as a part of its range."""
    parts = [
        np.abs(output - reference).max() / np.ptp(reference)
        for output, reference in zip(outputs, references, strict=True)
    ]
    return float(np.max(parts))  # NaN, if one is


def check(name: str, value: float) -> float:
    """Returns a difference that is small enough.

    Raises:
        ValueError: It is not; nothing is exported.
    """
    if not value <= TOLERANCE:
        raise ValueError(
            f"{name} differs from the trained network by {value:.1e} of its outputs' "
            f"range, more than {TOLERANCE:.0e}: nothing was exported"
        )
    return value


def check_equal(
    name: str, outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]
) -> None:
    """Compares bit for bit.

    Raises:
        ValueError: There is a difference; nothing is exported.
    """
    if not all(map(np.array_equal, outputs, references)):
        worst = difference(outputs, references)
        raise ValueError(
            f"{name} must equal the function that it was made of bit for bit, but "
            f"differs by {worst:.1e} of its outputs' range: nothing was exported"
        )


@contextlib.contextmanager
def whole_folder(out_dir: Path, known: Sequence[str]) -> Iterator[Path]:
    """Yields a folder that takes another's place if nothing fails in between.

    Args:
        out_dir: May hold files of these names, which go.
        known: Names.

    Raises:
        ValueError: `out_dir` holds something else.
    """
    there = sorted(path.name for path in out_dir.glob("*"))
    if others := [name for name in there if name not in known]:
        raise ValueError(
            f"--out_dir={out_dir} must be a new folder, or that of an earlier export, "
            f"but holds {', '.join(others)}"
        )
    part = out_dir.with_name(out_dir.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(out_dir, ignore_errors=True)
        part.replace(out_dir)
    finally:
        shutil.rmtree(part, ignore_errors=True)
