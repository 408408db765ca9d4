import numpy as np
import pytest

from cmbjax.depth import crops
from cmbjax.skeletons import BODY15

BOX = np.array([30, 10, 50, 90], np.float32)  # 20 wide, 80 high, around (40, 50)


def test_crop_by_hand():
    # A square of 1.15 * 80 = 92 px around (40, 50) becomes 46 px: everything halves.
    transform = crops.crop_transform(BOX, 46)
    corners = np.array([[-6, 4], [40, 50], [86, 96], [40, 4]], np.float32)
    expected = [[0, 0], [23, 23], [46, 46], [23, 0]]
    np.testing.assert_allclose(
        crops.transform_points(transform, corners), expected, atol=1e-4
    )


def test_flip_mirrors_columns_and_a_turn_is_clockwise_on_the_screen():
    right_of_centre = np.array([[50, 50]], np.float32)  # 5 px right in a crop of 46
    flipped = crops.crop_transform(BOX, 46, flip=True)
    turned = crops.crop_transform(BOX, 46, angle_deg=90)
    at = crops.transform_points
    np.testing.assert_allclose(at(flipped, right_of_centre), [[18, 23]], atol=1e-4)
    np.testing.assert_allclose(at(turned, right_of_centre), [[23, 28]], atol=1e-4)


def test_inverse_leads_back():
    transform = crops.crop_transform(
        BOX, 64, shift=(0.1, -0.2), angle_deg=33, flip=True, margin=1.4
    )
    points = np.random.default_rng(0).uniform(-50, 300, (20, 2)).astype(np.float32)
    there = crops.transform_points(transform, points)
    back = crops.transform_points(crops.invert(transform), there)
    np.testing.assert_allclose(back, points, atol=1e-3)


@pytest.mark.parametrize("angle_deg", [0, 90, 180])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_and_points_go_to_the_same_place(angle_deg, flip):
    depth = np.zeros((60, 80), np.uint16)
    depth[20, 45] = 7  # its centre is at (45.5, 20.5)
    box = np.array([29, 9, 61, 41], np.float32)  # whole pixels on both sides
    transform = crops.crop_transform(
        box, 32, margin=1.0, angle_deg=angle_deg, flip=flip
    )
    crop = crops.cut(depth, transform, 32)
    ((row, column),) = np.argwhere(crop == 7)
    point = crops.transform_points(transform, np.array([[45.5, 20.5]], np.float32))
    np.testing.assert_allclose(point[0], [column + 0.5, row + 0.5], atol=1e-3)


def test_outside_of_the_frame_is_a_hole_and_no_reading_is_a_mean_of_two():
    depth = np.full((10, 10), 1000, np.uint16)
    depth[:, 5:] = 3000
    crop = crops.cut(depth, crops.crop_transform(np.float32([0, 0, 10, 10]), 37), 37)
    assert set(np.unique(crop)) == {0, 1000, 3000}


def test_body_box_ignores_invisible_joints():
    joints = np.array([[10, 20], [30, 120], [500, 500]], np.float32)
    visible = np.array([True, True, False])
    # The longer side is 100: 8 px more on each side.
    np.testing.assert_allclose(crops.body_box(joints, visible), [2, 12, 38, 128])
    with pytest.raises(ValueError, match="at least one visible joint"):
        crops.body_box(joints, np.zeros(3, bool))


def test_person_depth_is_that_of_the_middle_not_of_the_wall_or_a_near_object():
    crop = np.full((64, 64), 4000, np.uint16)
    crop[:, :16] = 900  # a chair at the side
    crop[8:60, 26:38] = 2500
    crop[20:30, 26:38] = 2600
    crop[::7] = 0
    assert 2500 <= crops.person_depth(crop, 500) <= 2600
    assert crops.person_depth(np.zeros((64, 64), np.uint16), 500) == 0


def test_person_depth_is_a_reading_even_between_two_surfaces():
    # The quarter lies between readings 2 m apart: no mean of the two, which nothing is
    # near, may come of it.
    crop = np.zeros((64, 64), np.uint16)
    crop[20, 30:34] = (1900, 3900, 3900, 3900)
    assert crops.person_depth(crop, 500) in (1900, 3900)


