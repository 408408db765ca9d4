"""Networks as files, StableHLO and ONNX: written, and compared with the trained one.

A function here takes arrays, the depth first and then, if it rolls, the memory of each
block; it returns arrays: what the network has of `Outputs`, and the new memory.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cmbjax.models import fast
from cmbjax.models.network import Network, Outputs
from cmbjax.predict import runtimes

Arrays = tuple[Any, ...]  # of JAX, of NumPy, or abstract
Function = Callable[..., Arrays]
Variables = Mapping[str, Any]

PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 21  # what current releases of most runtimes read
INT8_OPSET = 17
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
    """One network in the forms that an export needs, as functions of arrays.

    Attributes:
        trained: As it is trained and evaluated: what the others are compared with.
        folded: With what is constant computed beforehand: for JAX.
        layers: For inference runtimes.
        memory: Memory of each block, if the network rolls: arguments after the depth.
        output_names: Of what all three return.
    """

    trained: Function
    folded: Function
    layers: Function
    memory: dict[str, Any]
    output_names: tuple[str, ...]


def forms(
    model: Network, variables: Variables, *, side: int, r: float, rolling: bool
) -> Forms:
    """Returns a trained network in all forms, computed in float32.

    Args:
        model: The network.
        variables: Parameters, memory and statistics.
        side: Of the input, pixels.
        r: Of Eq. 2, as it was in training.
        rolling: Whether the memory is an argument.
    """
    model = model.clone(dtype=jnp.float32)
    memory = variables["memory"] if rolling else {}
    tree = jax.tree.structure(memory)

    def of_arrays(step: Callable[..., tuple[Outputs, Variables]]) -> Function:
        def function(depth: Any, *values: Any) -> Arrays:
            outputs, new = step(depth, jax.tree.unflatten(tree, values))
            return (*runtimes.there(outputs).values(), *jax.tree.leaves(new))

        return function

    def trained(depth: Any, memory: Variables) -> tuple[Outputs, Variables]:
        outputs, new = model.apply(
            {**variables, "memory": memory if rolling else variables["memory"]},
            depth,
            train=False,
            r=r,
            method="outputs",
            mutable=["memory"] if rolling else [],
        )
        return outputs, new.get("memory", {})

    def in_form(form: Any) -> Callable[..., tuple[Outputs, Variables]]:
        if rolling:
            return fast.roll(model, variables, r=r, form=form)
        frozen = fast.freeze(model, variables, r=r, form=form)
        return lambda depth, memory: (frozen(depth), {})

    depth = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    outputs = jax.eval_shape(fast.freeze(model, variables, r=r), depth)
    blocks = dict(zip(sorted(memory), jax.tree.leaves(memory), strict=True))
    return Forms(
        trained=of_arrays(trained),
        folded=of_arrays(in_form(fast.FAST)),
        layers=of_arrays(in_form(fast.LAYERS)),
        memory=blocks,
        output_names=(
            *runtimes.there(outputs),
            *(runtimes.NEW + name for name in blocks),
        ),
    )


def write_stablehlo(path: Path, function: Function, arguments: Arrays) -> None:
    """Writes a network that JAX alone can load, for CPU, CUDA and TPU.

    Args:
        path: Of the file.
        function: With everything constant in it.
        arguments: Arrays, or shapes and types, as it will be called with.
    """
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    path.write_bytes(exported.serialize())


def write_onnx(
    path: Path,
    function: Function,
    arguments: Mapping[str, Any],
    output_names: Sequence[str],
) -> None:
    """Writes a network as standard ONNX, channels first inside.

    Args:
        path: Of the file.
        function: In the form for inference runtimes.
        arguments: See `write_stablehlo`; by name.
        output_names: One an output.
    """
    import onnx
    import onnxruntime
    from jax2onnx import to_onnx

    converted = to_onnx(
        function,
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


def write_int8(path: Path, source: Path, batches: Iterable[np.ndarray]) -> None:
    """Writes a network whose convolutions compute with 8 bits, for ONNX Runtime.

    Args:
        path: Of the file.
        source: A frozen network's, as `write_onnx` wrote it.
        batches: Normalised depth, whose values say how far each tensor's reach.
    """
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.waiting = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            depth = next(self.waiting, None)
            return None if depth is None else {"depth": depth}

    model = onnx.load(source)
    # From 19 on the zero points that ONNX Runtime writes lack a type that it asks for.
    model.opset_import[0].version = INT8_OPSET
    plain = path.with_suffix(".plain.onnx")
    onnx.save(model, plain)
    try:
        quantization.quantize_static(
            plain,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Seven bits: products of eight overflow where a processor has no VNNI.
            reduce_range=True,
        )
    finally:
        plain.unlink()


def run_over(
    function: Function, batches: Iterable[np.ndarray], memory: Sequence[Any] = ()
) -> list[np.ndarray]:
    """Returns a function's outputs over batches, which hand the memory on.

    Args:
        function: To run.
        batches: Normalised depth.
        memory: Before the first batch; none of a frozen network.

    Returns:
        One array an output, the batches along its first axis.
    """
    collected = []
    for depth in batches:
        outputs = tuple(function(depth, *map(np.asarray, memory)))
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
