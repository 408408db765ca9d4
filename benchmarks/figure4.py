"""Figure 4: poses of the compared networks: `python -m benchmarks.figure4`.

Made of the runs of Tables 2 and 3 with seed 0.
"""

import csv
from pathlib import Path

import numpy as np

from benchmarks import harness, table2, table3
from cmbjax import plots
from cmbjax.data.examples import decode_depth, frame_name
from cmbjax.data.views import label_box

FRAMES = 4
MARGIN = 0.1  # around the label, of its larger side
METHODS = {**table2.METHODS, **table3.METHODS}


def main(sweep: harness.Sweep) -> None:
    """Draws the poses that each network finds in the same frames (Figure 4)."""
    tuned = sweep.each(sweep.tuned, METHODS.values())
    runs = [{**flags, "seed": 0} for flags in tuned]
    sweep.each(sweep.evaluate, runs)
    frames = sweep.load("test")
    # Evenly spaced, whatever is on them.
    chosen = [frames.source[i * len(frames) // FRAMES] for i in range(FRAMES)]
    predicted = [
        read_joints(sweep.evaluation_dir(flags) / "joints.csv") for flags in runs
    ]
    depths, predictions, targets, titles = [], [], [], []
    for example in chosen:
        label = np.where(example["visible"][:, None], example["joints_px"], np.nan)
        name = frame_name(example)
        depth = decode_depth(example)
        # The same part of the frame for all, wherever a network has its joints.
        x0, y0, x1, y1 = label_box(example, depth)
        margin = MARGIN * max(x1 - x0, y1 - y0)
        left, top = int(max(x0 - margin, 0)), int(max(y0 - margin, 0))
        part = depth[top : int(y1 + margin), left : int(x1 + margin)]
        for method, joints in zip(["label", *METHODS], [None, *predicted], strict=True):
            depths.append(part)
            pose = label if joints is None else joints[name]
            predictions.append(pose - (left, top))
            targets.append(label - (left, top))
            titles.append(f"{method}: {name}" if joints is None else method)
    plots.pose_sheet(
        depths,
        np.array(predictions),
        np.array(targets),
        frames.skeleton,
        titles,
        sweep.results / "figure4.png",
        columns=1 + len(METHODS),
        zoom=False,
    )
    lines = [{"frame": frame_name(example)} for example in chosen]
    note = (
        f"Test split of {frames.name}, seed 0; the label is white.\n\n![](figure4.png)"
    )
    harness.write(sweep, "figure4", "Figure 4: poses side by side", lines, note)
    harness.write_csv(sweep.results / "figure4.csv", lines)


def read_joints(path: Path) -> dict[str, np.ndarray]:
    """Returns the [joints, 2] pixels that an evaluation found in each frame."""
    predicted: dict[str, list[list[float]]] = {}
    with path.open() as file:
        for line in csv.DictReader(file):
            place = [float(line["predicted_x_px"]), float(line["predicted_y_px"])]
            predicted.setdefault(line["frame"], []).append(place)
    return {name: np.array(joints) for name, joints in predicted.items()}


if __name__ == "__main__":
    harness.run(main)
