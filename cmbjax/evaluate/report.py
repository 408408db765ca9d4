"""Results of an evaluation as table, JSON, CSV and pictures."""

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmbjax import calibration, metrics, plots
from cmbjax.data.examples import DepthFrames, Example, decode_depth
from cmbjax.data.views import View
from cmbjax.evaluate.predictions import Result
from cmbjax.files import write_json
from cmbjax.skeletons import Skeleton

FLOOR, CEILING = "floor: mean pose in the box", "ceiling: labels on the grid"
SHEET_FRAMES = 4  # of each kind: best, median, worst


def results_table(
    result: Result, skeleton: Skeleton, names: Sequence[str], torso: str | None
) -> metrics.Columns:
    """Returns the columns of METRICS, and over all joints others, floor and ceiling.

    Raises:
        ValueError: See `metrics.table`.
    """
    overall = metrics.overall_row(skeleton)
    beside = result.others | {FLOOR: result.floor, CEILING: result.ceiling}
    table = functools.partial(
        metrics.table, skeleton=skeleton, metrics=names, torso=torso
    )
    rows = {row: table(poses) for row, poses in beside.items()}
    return {
        title: column | {row: rows[row][title][overall] for row in rows}
        for title, column in table(result.poses).items()
    }


def summary(result: Result, skeleton: Skeleton) -> dict[str, float]:
    """Returns each metric over all joints: what a run records of a validation."""
    columns = metrics.table(result.poses, skeleton)
    overall = metrics.overall_row(skeleton)
    return {title: column[overall] for title, column in columns.items()}


def fitted_confidence(result: Result, skeleton: Skeleton) -> np.ndarray | None:
    """Returns `calibration.fit` of people who were found; None as of `confidence`."""
    measured = _right_of_found(result, skeleton)
    return None if measured is None else calibration.fit(result.scores, *measured)