def test_normalisation_by_hand():
    crop = np.array([[2500, 3000], [0, 9000]], np.uint16)
    normalised = crops.normalise(crop, 2750.0, 1000.0)
    # Holes and what lies beyond the range count as far.
    np.testing.assert_allclose(normalised[..., 0], [[-0.25, 0.25], [1, 1]])


def test_normalisation_does_not_depend_on_the_distance():
    crop = np.array([[2500, 3000], [2750, 2100]], np.uint16)
    near = crops.normalise(crop - np.uint16(1000), 1700.0, 1000.0)
    np.testing.assert_allclose(near, crops.normalise(crop, 2700.0, 1000.0), atol=1e-6)


def test_single_holes_are_filled_from_near_neighbours_and_large_ones_stay():
    crop = np.full((20, 20), 3000, np.uint16)
    crop[:, 10:] = 2000
    whole = crop.copy()
    rng = np.random.default_rng(0)
    crop[rng.random(crop.shape) < 0.2] = 0
    filled = crops.filled(crop)
    assert (filled > 0).mean() > 0.97
    # Only at the edge between the surfaces may a reading be that of the other one.
    wrong = (filled != whole) & (filled > 0)
    assert not np.delete(wrong, [9, 10], axis=1)[:, :8].any()
    hole = whole.copy()
    hole[5:15, 2:8] = 0
    assert (crops.filled(hole)[7:13, 4:6] == 0).all()
    np.testing.assert_array_equal(crops.filled(whole), whole)


def test_depth_near_a_distance_is_not_that_of_what_stands_before():
    crop = np.full((40, 40), 3000, np.uint16)
    crop[:, 12:28] = 2000
    crop[25:] = 1200  # a table
    assert crops.near_depth(crop, 2150.0, 500.0) == 2000
    assert crops.near_depth(crop, 1000.0, 500.0) == 1200
    assert crops.near_depth(np.zeros_like(crop), 1700.0, 500.0) == 1700


@pytest.mark.parametrize(
    ("up", "degrees"),
    [
        ((0.1, -1), 0),
        ((1, 0.1), 270),
        ((0, 1), 180),
        ((-0.9, 0), 90),
        ((0, 0.2), 0),  # seen from above
        ((np.nan, 1), 0),
    ],
)
def test_quarter_turns_set_people_upright(up, degrees):
    assert crops.quarter_turns_deg(np.array(up)) == degrees
    if np.linalg.norm(up) > 0.5:  # turned so, the neck is above the hips
        transform = crops.crop_transform(BOX, 46, angle_deg=degrees)
        ends = np.stack([[40.0, 50], np.add([40, 50], np.multiply(up, 10))])
        hips, neck = crops.transform_points(transform, ends)
        assert hips[1] - neck[1] > abs(hips[0] - neck[0])


def test_a_standing_box_by_hand():
    """A trunk of 20 pixels: legs reach 40 below the hips, and an outline around all."""
    joints_px = np.zeros((15, 2), np.float32)
    joints_px[:] = [50, 40]
    joints_px[0], joints_px[1] = [50, 22], [50, 30]  # head, neck
    joints_px[9], joints_px[10] = [46, 50], [54, 50]  # hips
    joints_px[11:] = [90, 95]  # legs, as nobody knows
    box = crops.standing_box(joints_px, BODY15.up, (200, 100))
    outline = 0.08 * (90 - 22)
    expected = [46 - outline, 22 - outline, 54 + outline, 90 + outline]
    np.testing.assert_allclose(box, expected, atol=1e-4)
    assert (
        crops.standing_box(joints_px, BODY15.up, (80, 100))[3] == 80
    )  # the picture ends
    turned = crops.standing_box(joints_px[:, ::-1], BODY15.up, (100, 200))
    np.testing.assert_allclose(turned, np.array(expected)[[1, 0, 3, 2]], atol=1e-4)
