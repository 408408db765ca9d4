"""PDJ, PCKh, 10 cm rule and joint error, by joint and by row of the paper's tables.

A metric gives a `Tally` per joint; tallies of batches of any size add up, and the
division comes last. These rules hold for every metric:

- A joint counts where it is visible and its target is a number.
- A predicted joint that is not a number is a miss, infinitely far away.
- A frame whose unit (torso, head) has an unlabelled end or no length does not count.
- A value over no joints is nan.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from cmbjax.registry import pick
from cmbjax.skeletons import Segment, Skeleton

AnyArray = jax.Array | np.ndarray
Column = dict[str, float]  # row of the table -> value
Columns = dict[str, Column]  # title -> column

PDJ_FRACTIONS = (0.05, 0.10, 0.15, 0.20)  # Table 2
CURVE_FRACTIONS = tuple(np.linspace(0, 0.3, 61).tolist())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tally:
    """A sum and what it is to be divided by, for each joint."""

    total: Num[Array, " joints"]
    count: Num[Array, " joints"]

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Array, " joints"]:
        """The value of each joint; nan where nothing was counted."""
        return self.total / self.count


class Poses(NamedTuple):
    """All predictions and all truth of a split; metres only where they are known.

    Attributes:
        predictions_px: [frames, joints, 2] pixels.
        targets_px: [frames, joints, 2] pixels.
        visible: [frames, joints] bool, which joints count.
        predictions_m: [frames, joints, 3] metres, camera frame.
        targets_m: [frames, joints, 3] metres, camera frame; NaN where unlabelled.
    """

    predictions_px: AnyArray
    targets_px: AnyArray
    visible: AnyArray
    predictions_m: AnyArray | None = None
    targets_m: AnyArray | None = None


def pdj(
    predictions_px: Float[AnyArray, "batch joints xy=2"],
    targets_px: Float[AnyArray, "batch joints xy=2"],
    visible: Bool[AnyArray, "batch joints"],
    skeleton: Skeleton,
    fraction: float,
    torso: str | None = None,
) -> Tally:
    """Counts joints within a fraction of the torso's length (Toshev & Szegedy, 2014).

    Args:
        predictions_px: Pixels.
        targets_px: Pixels.
        visible: Which joints count.
        skeleton: Has the torso's ends.
        fraction: Of the target's torso.
        torso: A name in `skeleton.torsos`, since public code disagrees on the ends; by
            default the first.

    Raises:
        ValueError: The skeleton has no such torso, or shapes disagree.
    """
    if not skeleton.torsos:
        raise ValueError(f"PDJ needs a torso; skeleton {skeleton.name!r} has none")
    segment = pick(skeleton.torsos, "torso", torso or next(iter(skeleton.torsos)))
    _check(predictions_px, targets_px, visible, 2, skeleton)
    return _hits(*_within(predictions_px, targets_px, visible, segment, fraction))


def pckh(
    predictions_px: Float[AnyArray, "batch joints xy=2"],
    targets_px: Float[AnyArray, "batch joints xy=2"],
    visible: Bool[AnyArray, "batch joints"],
    skeleton: Skeleton,
    threshold: float = 0.5,
) -> Tally:
    """Counts joints within a share of the head's length (PCKh; Sec. 5).

    Args:
        predictions_px: Pixels.
        targets_px: Pixels.
        visible: Which joints count.
        skeleton: Has the head's ends.
        threshold: Share of the target's head.

    Raises:
        ValueError: The skeleton has no head, or shapes disagree.
    """
    if skeleton.head is None:
        raise ValueError(f"PCKh needs a head; skeleton {skeleton.name!r} has none")
    _check(predictions_px, targets_px, visible, 2, skeleton)
    within = _within(predictions_px, targets_px, visible, skeleton.head, threshold)
    return _hits(*within)


def map_10cm(
    predictions_m: Float[AnyArray, "batch joints xyz=3"],
    targets_m: Float[AnyArray, "batch joints xyz=3"],
    visible: Bool[AnyArray, "batch joints"],
    threshold_m: float = 0.1,
) -> Tally:
    """Counts joints less than 10 cm away (10cm-rule; Haque et al., 2016).

    Args:
        predictions_m: Metres.
        targets_m: Metres.
        visible: Which joints count.
        threshold_m: Metres.

    Raises:
        ValueError: Shapes disagree.
    """
    _check(predictions_m, targets_m, visible, 3)
    distance, counted = _distance(predictions_m, targets_m, visible)
    return _hits(distance < threshold_m, counted)


def joint_errors(
    predictions_m: Float[AnyArray, "batch joints xyz=3"],
    targets_m: Float[AnyArray, "batch joints xyz=3"],
    visible: Bool[AnyArray, "batch joints"],
) -> Float[Array, "batch joints"]:
    """Returns each joint's distance to its target, metres; nan where it does not count.

    A median does not add up over batches: keep these, and reduce them once, at the end.

    Raises:
        ValueError: Shapes disagree.
    """
    _check(predictions_m, targets_m, visible, 3)
    distance, counted = _distance(predictions_m, targets_m, visible)
    return jnp.where(counted, distance, jnp.nan)


def are_right(poses: Poses, skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns which joints are right where confidence is meant, and which count.

    Right is what lies within the skeleton's `right_m` (10 cm, of hands 2), without
    metres within half a head; None where there is neither.

    Args:
        poses: Of a split.
        skeleton: Of its joints.

    Returns:
        bool [frames, joints] each, by the rules of every metric here.
    """
    if poses.predictions_m is not None and poses.targets_m is not None:
        distance, counted = _distance(
            poses.predictions_m, poses.targets_m, poses.visible
        )
        right = distance < skeleton.right_m
    elif skeleton.head is not None:
        right, counted = _within(*poses[:3], skeleton.head, 0.5)
    else:
        return None
    return np.asarray(right), np.asarray(counted)


