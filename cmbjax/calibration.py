"""How sure a network is of a joint, and of whom it poses, as probabilities that hold.

A heat map's peak is high where a joint is plain, and low where it is hidden, unusual or
not there; how often a peak of some height is right differs from joint to joint. Here it
is measured on validation frames, by logistic regression on the logarithm of the peak
(Platt, "Probabilistic outputs for support vector machines", 1999). Likewise whether
what was found is there at all: a chair may look like a person to the detector, but its
joints are nowhere.
"""

import numpy as np

LEAST_PEAK, HIGHEST_PEAK = 1e-3, 1.5
LEAST_ODDS = 0.01  # probabilities as inputs are held away from 0 and 1 by so much
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
    for joint, prior in enumerate(coefficients):
        rows = counted[:, joint]
        inputs = _inputs(scores[rows, joint])
        coefficients[joint] = _regression(inputs, is_right[rows, joint], prior)
    return coefficients


def fit_presence(
    scores: np.ndarray, confidence: np.ndarray, is_there: np.ndarray
) -> np.ndarray:
    """Returns [3]: offset and slopes of the log odds that somebody is there.

    Args:
        scores: [people] of the detector.
        confidence: [people] of the surest joints, see `predict.pose.mean_of_surest`.
        is_there: bool [people].
    """
    inputs = _presence_inputs(scores, confidence)
    return _regression(inputs, is_there, np.array([0.0, 1.0, 1.0]))


def presence(
    scores: np.ndarray | float, confidence: np.ndarray | float, coefficients: np.ndarray
) -> np.ndarray:
    """Returns how probably somebody is there: [...], of a score and a confidence.

    Args:
        scores: Of the detector.
        confidence: Of the surest joints.
        coefficients: [3] of `fit_presence`.
    """
    log_odds = _presence_inputs(scores, confidence) @ coefficients
    return _sigmoid(np.asarray(log_odds))


def _regression(inputs: np.ndarray, is_so: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Returns the coefficients of a logistic regression, held near a prior."""
    truth, weights = is_so.astype(float), prior.copy()
    for _ in range(STEPS):
        probability = _sigmoid(inputs @ weights)
        slope = inputs.T @ (probability - truth) + RIDGE * (weights - prior)
        spread = probability * (1 - probability)
        curvature = (inputs * spread[:, None]).T @ inputs + RIDGE * np.eye(len(prior))
        step = np.linalg.solve(curvature, slope)
        weights -= np.clip(step, -2, 2)  # Newton's own step overshoots far away
        if np.abs(step).max() < 1e-8:
            break
    return weights


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


def _presence_inputs(
    scores: np.ndarray | float, confidence: np.ndarray | float
) -> np.ndarray:
    both = np.clip(np.stack([scores, confidence], axis=-1), LEAST_ODDS, 1 - LEAST_ODDS)
    log_odds = np.log(both / (1 - both))
    return np.concatenate([np.ones_like(log_odds[..., :1]), log_odds], axis=-1)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
