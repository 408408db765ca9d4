"""Probabilities of joints: fitted to what happened, and measured by hand."""

import numpy as np
import pytest

from cmbjax import calibration


def test_the_odds_that_made_the_data_are_found_again():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.02, 1.1, (20_000, 2))
    true = np.array([[1.5, 2.0], [-0.5, 0.7]])
    probability = calibration.probabilities(scores, true)
    # Odds are exp(offset) peak^slope.
    odds = np.exp(true[:, 0]) * scores ** true[:, 1]
    np.testing.assert_allclose(probability, odds / (1 + odds), rtol=1e-4)
    is_right = rng.random(scores.shape) < probability
    fitted = calibration.fit(scores, is_right, np.ones_like(is_right))
    np.testing.assert_allclose(fitted, true, atol=0.08)
    sure = calibration.probabilities(scores, fitted)
    assert calibration.expected_error(sure, is_right) < 0.01


def test_what_does_not_count_changes_nothing():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.1, 1, (500, 1))
    is_right = rng.random(scores.shape) < scores
    counted = rng.random(scores.shape) < 0.5
    fitted = calibration.fit(scores, is_right, counted)
    changed = np.where(counted, scores, 1e-9)
    other = calibration.fit(changed, is_right & counted, counted)
    np.testing.assert_allclose(fitted, other)


@pytest.mark.parametrize("always", [True, False])
def test_a_joint_that_never_changes_its_mind_is_nearly_certain(always):
    scores = np.random.default_rng(0).uniform(0.3, 1, (400, 1))
    is_right = np.full(scores.shape, always)
    fitted = calibration.fit(scores, is_right, np.ones_like(is_right))
    sure = calibration.probabilities(scores, fitted)
    assert np.isfinite(fitted).all()
    assert (sure > 0.95).all() if always else (sure < 0.05).all()


def test_a_joint_that_is_nowhere_labelled_keeps_its_peak_for_odds():
    nothing = np.zeros((3, 1))
    fitted = calibration.fit(nothing, nothing > 0, nothing > 0)
    np.testing.assert_array_equal(fitted, [[0, 1]])


def test_calibration_error_by_hand():
    # From 0.8 to 0.9: sure 0.85, right 1 of 2; from 0.1 to 0.2: sure 0.1, right none.
    confidence = np.array([0.85, 0.85, 0.1, 0.1])
    is_right = np.array([True, False, False, False])
    error = calibration.expected_error(confidence, is_right)
    assert error == pytest.approx((2 * 0.35 + 2 * 0.1) / 4)
    # A probability of 1 is in the last bin, and right.
    assert calibration.expected_error(np.ones(3), np.ones(3, bool)) == 0


def test_area_under_roc_by_hand():
    # Right ones at 0.9 and 0.5, wrong ones at 0.5 and 0.1: 1, 1, 1/2 and 1 of 4 pairs.
    confidence = np.array([0.9, 0.5, 0.5, 0.1])
    is_right = np.array([True, True, False, False])
    assert calibration.area_under_roc(confidence, is_right) == pytest.approx(3.5 / 4)
    assert np.isnan(calibration.area_under_roc(confidence, np.ones(4, bool)))


def test_presence_by_hand_and_its_odds_are_found_again():
    # Odds of 1 to 4, times those of 4 to 1 squared, times e.
    said = calibration.presence(0.2, 0.8, np.array([1.0, 1.0, 2.0]))
    odds = np.e * 0.25 * 16
    assert said == pytest.approx(odds / (1 + odds))
    # Nothing is certain: 0 and 1 are inputs like 0.01 and 0.99.
    assert calibration.presence(0.0, 1.0, np.array([0.0, 1.0, 1.0])) == pytest.approx(
        0.5
    )
    rng = np.random.default_rng(0)
    scores, confidence = rng.uniform(0.05, 0.95, (2, 20_000))
    true = np.array([1.5, 2.0, 0.7])
    probability = calibration.presence(scores, confidence, true)
    fitted = calibration.fit_presence(
        scores, confidence, rng.random(20_000) < probability
    )
    np.testing.assert_allclose(fitted, true, atol=0.1)