def rows(tally: Tally, skeleton: Skeleton) -> Column:
    """Returns the value of each row of the skeleton's table: joints' sums, divided."""
    total, count = np.asarray(tally.total, np.float64), np.asarray(tally.count)
    return {
        row: float(total[joints].sum() / count[joints].sum())
        if count[joints].any()
        else np.nan
        for row, joints in _row_joints(skeleton).items()
    }


def median_rows(errors: Float[AnyArray, "frames joints"], skeleton: Skeleton) -> Column:
    """Returns the median of each row of the skeleton's table over `joint_errors`."""
    column = {}
    for row, joints in _row_joints(skeleton).items():
        of_row = np.asarray(errors)[:, joints]
        counted = of_row[~np.isnan(of_row)]
        column[row] = float(np.median(counted)) if counted.size else np.nan
    return column


def pdj_curve(
    poses: Poses,
    skeleton: Skeleton,
    fractions: Sequence[float] = CURVE_FRACTIONS,
    torso: str | None = None,
) -> list[float]:
    """Returns PDJ over all joints, percent, at each fraction."""
    tallies = (pdj(*poses[:3], skeleton, fraction, torso) for fraction in fractions)
    return [100 * float(tally.total.sum() / tally.count.sum()) for tally in tallies]


def table(
    poses: Poses,
    skeleton: Skeleton,
    metrics: Sequence[str] = ("all",),
    torso: str | None = None,
) -> Columns:
    """Returns the columns of a results table, each from row to value.

    Args:
        poses: The whole split.
        skeleton: Whose rows the table has. Where these leave out joints, a row of all
            joints is added.
        metrics: Names in `METRICS`; "all" stands for those that the data allow.
        torso: PDJ's unit, a name in `skeleton.torsos`.

    Raises:
        ValueError: A metric asked for by name is unknown or needs what the skeleton or
            the data do not have.
    """
    columns: Columns = {}
    for name in metrics:
        if name == "all":
            chosen = [m for m in METRICS.values() if m.applies(poses, skeleton)]
        else:
            chosen = [pick(METRICS, "metric", name)]
        for metric in chosen:
            columns |= metric.columns(poses, skeleton, torso)
    if not columns:
        raise ValueError(f"no metric applies to {skeleton.name!r} without 3-D joints")
    return columns


