"""Sec. 5.1's hands: few images and a joint's error, `python -m benchmarks.hands`.

ASTAR itself by `--dataset=astar --data_dir=...`; `--dataset=hands/astar` are synthetic
hands made as ASTAR's frames are, 438 of which are seen enough to train on.
"""

from typing import Any

from benchmarks import differences, harness, paper
from cmbjax.evaluate.report import FLOOR

# ASTAR's hands are alone in the picture: all methods see the label's box.
_BOX = {"crop": "label_box"}
METHODS: dict[str, dict[str, Any]] = {
    "Xu & Cheng": {"model": "xu_cheng", **_BOX},
    "w/o CMB": {"model": "cmb_none", "head3d": "maps", **_BOX},
    "w/ Convs": {"model": "cmb_convs", "head3d": "maps", **_BOX},
    "Ours": {"model": "cmb", "head3d": "dense", **_BOX},
    "Ours, depth maps": {"model": "cmb", "head3d": "maps", **_BOX},
}
TITLES = ("median error mm", harness.ERROR)


def main(sweep: harness.Sweep) -> None:
    """Compares what learns a hand from ASTAR's number of images (Sec. 5.1).

    Ours has the paper's two layers of 1024 on the heat maps; beside it, and in what it
    is compared with, is a map of each joint's depth.
    """
    sweep.require("joint_error")
    tuned = sweep.tuned_rows(METHODS)
    evaluations = dict(
        zip(METHODS, sweep.of_seeds(sweep.evaluate, tuned.values()), strict=True)
    )
    floors = [results["table"] for results in evaluations["Ours"]]
    lines = [_line("floor: mean pose", floors, FLOOR)]
    for method, results in evaluations.items():
        tables = [evaluation["table"] for evaluation in results]
        lines.append(_line(method, tables, results[0]["overall_row"]))
    note = f"{len(sweep.frames)} training frames. "
    note += harness.about_runs(sweep, tuned, evaluations) + "\n\n"
    note += differences.told_apart(
        {
            method: [
                -harness.over_all(evaluation, TITLES[1]) for evaluation in of_seeds
            ]
            for method, of_seeds in evaluations.items()
        }
    )
    harness.write(sweep, "hands", "Hands: joint error, mm", lines, note)
    harness.write_csv(sweep.results / "hands.csv", lines)
    harness.draw_curves(sweep, "hands", tuned, harness.ERROR)


def _line(
    method: str, tables: list[dict[str, dict[str, float | None]]], row: str
) -> dict[str, str]:
    line = {"": method}
    for title in TITLES:
        line[title] = str(harness.cell([table[title][row] for table in tables]))
        published = paper.ASTAR.get(method, {}).get(title)
        line[f"{title}, paper"] = "" if published is None else f"{published:g}"
    return line


if __name__ == "__main__":
    harness.run(main)
