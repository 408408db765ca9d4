"""Every figure: poses on depth, heat maps, PDJ curves, the course of a training.

Needs numpy and matplotlib alone, and draws without a display. Depth may be in any
unit; near is light. Integer 0 and NaN are holes. A joint that is not a number is left
out, with its bones.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from cmbjax.skeletons import FINGERS, LEFT, MIDDLE, RIGHT, Skeleton, joint_colours

LABEL = "#ffffff"
HOLE = "#23304a"
CELL = 2.6  # inches of a sheet's picture
FRAME_WIDTH = 5.8  # inches of a frame on its own


def draw_depth(ax: Axes, depth: ArrayLike) -> None:
    """Draws depth [height, width] or [height, width, 1] in its pixels' coordinates."""
    image = np.asarray(depth)
    image = image[..., 0] if image.ndim == 3 else image
    is_hole = image == 0 if image.dtype.kind in "iu" else np.isnan(image)
    height, width = image.shape
    valid = image[~is_hole]
    near, far = np.percentile(valid, [1, 99]) if valid.size else (0.0, 1.0)
    ax.imshow(
        np.ma.masked_array(image, is_hole),
        cmap=matplotlib.colormaps["gray_r"].with_extremes(bad=HOLE),
        vmin=near,
        vmax=max(far, near + 1e-6),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def draw_pose(
    ax: Axes,
    depth: ArrayLike,
    joints_px: ArrayLike | None,
    skeleton: Skeleton,
    targets_px: ArrayLike | None = None,
    *,
    zoom: bool = True,
) -> None:
    """Draws a pose over its depth: prediction in colours, label thin and white.

    Args:
        ax: Where.
        depth: [height, width], any unit.
        joints_px: [joints, 2] prediction, pixels of the depth; None draws the label
            in the prediction's colours.
        skeleton: Whose bones.
        targets_px: [joints, 2] label, pixels.
        zoom: Whether to show the square around the poses alone.
    """
    draw_depth(ax, depth)
    poses = [_finite(pose) for pose in (targets_px, joints_px) if pose is not None]
    colours = joint_colours(skeleton)
    if targets_px is not None and joints_px is not None:
        _draw_bones(ax, poses[0], skeleton, [LABEL] * len(colours), width=0.9)
    if poses:
        _draw_bones(ax, poses[-1], skeleton, colours, width=2.2)
    if zoom and poses:
        _zoom(ax, np.concatenate(poses))


def frame(
    depth: ArrayLike, poses_px: Sequence[ArrayLike], skeleton: Skeleton, path: Path
) -> None:
    """Saves a frame with the poses of all people in it.

    Args:
        depth: [height, width], any unit.
        poses_px: [joints, 2] pixels each; may be none.
        skeleton: Whose bones.
        path: A PNG.
    """
    height, width = np.shape(depth)
    size = (FRAME_WIDTH, FRAME_WIDTH * height / width)
    figure = Figure(figsize=size)
    ax = figure.add_axes((0, 0, 1, 1))
    draw_depth(ax, depth)
    ax.set_axis_off()
    for joints_px in poses_px:
        _draw_bones(
            ax, _finite(joints_px), skeleton, joint_colours(skeleton), width=2.2
        )
    _save(figure, path)


def pose_sheet(
    depths: Sequence[ArrayLike],
    predictions_px: ArrayLike | None,
    targets_px: ArrayLike | None,
    skeleton: Skeleton,
    titles: Sequence[str],
    path: Path,
    *,
    columns: int = 4,
    zoom: bool = True,
) -> None:
    """Saves a sheet of poses over depth.

    Args:
        depths: [height, width] each, any unit.
        predictions_px: [frames, joints, 2] pixels, or None for labels alone.
        targets_px: [frames, joints, 2] pixels, or None for predictions alone.
        skeleton: Whose bones.
        titles: One a frame.
        path: A PNG.
        columns: Pictures in a row.
        zoom: See `draw_pose`.
    """
    figure, axes = _sheet(len(depths), columns)
    nothing = [None] * len(depths)
    predictions = nothing if predictions_px is None else np.asarray(predictions_px)
    targets = nothing if targets_px is None else np.asarray(targets_px)
    for ax, depth, joints, target, title in zip(
        axes, depths, predictions, targets, titles, strict=True
    ):
        draw_pose(ax, depth, joints, skeleton, target, zoom=zoom)
        ax.set_title(title, fontsize=8, parse_math=False)
    handles = []
    if skeleton.mirror_pairs:
        sides = {"right": RIGHT, "left": LEFT, "middle": MIDDLE}
        handles = [Line2D([], [], color=c, lw=2.2, label=s) for s, c in sides.items()]
    if predictions_px is not None and targets_px is not None:
        handles.append(Line2D([], [], color=LABEL, lw=0.9, label="label"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=4,
            fontsize=8,
            facecolor="#606060",
            labelcolor="white",
        )
    _save(figure, path)


def map_sheet(
    rows: Sequence[Sequence[ArrayLike]],
    titles: Sequence[str],
    heads: Sequence[str],
    path: Path,
) -> None:
    """Saves rows of maps, the first of each being depth; each map has its own range.

    Args:
        rows: [height, width] maps, as many in each row.
        titles: One a row.
        heads: One a column.
        path: A PNG.
    """
    size = (0.7 * CELL * len(heads), 0.7 * CELL * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), len(heads), squeeze=False)
    for line, row, title in zip(axes, rows, titles, strict=True):
        draw_depth(line[0], row[0])
        line[0].set_ylabel(title, fontsize=8, parse_math=False)
        for ax, values in zip(line[1:], row[1:], strict=True):
            ax.imshow(np.asarray(values), cmap="magma", interpolation="nearest")
            ax.set(xticks=[], yticks=[])
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head, fontsize=8, parse_math=False)
    _save(figure, path)


