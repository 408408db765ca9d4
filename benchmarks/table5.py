"""Table 5: time, size and complexity: `python -m benchmarks.table5`.

At the paper's sizes whatever the preset: nothing is trained. Times of all networks are
taken in turns in one process.
"""

import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from benchmarks import harness, paper
from benchmarks.speed import median_times, processor
from cmbjax import plots, runtime
from cmbjax.files import read_json
from cmbjax.models import MODELS, fast
from cmbjax.models.layers import PLAIN

JOINTS = 15  # at which the paper's GFLOP of CPM and SH come out
SIDE = 192
NETWORKS = {
    "PHR": "phr",
    "CPM": "cpm",
    "CPM, VGG": "cpm_vgg",
    "SH": "sh8",
    "SH, 4 stacks": "sh4",
    "SH, 2 stacks": "sh2",
    "SH, 1 stack": "sh1",
    "IEML": "ieml",
    "IEF": "ief",
    "VI": "vi",
    "3DCNN": "cnn3d",
    "Ours": "cmb",
    "Ours w/o CMB": "cmb_none",
    "Ours w/ ConvGRU": "convgru",
    "Ours w/ ConvLSTM": "convlstm",
}
REPEATS, PAPER_REPEATS = 10, 100
ADAM_BYTES = 16  # a parameter, its gradient and two moments


def main(sweep: harness.Sweep) -> None:
    """Measures time, size and complexity of every network (Table 5)."""
    runtime.prepare()
    lines: list[dict[str, Any]] = []
    timed = {}
    for method, name in NETWORKS.items():
        side = harness.PAPER_SIDES.get(name, SIDE)
        model = MODELS[name](num_joints=JOINTS)
        depth = jnp.zeros((1, side, side, model.num_frames))
        variables = jax.jit(functools.partial(model.init, train=True, r=1.0))(
            jax.random.key(0), depth
        )
        # Ours is counted as it is written, and timed in its rewritten form.
        written = fast.in_form(model, PLAIN)
        apply = functools.partial(written.apply, train=False, r=3.0)
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        gmac = multiply_adds(apply, variables, depth) / 1e9
        ms, mb, gflop = paper.TABLE_5.get(method, (None,) * 3)
        lines.append(
            {
                "network": method,
                "side": side,
                "parameters": f"{count:,}",
                "float32 MB": f"{4e-6 * count:.1f}",
                "training MB": f"{ADAM_BYTES * 1e-6 * count:.0f}",
                "MB, paper": "" if mb is None else f"{mb:g}",
                "GMAC": f"{gmac:.2f}",
                "GFLOP": f"{2 * gmac:.2f}",
                "GFLOP, paper": "" if gflop is None else f"{gflop:g}",
                "ms": "",
                "ms, paper": "" if ms is None else f"{ms:g}",
            }
        )
        frozen = fast.freeze(model, variables, r=3.0)
        network = fast.compile_for(frozen, side=side, num_frames=model.num_frames)
        timed[method] = functools.partial(network, depth)
    repeats = PAPER_REPEATS if sweep.preset == "paper" else REPEATS
    seconds = median_times(timed, repeats)
    for line, values in zip(lines, seconds.values(), strict=True):
        line["ms"] = f"{1e3 * statistics.median(values):.1f}"
    lines += forests(sweep, list(lines[0]))
    device = jax.devices()[0].device_kind
    if device == "cpu":
        device = processor()
    note = (
        f"{JOINTS} joints, float32, one frame at a time, {device}; training MB: "
        f"{ADAM_BYTES} "
        "bytes a parameter. GFLOP are two a multiplication and addition of "
        "convolutions and products. One pass through each network: SH and PHR need "
        "two, for the mirrored image. The paper's times are of a GTX 980 Ti. With "
        "GFLOP as SH's and CPM's are counted, ours are 11.4, not 5.4 (as GMAC 5.7). "
        "Forests are those that tables of this data set have grown: the file's size, "
        "and the time of a frame from finding the person on, by NumPy."
    )
    harness.write(sweep, "table5", "Table 5: time, size, complexity", lines, note)
    harness.write_csv(sweep.results / "table5.csv", lines)
    plots.cost_picture(
        {
            line["network"]: (float(line["GFLOP"]), float(line["ms"]))
            for line in lines
            if line["GFLOP"]
        },
        sweep.results / "table5.png",
    )


def forests(sweep: harness.Sweep, columns: list[str]) -> list[dict[str, Any]]:
    """Returns a line of each forest that is grown, with the columns of networks."""
    lines = []
    for model in harness.FORESTS:
        for path in sorted(sweep.runs_dir.glob(f"*/*model={model}*/*/*/results.json")):
            about = read_json(path)
            line = dict.fromkeys(columns, "")
            line["network"] = f"{model}, {about['trained_on']}"
            line["float32 MB"] = f"{about['megabytes']:.1f}"
            line["ms"] = f"{about['ms_a_frame']:.1f}"
            lines.append(line)
    return lines


def multiply_adds(function: Any, *arguments: Any) -> float:
    """Returns the multiplications and additions in convolutions and products."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = _array(equation.invars[1]).shape
            numbers = equation.params["dimension_numbers"]
            channels = kernel[numbers.rhs_spec[1]]
            window = np.prod([kernel[i] for i in numbers.rhs_spec[2:]])
            # A transposed convolution multiplies by the zeros between its cells.
            spread = np.prod(equation.params["lhs_dilation"])
            total += _array(equation.outvars[0]).size * channels * window / spread
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = _array(equation.invars[0]).shape
            size = np.prod([left[i] for i in contracted])
            total += _array(equation.outvars[0]).size * size
        times = equation.params.get("length", 1)
        total += times * sum(map(_count, runtime.inner_programs(equation)))
    return float(total)


def _array(variable: core.Var | core.Literal) -> jax.core.ShapedArray:
    assert isinstance(variable.aval, jax.core.ShapedArray)
    return variable.aval


if __name__ == "__main__":
    harness.run(main)