def _right_of_found(
    result: Result, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which joints are right, and which count: those of people found."""
    measured = metrics.are_right(result.poses, skeleton)
    if measured is None:
        return None
    are_right, counted = measured
    counted = counted & result.is_found[:, None]
    return (are_right, counted) if counted.any() else None


def confidence(
    result: Result, coefficients: np.ndarray, skeleton: Skeleton
) -> dict[str, float] | None:
    """Returns how far the confidence of joints that were found is to be trusted.

    Args:
        result: Of `predictions.evaluate`.
        coefficients: Of `calibration.fit`.
        skeleton: Of the joints.

    Returns:
        Means of the confidence and of how often joints are right, expected calibration
        error, and area under ROC; None where right and wrong have no measure, or
        nobody was found.
    """
    measured = _right_of_found(result, skeleton)
    if measured is None:
        return None
    are_right, counted = measured
    sure = calibration.probabilities(result.scores, coefficients)[counted]
    right = are_right[counted]
    return {
        "mean": float(sure.mean()),
        "right": float(right.mean()),
        "ece": calibration.expected_error(sure, right),
        "auroc": calibration.area_under_roc(sure, right),
    }


def frame_errors(result: Result) -> np.ndarray:
    """Returns each joint's error in each frame, NaN where unlabelled: mm, or pixels."""
    poses = result.poses
    if poses.predictions_m is not None and poses.targets_m is not None:
        return 1000 * np.asarray(
            metrics.joint_errors(poses.predictions_m, poses.targets_m, poses.visible)
        )
    distances = np.linalg.norm(poses.predictions_px - poses.targets_px, axis=-1)
    return np.where(poses.visible, distances, np.nan)


def write_results(
    out_dir: Path,
    result: Result,
    frames: DepthFrames,
    columns: metrics.Columns,
    about: dict[str, Any],
    torso: str | None,
) -> None:
    """Writes results.json, joints.csv and the pictures.

    Args:
        out_dir: Made if it is not there.
        result: Of `predictions.evaluate`.
        frames: The split it is of.
        columns: The table.
        about: What was evaluated on what; goes into results.json.
        torso: PDJ's unit, for the curve.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    write_joints(out_dir / "joints.csv", result, frames.skeleton)
    if frames.skeleton.torsos:
        kinds = {
            "network": result.poses,
            "floor": result.floor,
            "ceiling": result.ceiling,
        }
        curves = {
            kind: metrics.pdj_curve(poses, frames.skeleton, torso=torso)
            for kind, poses in kinds.items()
        }
        plots.pdj_curve(metrics.CURVE_FRACTIONS, curves, out_dir / "pdj.png")
    write_sheet(out_dir / "frames.png", result, frames)
    # Last: where it is, the evaluation is whole.
    write_json(
        out_dir / "results.json",
        {
            **about,
            "overall_row": metrics.overall_row(frames.skeleton),
            "rows_beside": [*result.others, FLOOR, CEILING],
            "table": columns,
        },
    )


def write_joints(path: Path, result: Result, skeleton: Skeleton) -> None:
    """Writes one line a frame and joint: where it is, where it was found, how sure."""
    errors, poses = frame_errors(result), result.poses
    unit = "px" if poses.predictions_m is None else "mm"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header = "frame joint visible x_px y_px predicted_x_px predicted_y_px score"
        writer.writerow([*header.split(), f"error_{unit}", "person_found"])
        for i, name in enumerate(result.names):
            for j, joint in enumerate(skeleton.joints):
                numbers = [
                    *poses.targets_px[i, j],
                    *poses.predictions_px[i, j],
                    result.scores[i, j],
                    errors[i, j],
                ]
                # As exact as float32: who reads this draws the same lines.
                x, y, px, py, score, error = (f"{number:.7g}" for number in numbers)
                visible, is_found = int(poses.visible[i, j]), int(result.is_found[i])
                row = [name, joint, visible, x, y, px, py, score, error, is_found]
                writer.writerow(row)


def write_sheet(path: Path, result: Result, frames: DepthFrames) -> None:
    """Draws the best, the median and the worst frames by their mean joint error."""
    errors = frame_errors(result)
    counted = ~np.isnan(errors)
    mean = np.where(counted, errors, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    order = np.argsort(mean)
    order = order[counted.any(axis=1)[order]]
    if not len(order):
        return
    number = min(SHEET_FRAMES, len(order))
    middle = max(0, len(order) // 2 - number // 2)
    chosen = {
        "best": order[:number],
        "median": order[middle : middle + number],
        "worst": order[::-1][:number],
    }
    unit = "px" if result.poses.predictions_m is None else "mm"
    titles = [
        f"{kind}: {result.names[i]}, {mean[i]:.0f} {unit}"
        for kind, frames_of in chosen.items()
        for i in frames_of
    ]
    indices = np.concatenate(list(chosen.values()))
    write_overlays(path, result.poses, frames.source, indices, titles, frames.skeleton)


def write_views(path: Path, batch: View, skeleton: Skeleton) -> None:
    """Draws the crops that training shows the network, with their joints."""
    joints = np.where(batch["visible"][..., None], batch["joints_px"], np.nan)
    depths = list(batch["depth"])
    plots.pose_sheet(depths, None, joints, skeleton, [""] * len(depths), path)


def write_overlays(
    path: Path,
    poses: metrics.Poses,
    examples: Sequence[Example],
    indices: Sequence[int] | np.ndarray,
    titles: Sequence[str],
    skeleton: Skeleton,
    *,
    columns: int = 4,
) -> None:
    """Draws some of the poses and their labels over the frames.

    Args:
        path: A PNG.
        poses: With their labels.
        examples: One a pose, images as PNG.
        indices: Of those that are drawn.
        titles: Theirs.
        skeleton: Whose bones.
        columns: Pictures in a row.
    """
    targets = np.where(poses.visible[..., None], poses.targets_px, np.nan)
    plots.pose_sheet(
        [decode_depth(examples[int(i)]) for i in indices],
        poses.predictions_px[indices],
        targets[indices],
        skeleton,
        titles,
        path,
        columns=columns,
    )