def require(
    skeleton: Skeleton, metric: str, *, has_metres: bool, torso: str | None = None
) -> None:
    """Refuses a metric before there is anything to measure.

    Args:
        skeleton: Of the data set.
        metric: A name in `METRICS`, or "all".
        has_metres: Whether the data have 3-D joints.
        torso: See `table`.

    Raises:
        ValueError: See `table`.
    """
    blank = np.zeros((1, skeleton.num_joints, 3), np.float32)
    metres = (blank, blank) if has_metres else (None, None)
    poses = Poses(blank[..., :2], blank[..., :2], blank[..., 0] > 0, *metres)
    table(poses, skeleton, [metric], torso)


def format_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """Writes a table as Markdown, in aligned columns."""
    names = list(next(iter(columns.values())))
    width = max(map(len, names))
    widths = [max(len(title), 6) for title in columns]
    titles = [f"{title:>{w}}" for title, w in zip(columns, widths, strict=True)]
    lines = [
        [" " * width, *titles],
        ["-" * width, *("-" * (w - 1) + ":" for w in widths)],
    ]
    for row in names:
        values = (column[row] for column in columns.values())
        cells = [f"{value:{w}.1f}" for value, w in zip(values, widths, strict=True)]
        lines.append([f"{row:<{width}}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def label_boxes(
    joints_px: Float[AnyArray, "frames joints xy=2"],
    visible: Bool[AnyArray, "frames joints"],
) -> Float[Array, "frames box=4"]:
    """Returns the tightest boxes [x0, y0, x1, y1] around the visible joints, pixels."""
    labelled = jnp.where(visible[..., None], joints_px, jnp.nan)
    low, high = jnp.nanmin(labelled, axis=1), jnp.nanmax(labelled, axis=1)
    return jnp.concatenate([low, high], axis=-1)


def mean_pose(
    joints_px: Float[AnyArray, "frames joints xy=2"],
    visible: Bool[AnyArray, "frames joints"],
    boxes: Float[AnyArray, "frames box=4"],
) -> Float[Array, "joints xy=2"]:
    """Returns the mean pose in units of its box: (0, 0) one corner, (1, 1) the other.

    With `place`, it is the floor that a trained network must beat: the same pose in
    every frame, knowing no more than the box.
    """
    low, high = jnp.split(jnp.asarray(boxes)[:, None], [2], axis=-1)
    size = high - low
    counted = visible[..., None] & (size > 0).all(axis=-1, keepdims=True)
    total = jnp.where(counted, (joints_px - low) / size, 0).sum(axis=0)
    return total / counted.sum(axis=0)


def place(
    pose: Float[AnyArray, "joints xy=2"], boxes: Float[AnyArray, "frames box=4"]
) -> Float[Array, "frames joints xy=2"]:
    """Returns a pose of `mean_pose` in each box, pixels."""
    low, high = jnp.split(jnp.asarray(boxes)[:, None], [2], axis=-1)
    return low + pose[None] * (high - low)


def _check(predictions, targets, visible, dimensions, skeleton=None):
    expected = (*visible.shape, dimensions)
    if visible.ndim != 2 or not predictions.shape == targets.shape == expected:
        raise ValueError(
            f"predictions and targets must both be [batch, joints, {dimensions}] and "
            f"visible [batch, joints], got {predictions.shape}, {targets.shape} and "
            f"{visible.shape}"
        )
    if skeleton is not None and visible.shape[1] != skeleton.num_joints:
        raise ValueError(
            f"skeleton {skeleton.name!r} has {skeleton.num_joints} joints, "
            f"predictions have {visible.shape[1]}"
        )


def _distance(predictions, targets, visible):
    """Distances [batch, joints], and which of them count."""
    predictions, targets = jnp.asarray(predictions), jnp.asarray(targets)
    distance = jnp.linalg.norm(predictions - targets, axis=-1)
    counted = jnp.asarray(visible) & jnp.isfinite(targets).all(axis=-1)
    return jnp.where(jnp.isnan(distance), jnp.inf, distance), counted


def _within(predictions, targets, visible, segment: Segment, share):
    """Which joints [batch, joints] are within a share of a segment, and which count."""
    length = _segment_length(targets, visible, segment)
    distance, counted = _distance(predictions, targets, visible)
    return distance <= share * length, counted & jnp.isfinite(length)


def _segment_length(targets, visible, segment: Segment):
    """Lengths [batch, 1]; nan where an end is unlabelled or both ends are one point."""
    targets, visible = jnp.asarray(targets), jnp.asarray(visible)
    start, end = (targets[:, np.array(ends)].mean(axis=1) for ends in segment)
    length = jnp.linalg.norm(end - start, axis=-1, keepdims=True)
    labelled = visible[:, np.array(segment[0] + segment[1])].all(axis=1, keepdims=True)
    return jnp.where(labelled & (length > 0), length, jnp.nan)


def _hits(hit, counted) -> Tally:
    return Tally((hit & counted).sum(axis=0), counted.sum(axis=0))


def overall_row(skeleton: Skeleton) -> str:
    """Returns the row of the skeleton's table that averages over all joints."""
    rows_of_all = (
        row
        for row, joints in skeleton.rows.items()
        if len(joints) == skeleton.num_joints
    )
    return next(rows_of_all, "All joints")


def _row_joints(skeleton: Skeleton) -> dict[str, list[int]]:
    by_row = {row: list(joints) for row, joints in skeleton.rows.items()}
    by_row[overall_row(skeleton)] = list(range(skeleton.num_joints))
    return by_row


def _percent(tally: Tally, skeleton: Skeleton) -> Column:
    return {row: 100 * value for row, value in rows(tally, skeleton).items()}


def _pdj_columns(poses: Poses, skeleton: Skeleton, torso: str | None) -> Columns:
    columns = {}
    for fraction in PDJ_FRACTIONS:
        tally = pdj(*poses[:3], skeleton, fraction, torso)
        columns[f"PDJ@{fraction:.2f}"] = _percent(tally, skeleton)
    mean = {
        row: float(np.mean([column[row] for column in columns.values()]))
        for row in _row_joints(skeleton)
    }
    return columns | {"PDJ mean": mean}


def _pckh_columns(poses: Poses, skeleton: Skeleton, torso: str | None) -> Columns:
    return {"PCKh@0.5": _percent(pckh(*poses[:3], skeleton), skeleton)}


def _map_10cm_columns(poses: Poses, skeleton: Skeleton, torso: str | None) -> Columns:
    return {"mAP@10cm": _percent(map_10cm(*_metres(poses)), skeleton)}


def _joint_error_columns(
    poses: Poses, skeleton: Skeleton, torso: str | None
) -> Columns:
    errors_mm = 1000 * joint_errors(*_metres(poses))
    counted = ~jnp.isnan(errors_mm)
    tally = Tally(jnp.nansum(errors_mm, axis=0), counted.sum(axis=0))
    return {
        "mean error mm": rows(tally, skeleton),
        "median error mm": median_rows(errors_mm, skeleton),
    }


def _metres(poses: Poses) -> tuple[AnyArray, AnyArray, AnyArray]:
    if poses.predictions_m is None or poses.targets_m is None:
        raise ValueError("mAP@10cm and joint error need 3-D joints; there are none")
    return poses.predictions_m, poses.targets_m, poses.visible


def _has_metres(poses: Poses, skeleton: Skeleton) -> bool:
    return poses.predictions_m is not None and poses.targets_m is not None


class Metric(NamedTuple):
    """A choice of `--metric`: its columns, and whether "all" includes them."""

    columns: Callable[[Poses, Skeleton, str | None], Columns]
    applies: Callable[[Poses, Skeleton], bool]


METRICS = {
    "pdj": Metric(_pdj_columns, lambda poses, skeleton: bool(skeleton.torsos)),
    "pckh": Metric(_pckh_columns, lambda poses, skeleton: skeleton.head is not None),
    "map_10cm": Metric(_map_10cm_columns, _has_metres),
    "joint_error": Metric(_joint_error_columns, _has_metres),
}
