"""Figure 5: input feature maps, their memory, and what it makes of them.

`python -m benchmarks.figure5`, made of a run of Table 2, with seed 0.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from cmbjax import plots
from cmbjax.data.batches import evaluation_batches
from cmbjax.models import memory as memories
from cmbjax.models.cmb import ConvolutionalMemoryBlock, similar_memory
from cmbjax.train.run import Run
from cmbjax.train.step import r_for_prediction

CHANNELS = 4  # that are drawn, of two frames
MEASURED, BATCH = 200, 20  # frames, over which the response is a mean
BLOCK = "cmb1"


def main(sweep: harness.Sweep) -> None:
    """Draws what the memory of the first block holds and does (Figure 5)."""
    flags = {**sweep.tuned({"model": "cmb"}), "seed": 0}
    run_dir = sweep.train(flags)
    run = Run.open(run_dir)
    frames = sweep.load("test")
    model, state = run.restore()
    number = min(MEASURED, len(frames))
    measured = [i * len(frames) // number for i in range(number)]
    batches = evaluation_batches(
        frames,
        preparation=run.config.make_preparation(frames),
        batches=[measured[i : i + BATCH] for i in range(0, number, BATCH)],
    )
    r = r_for_prediction(state, run.config.r_switch_step)
    apply = jax.jit(
        functools.partial(
            model.apply,
            train=False,
            r=r,
            capture_intermediates=lambda module, _: isinstance(
                module, ConvolutionalMemoryBlock
            ),
            mutable=["intermediates"],
        )
    )
    depths, outputs = [], []
    for batch in batches:
        depths.append(batch.views["depth"])
        _, captured = apply(state.variables, jnp.asarray(depths[-1]))
        outputs.append(np.asarray(captured["intermediates"][BLOCK]["__call__"][0]))
    depth, output = np.concatenate(depths), np.concatenate(outputs)
    x, c_output = np.split(output, 2, axis=-1)
    memory = np.asarray(memories.frozen(state.memory)[BLOCK]["value"])
    similar = np.asarray(similar_memory(jnp.asarray(memory)[None], jnp.asarray(x), r))
    # The channels that answer most.
    channels = np.argsort(-(x**2).mean(axis=(0, 1, 2)))[:CHANNELS]
    rows, titles = [], []
    for i in (0, number // 2):
        for channel in channels:
            rows.append(
                [
                    depth[i, ..., 0],
                    x[i, ..., channel],
                    memory[..., channel],
                    similar[i, ..., channel],
                    c_output[i].mean(axis=-1),
                ]
            )
            titles.append(f"channel {channel}")
    heads = ["depth", "x", "memory M", "clip(M/x) x, Eq. 2", "C_O, mean of channels"]
    plots.map_sheet(rows, titles, heads, sweep.results / "figure5.png")
    lines = [
        {"map": name, "person / background": f"{response(depth, maps):.2f}"}
        for name, maps in (("x", x), ("clip(M/x) x", similar), ("C_O", c_output))
    ]
    note = (
        f"First block, {frames.name}, r = {r:g}, seed 0. The mean of |map| over "
        f"{number} frames where the "
        "depth is within the person's reach, divided by that elsewhere: the paper sees "
        "the background suppressed.\n\n![](figure5.png)"
    )
    harness.write(sweep, "figure5", "Figure 5: what the memory does", lines, note)
    harness.write_csv(sweep.results / "figure5.csv", lines)


def response(depth: np.ndarray, maps: np.ndarray) -> float:
    """Returns how much stronger maps are on the person than elsewhere."""
    stride = depth.shape[1] // maps.shape[1]
    near = depth[:, stride // 2 :: stride, stride // 2 :: stride, 0] < 1
    strength = np.abs(maps).mean(axis=-1)
    return float(strength[near].mean() / strength[~near].mean())


if __name__ == "__main__":
    harness.run(main)