def bars(
    values: Mapping[str, Mapping[str, float]],
    deviations: Mapping[str, Mapping[str, float]],
    published: Mapping[str, Mapping[str, float]],
    whose: str,
    unit: str,
    path: Path,
) -> None:
    """Saves a group of bars a row of a table, one a method; published ones are lines.

    Args:
        values: Of each method, of each row that it has.
        deviations: Likewise; NaN for none.
        published: Likewise; may lack methods and rows.
        whose: Who published these, and of which data.
        unit: Of the values.
        path: A PNG.
    """
    rows = list(dict.fromkeys(row for column in values.values() for row in column))
    colours = _colours(len(values))
    figure = Figure(figsize=(max(5.0, 0.9 * len(rows)), 3.6), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(values)
    for i, (method, column) in enumerate(values.items()):
        x = np.arange(len(rows)) - 0.4 + width * (i + 0.5)
        height = [column.get(row, np.nan) for row in rows]
        error = [deviations[method].get(row, np.nan) for row in rows]
        ax.bar(x, height, width, yerr=error, label=method, color=colours[i], capsize=1)
        reported = published.get(method, {})
        marks = [reported.get(row, np.nan) for row in rows]
        label = whose if i == 0 else None
        ax.scatter(x, marks, marker="_", color="black", zorder=3, label=label)
    ax.set_xticks(np.arange(len(rows)), rows, rotation=30, ha="right", fontsize=8)
    ax.set_ylabel(unit)
    ax.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    _save(figure, path)


def share_curves(
    curves: Mapping[str, Sequence[tuple[float, float, float]]], unit: str, path: Path
) -> None:
    """Saves what is reached with shares of the data, with deviations.

    Args:
        curves: Of each method (share in percent, mean, deviation).
        unit: Of the values.
        path: A PNG.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.subplots()
    for method, points in curves.items():
        shares, means, deviations = zip(*points, strict=True)
        ax.errorbar(shares, means, deviations, marker="o", capsize=3, label=method)
    ax.set_xscale("log")
    ax.set(xlabel="training data, %", ylabel=unit)
    ax.grid(alpha=0.3)
    ax.legend()
    _save(figure, path)


def validation_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], unit: str, path: Path
) -> None:
    """Saves how trainings went, a line a run; those of a method have one colour.

    Args:
        curves: Of each method, of each of its runs, (step, value).
        unit: Of the values.
        path: A PNG.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    colours = _colours(len(curves))
    for (method, runs), colour in zip(curves.items(), colours, strict=True):
        for i, points in enumerate(filter(None, runs)):
            steps, values = zip(*points, strict=True)
            label = None if i else method
            ax.plot(steps, values, marker="o", ms=3, color=colour, label=label)
    ax.set(xlabel="step", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def cost_curves(
    curves: Mapping[str, tuple[str, str, Mapping[float, float]]], path: Path
) -> None:
    """Saves what grows with what, a panel each.

    Args:
        curves: Of each title, what it is against, the unit, and the values.
        path: A PNG.
    """
    figure, axes = _sheet(len(curves), 4)
    for ax, (title, (against, unit, values)) in zip(axes, curves.items(), strict=True):
        ax.plot(list(values), list(values.values()), marker="o")
        if max(values) >= 100 * min(values):
            ax.set_xscale("log")
        top = 1.08 * max(values.values())
        ax.set(xlabel=against, ylabel=unit, ylim=(0, top))
        ax.set_xticks(list(values), [f"{value:g}" for value in values])
        ax.set_title(title, fontsize=9)
        ax.grid(alpha=0.3)
    _save(figure, path)


def cost_picture(costs: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Saves GFLOP against milliseconds of each network."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for i, (name, (gflop, ms)) in enumerate(costs.items()):
        marker = "os^v"[i // 10 % 4]  # there are ten colours
        ax.scatter(gflop, ms, s=30, color=f"C{i % 10}", marker=marker, label=name)
    ax.set(xscale="log", yscale="log", xlabel="GFLOP", ylabel="ms")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def pdj_curve(
    fractions: Sequence[float], curves: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Saves PDJ, percent, over the fraction of the torso.

    Args:
        fractions: Of the torso's length.
        curves: Name -> PDJ at each fraction; "floor" and "ceiling" are drawn as such.
        path: A PNG.
    """
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    ax = figure.subplots()
    bounds = {"floor": ("0.45", ":"), "ceiling": ("0.45", "--")}
    for name, values in curves.items():
        if name in bounds:
            colour, style = bounds[name]
            ax.plot(fractions, values, color=colour, linestyle=style, label=name)
        else:
            ax.plot(fractions, values, linewidth=2, label=name)
    ax.set(xlabel="fraction of the torso", ylabel="PDJ, % of joints", ylim=(0, 102))
    ax.set_xlim(min(fractions), max(fractions))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    _save(figure, path)


def loss_curve(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Saves the course of a training, a panel for each unit.

    Args:
        records: Lines of metrics.jsonl: "step", and any of "loss" and validation's
            metrics, which have "validation/" before their title; None is left out.
        path: A PNG.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for name, value in record.items():
            is_drawn = name == "loss" or name.startswith("validation/")
            if is_drawn and value is not None:
                series.setdefault(name, []).append((record["step"], value))
    panels: dict[str, list[str]] = {}
    for name in series:
        validation = "validation, mm" if name.endswith(" mm") else "validation, %"
        panels.setdefault("loss" if name == "loss" else validation, []).append(name)
    number = max(1, len(panels))
    figure = Figure(figsize=(7, 1 + 2.4 * number), layout="constrained")
    axes = figure.subplots(number, sharex=True, squeeze=False)[:, 0]
    for ax, (unit, names) in zip(axes, panels.items(), strict=False):
        for name in names:
            steps, values = zip(*series[name], strict=True)
            few = "o" if len(steps) < 30 else None
            label = name.removeprefix("validation/")
            ax.plot(steps, values, marker=few, markersize=3, label=label)
        ax.set_ylabel(unit)
        ax.grid(alpha=0.3)
        if unit != "loss":
            ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
        elif min(value for _, value in series["loss"]) > 0:
            ax.set_yscale("log")
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def _colours(number: int) -> list[str]:
    """Returns colours of so many methods; beyond twenty they come again."""
    colours = list(FINGERS)
    if number > len(colours):
        many = matplotlib.colormaps["tab20"]
        colours = [matplotlib.colors.to_hex(many(i)) for i in range(many.N)]
    return [colours[i % len(colours)] for i in range(number)]


def _draw_bones(
    ax: Axes,
    joints_px: np.ndarray,
    skeleton: Skeleton,
    colours: Sequence[str],
    *,
    width: float,
) -> None:
    edge = [withStroke(linewidth=width + 1, foreground="black")]
    for parent, joint in skeleton.bones:
        x, y = joints_px[[parent, joint]].T
        ax.plot(x, y, color=colours[joint], lw=width, path_effects=edge)
    x, y = joints_px.T
    ax.scatter(x, y, s=4 * width**1.5, c=list(colours), linewidths=0, zorder=3)


def _finite(joints_px: ArrayLike) -> np.ndarray:
    joints = np.asarray(joints_px, float)
    return np.where(np.isfinite(joints).all(axis=-1, keepdims=True), joints, np.nan)


def _zoom(ax: Axes, joints_px: np.ndarray) -> None:
    """Shows the square around the joints, as far as the picture goes."""
    (_, width), (height, _) = ax.get_xlim(), ax.get_ylim()
    joints = joints_px[~np.isnan(joints_px).any(axis=-1)].clip(0, (width, height))
    if not len(joints):
        return
    low, high = joints.min(axis=0), joints.max(axis=0)
    half = 0.62 * max(*(high - low), 8.0)
    half = min(half, width / 2, height / 2)
    x, y = np.clip((low + high) / 2, half, (width - half, height - half))
    ax.set(xlim=(x - half, x + half), ylim=(y + half, y - half))


def _sheet(number: int, columns: int) -> tuple[Figure, list[Axes]]:
    if not number:
        raise ValueError("a sheet needs at least one frame, got none")
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(CELL * columns, CELL * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[number:]:
        ax.set_axis_off()
    return figure, axes[:number]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
