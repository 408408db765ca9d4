"""Figure 5: input feature maps, their memory, and what it makes of them.

`python -m benchmarks.figure5`, made of a run of Table 2, with seed 0.
"""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from cmbjax import plots
from cmbjax.data.batches import evaluation_batches
from cmbjax.data.examples import Example
from cmbjax.depth import crops
from cmbjax.models import memory as memories
from cmbjax.models.cmb import ConvolutionalMemoryBlock, similar_memory
from cmbjax.skeletons import Skeleton
from cmbjax.train.run import Run
from cmbjax.train.step import r_for_prediction

CHANNELS = 4  # that are drawn, of two frames
MEASURED, BATCH = 200, 20  # frames, over which the response is a mean
BLOCK = "cmb1"
NEAR_BONE = 0.05  # of the crop's side: a body's outline is no further from its bones


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
    depths, outputs, people = [], [], []
    for batch in batches:
        depths.append(batch.views["depth"])
        _, captured = apply(state.variables, jnp.asarray(depths[-1]))
        outputs.append(np.asarray(captured["intermediates"][BLOCK]["__call__"][0]))
        people += [
            on_bones(example, frames.skeleton, frame_from_crop, len(depths[-1][0]))
            for example, frame_from_crop in zip(
                batch.examples, batch.views["frame_from_crop"], strict=True
            )
        ]
    depth, output = np.concatenate(depths), np.concatenate(outputs)
    # Not what is cut out or far behind; what is near, as a wall, may be no person.
    is_person = np.stack(people) & (depth[..., 0] < 1)
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
        {"map": name, "person / background": f"{response(is_person, maps):.2f}"}
        for name, maps in (("x", x), ("clip(M/x) x", similar), ("C_O", c_output))
    ]
    note = (
        f"First block, {frames.name}, r = {r:g}, seed 0. The mean of |map| over "
        f"{number} frames on the person, divided by that elsewhere: the paper sees the "
        f"background suppressed. The person is within {NEAR_BONE:g} of the crop's side "
        "of a labelled bone, and nearer than the farthest that the network tells "
        f"apart: {100 * is_person.mean():.0f} % of the crops.\n\n![](figure5.png)"
    )
    harness.write(sweep, "figure5", "Figure 5: what the memory does", lines, note)
    harness.write_csv(sweep.results / "figure5.csv", lines)


def on_bones(
    example: Example, skeleton: Skeleton, frame_from_crop: np.ndarray, side: int
) -> np.ndarray:
    """Returns where in a crop [side, side] a body is: near its labelled bones.

    Args:
        example: The frame.
        skeleton: Of its labels.
        frame_from_crop: [2, 3] transform.
        side: Of the crop, pixels.
    """
    crop_from_frame = crops.invert(frame_from_crop)
    joints = crops.transform_points(crop_from_frame, example["joints_px"])
    mask = np.zeros((side, side), np.uint8)
    width = max(1, round(2 * NEAR_BONE * side))
    for bone in map(list, skeleton.bones):
        if example["visible"][bone].all():
            start, end = np.floor(joints[bone]).astype(int).tolist()
            cv2.line(mask, start, end, 1, width)
    return mask > 0


def response(is_person: np.ndarray, maps: np.ndarray) -> float:
    """Returns how much stronger maps are on the person than elsewhere.

    Args:
        is_person: [frames, side, side] bool.
        maps: [frames, height, width, channels].
    """
    stride = is_person.shape[1] // maps.shape[1]
    on_person = is_person[:, stride // 2 :: stride, stride // 2 :: stride]
    strength = np.abs(maps).mean(axis=-1)
    return float(strength[on_person].mean() / strength[~on_person].mean())


if __name__ == "__main__":
    harness.run(main)
