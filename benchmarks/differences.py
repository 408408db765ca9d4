"""Which methods their runs tell apart, or the people in their frames."""

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from cmbjax import metrics
from cmbjax.skeletons import Skeleton

LEAST_PEOPLE = 6  # to be drawn anew
DRAWS = 2000  # of people


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the mean difference of two methods' runs, paired by seed, and its reach.

    Seeds that one of them lacks do not count. The 95 % interval of Student's
    distribution goes so far to either side; it is not a number where there is one pair.
    """
    pairs = min(len(first), len(second))
    gaps = np.subtract(first[:pairs], second[:pairs])
    if pairs < 2:
        return float(gaps.mean()), float("nan")
    quantile = scipy.stats.t.ppf(0.975, len(gaps) - 1)
    return float(gaps.mean()), float(quantile * gaps.std(ddof=1) / np.sqrt(len(gaps)))


def told_apart(of_runs: Mapping[str, Sequence[float]]) -> str:
    """Returns which neighbours in a ranking the runs tell apart, and which they cannot.

    Args:
        of_runs: Of each method a value over all joints a seed.
    """
    ranked = sorted(of_runs, key=lambda method: -float(np.mean(of_runs[method])))
    sentences = []
    for better, worse in itertools.pairwise(ranked):
        mean, reach = difference(of_runs[better], of_runs[worse])
        if np.isnan(reach):
            kind = "one pair of runs: not told apart"
        elif abs(mean) > reach:
            kind = f"95 % interval {mean - reach:+.1f} to {mean + reach:+.1f}"
        else:
            kind = f"not told apart ({mean - reach:+.1f} to {mean + reach:+.1f})"
        sentences.append(f"{better} - {worse}: {mean:+.1f}, {kind}")
    return "Over all joints, paired by seed: " + "; ".join(sentences) + "."


def frame_scores(path: Path, skeleton: Skeleton, metric: str) -> np.ndarray:
    """Returns a metric's hits and what they are of [2, frames], over joints.

    Args:
        path: joints.csv of an evaluation.
        skeleton: Of its joints.
        metric: pdj, pckh or map_10cm.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("x_px", "y_px", "predicted_x_px", "predicted_y_px")
    values = np.array([[row[name] for name in columns] for row in rows], float)
    target, found = values.reshape(-1, skeleton.num_joints, 2, 2).transpose(2, 0, 1, 3)
    visible = np.array([row["visible"] == "1" for row in rows])
    visible = visible.reshape(target.shape[:2])
    if metric == "map_10cm":
        error = np.array([row["error_mm"] for row in rows], float)
        error = error.reshape(visible.shape)
        counted = visible & ~np.isnan(error)
        return np.stack([((error < 100) & counted).sum(axis=1), counted.sum(axis=1)])

    def of_frames(hits: Callable[..., metrics.Tally], *limits: float) -> np.ndarray:
        def of_frame(*frame: Any) -> jax.Array:
            tally = hits(*(part[None] for part in frame), skeleton, *limits)
            return jnp.stack([tally.total.sum(), tally.count.sum()])

        return np.asarray(jax.vmap(of_frame)(found, target, visible)).T

    if metric == "pckh":
        return of_frames(metrics.pckh)
    shares = [of_frames(metrics.pdj, share) for share in metrics.PDJ_FRACTIONS]
    return np.mean(shares, axis=0)


def told_apart_by_people(
    scores: Mapping[str, np.ndarray], people: Sequence[str]
) -> str:
    """Returns the same as `told_apart` of single runs, from the people in the frames.

    Args:
        scores: Of each method hits and what they are of, [2, frames].
        people: Who is in each frame.
    """
    number = len(set(people))
    if number < 2:
        return "The frames do not say who is in them, and tell single runs not apart."
    ratios = {method: hits.sum() / of.sum() for method, (hits, of) in scores.items()}
    ranked = sorted(ratios, key=lambda method: -ratios[method])
    sentences = []
    for better, worse in itertools.pairwise(ranked):
        (hits, of), (others, _) = scores[better], scores[worse]
        low, high = of_people(100 * (hits - others), people, of=of)
        said = "" if low > 0 else "not told apart, "
        sentences.append(f"{better} - {worse}: {said}{low:+.1f} to {high:+.1f}")
    how = f"Over {number} people, drawn anew with all of their frames (95 % interval; "
    if number < LEAST_PEOPLE:
        how = f"Of each of {number} people alone (too few for an interval; "
    return how + "other seeds are not in it): " + "; ".join(sentences) + "."


def of_people(
    values: Sequence[float] | np.ndarray,
    people: Sequence[str],
    *,
    of: Sequence[float] | np.ndarray | None = None,
) -> tuple[float, float]:
    """Returns the 95 % interval of a ratio over frames, for other people than these.

    A cluster bootstrap: people are drawn anew, each with all of its frames, as frames
    of one person are alike. Of fewer people than `LEAST_PEOPLE` the lowest and the
    highest: a bootstrap of three can say no more, and covers too little.

    Args:
        values: Of each frame, what is summed.
        people: Who is in it.
        of: Of each frame, what the sum is divided by; by default 1, which is the mean.

    Raises:
        ValueError: There are fewer than two people.
    """
    names, of_frame = np.unique(np.asarray(people), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"expected frames of at least two people, got {len(names)}")
    sums = np.bincount(of_frame, np.asarray(values, float))
    counts = np.bincount(of_frame, of)
    if len(names) < LEAST_PEOPLE:
        known = counts > 0
        of_each = sums[known] / counts[known]
        return float(of_each.min()), float(of_each.max())
    drawn = np.random.default_rng(0).integers(len(names), size=(DRAWS, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
