import dataclasses

import numpy as np
import pytest

from cmbjax.data.augment import Augmentation, random_transform, sensor_noise
from cmbjax.depth import crops

BOX = np.array([20, 10, 60, 90], np.float32)
STILL = Augmentation(
    flip=False, rotation_deg=0, scale=0, shift=0, reference=0, noise=0, holes=0
)


def test_without_augmentation_a_view_is_the_plain_crop():
    transform, flip = random_transform(np.random.default_rng(0), BOX, 64, STILL)
    assert not flip
    np.testing.assert_array_equal(transform, crops.crop_transform(BOX, 64))


def test_views_stay_within_their_bounds():
    augmentation = Augmentation(rotation_deg=20, scale=0.15, shift=0.06)
    rng = np.random.default_rng(1)
    flips, angles, scales, shifts = [], [], [], []
    for _ in range(500):
        transform, flip = random_transform(rng, BOX, 64, augmentation)
        linear = transform[:, :2] * np.array([[-1.0 if flip else 1.0], [1.0]])
        flips.append(flip)
        angles.append(np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0])))
        scales.append(64 / (crops.MARGIN * 80) / np.sqrt(np.linalg.det(linear)))
        centre = np.array([[40, 50]], np.float32)
        shifts.append(crops.transform_points(transform, centre)[0] / 64 - 0.5)
    assert 0.4 < np.mean(flips) < 0.6
    assert 18 < np.abs(angles).max() <= 20.001
    assert 0.85 <= min(scales) < 0.87 and 1.13 < max(scales) <= 1.15001
    assert np.linalg.norm(shifts, axis=1).max() <= 0.06 * np.sqrt(2) + 1e-4


def test_some_views_are_cropped_as_wrongly_as_the_detector_finds():
    plain = crops.crop_transform(BOX, 64)
    augmentation = dataclasses.replace(STILL, misses=0.25)
    rng = np.random.default_rng(2)
    views = [random_transform(rng, BOX, 64, augmentation)[0] for _ in range(2000)]
    wrong = [view for view in views if (view != plain).any()]
    assert 0.22 < len(wrong) / len(views) < 0.28
    growth = np.array([plain[0, 0] / view[0, 0] for view in wrong])
    # A Laplace distribution's middle, and its quarters at ln 2 scales from there.
    quarters = np.exp(0.05 + 0.15 * np.log(2) * np.array([-1, 0, 1]))
    np.testing.assert_allclose(np.percentile(growth, [25, 50, 75]), quarters, atol=0.03)
    assert growth.min() > np.exp(-0.41) and growth.max() < np.exp(0.71)
    middle = np.array([[32.0, 32]])
    middles = np.concatenate(
        [crops.transform_points(crops.invert(view), middle) for view in wrong]
    )
    # In sides of the crop, as large as it is.
    shift = (middles - [40, 50]) / (crops.MARGIN * 80) / growth[:, None]
    assert np.abs(shift).max() < 0.301
    np.testing.assert_allclose(np.abs(shift).mean(), 0.08, atol=0.01)


def test_noise_keeps_holes_and_has_the_deviation_that_is_asked_for():
    crop = np.full((100, 100), 2000, np.uint16)
    crop[:50] = 0
    augmentation = Augmentation(noise=0.02, holes=0)
    noisy = sensor_noise(np.random.default_rng(0), crop, 1000, augmentation)
    assert (noisy[:50] == 0).all() and (noisy[50:] > 0).all()
    assert 19 < (noisy[50:].astype(float) - 2000).std() < 21
    assert abs(noisy[50:].mean() - 2000) < 1


def test_holes_are_holes_and_leave_most_of_the_frame():
    crop = np.full((64, 64), 2000, np.uint16)
    augmentation = Augmentation(noise=0, holes=3)
    shares = [
        (sensor_noise(np.random.default_rng(i), crop, 1000, augmentation) == 0).mean()
        for i in range(40)
    ]
    assert min(shares) == 0 and 0 < np.mean(shares) < 0.03 and max(shares) < 0.06


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise", -0.1, "--augmentation.noise must be from 0 to 10, got -0.1"),
        ("noise", 1e30, "--augmentation.noise must be from 0 to 10, got 1e"),
        ("reference", 11, "--augmentation.reference must be from 0 to 10, got 11"),
        ("scale", 1.0, "--augmentation.scale must be from 0 to 0.99, got 1.0"),
        ("shift", 1.1, "--augmentation.shift must be from 0 to 1, got 1.1"),
        ("rotation_deg", 181, "--augmentation.rotation_deg must be from 0 to 180"),
        ("holes", 101, "--augmentation.holes must be from 0 to 100, got 101"),
        ("holes", 10**30, "--augmentation.holes must be from 0 to 100, got 1000"),
        ("damage", 1.01, "--augmentation.damage must be from 0 to 1, got 1.01"),
        ("misses", 2, "--augmentation.misses must be from 0 to 1, got 2"),
    ],
)
def test_impossible_bounds_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**{field: value})
