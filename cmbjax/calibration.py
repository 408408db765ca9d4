"""How sure a network is of a joint, as a probability that holds.

A heat map's peak is high where a joint is plain, and low where it is hidden, unusual or
not there; how often a peak of some height is right differs from joint to joint. Here it
is measured on validation frames, by logistic regression on the logarithm of the peak
(Platt, "Probabilistic outputs for support vector machines", 1999).
"""

import numpy as np

LEAST_PEAK, HIGHEST_PEAK = 1e-3, 1.5
RIDGE = 1e-2  # towards a slope of 1 and no offset, where a joint is always right
STEPS = 50  # of Newton's method; ten are plenty
BINS = 10


def fit(scores: np.ndarray, is_right: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Returns [joints, 2]: offset and slope of the log odds that a joint is right.

    Args:
        scores: [frames, joints] heights of peaks.
        is_right: bool [frames, joints].
        counted: bool [frames, joints] which of these are known.
    """
    coefficients = np.tile([0.0, 1.0], (scores.shape[1], 1))
    for joint in range(scores.shape[1]):
        rows = counted[:, joint]
        inputs = _inputs(scores[rows, joint])
        truth = is_right[rows, joint].astype(float)
        weights, prior = coefficients[joint].copy(), coefficients[joint].copy()
        for _ in range(STEPS):
            probability = _sigmoid(inputs @ weights)
            slope = inputs.T @ (probability - truth) + RIDGE * (weights - prior)
            spread = probability * (1 - probability)
            curvature = (inputs * spread[:, None]).T @ inputs + RIDGE * np.eye(2)
            step = np.linalg.solve(curvature, slope)
            weights -= np.clip(step, -2, 2)  # Newton's own step overshoots far away
            if np.abs(step).max() < 1e-8:
                break
        coefficients[joint] = weights
    return coefficients


def probabilities(scores: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Returns how probably each joint is right: [..., joints], of peaks likewise.

    Args:
        scores: Heights of peaks.
        coefficients: [joints, 2] of `fit`.
    """
    log_odds = (_inputs(scores) * coefficients).sum(axis=-1)
    return _sigmoid(log_odds).astype(np.float32)


def expected_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Returns the expected calibration error, in ten bins of equal width.

    The mean over predictions of the distance between how sure those of a bin are and
    how often they are right (Guo et al., ICML 2017, Eq. 3).

    Args:
        confidence: Probabilities, any shape.
        is_right: bool, likewise.
    """
    bins = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gaps = [
        abs(float(np.sum(confidence[bins == i]) - np.sum(is_right[bins == i])))
        for i in range(BINS)
    ]
    return sum(gaps) / confidence.size


def area_under_roc(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Returns how probably a joint that is right is surer than one that is wrong.

    Ties count half; nan where all are right, or all wrong.
    """
    _, ranks, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - (counts - 1) / 2
    right = int(is_right.sum())
    wrong = is_right.size - right
    if not right or not wrong:
        return float("nan")
    total = middles[ranks.ravel()][is_right.ravel()].sum()
    return float((total - right * (right + 1) / 2) / (right * wrong))


def _inputs(scores: np.ndarray) -> np.ndarray:
    logs = np.log(np.clip(scores, LEAST_PEAK, HIGHEST_PEAK))
    return np.stack([np.ones_like(logs), logs], axis=-1)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))
