"""What befalls depth images: what is lost is what was asked for, and no more."""

import numpy as np
import pytest

from cmbjax.data import damage, views
from cmbjax.depth import crops
from cmbjax.skeletons import BODY15, HAND21

DEPTH = np.full((80, 100), 3000, np.uint16)
DEPTH[20:60, 40:60] = 2000
BOX = np.array([40.0, 20, 60, 60], np.float32)
UNKNOWN = np.full((15, 2), np.nan, np.float32)


def test_single_readings_are_missing_at_the_rate_that_is_asked_for():
    rng = np.random.default_rng(0)
    lost = damage.without_single_readings(rng, np.full((300, 300), 7), 0.2) == 0
    assert 0.19 < lost.mean() < 0.21
    # Independently of one another: next to a missing one the rate is the same.
    assert 0.19 < lost[:, 1:][lost[:, :-1]].mean() < 0.21


def test_clouds_lose_readings_in_some_regions_and_not_in_others():
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        lost = damage.without_clouds_of_readings(rng, np.full((240, 320), 7)) == 0
        of_tiles = lost.reshape(8, 30, 8, 40).mean(axis=(1, 3))
        shares.append(of_tiles)
    shares = np.array(shares)
    assert shares.min() == 0 and 0.5 < shares.max() < 0.95
    assert 0.02 < shares.mean() < 0.6


def test_blobs_lose_readings_side_by_side():
    shares = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lost = damage.without_blobs(rng, np.full((240, 320), 7)) == 0
        shares.append(lost.mean())
        # Next to a missing one nearly all are missing: it is no salt.
        assert lost[:, 1:][lost[:, :-1]].mean() > 0.85
    assert 0.09 < min(shares) < 0.2 and 0.3 < max(shares) < 0.41


def test_edges_lose_readings_and_surfaces_keep_them():
    rng = np.random.default_rng(0)
    lost = np.mean([damage.without_edges(rng, DEPTH) == 0 for _ in range(40)], axis=0)
    assert (lost[20, 40:60] > 0.4).all() and (lost[30:50, 40] > 0.4).all()
    assert not lost[26:54, 46:54].any() and not lost[:14].any()
    flat = np.full((30, 30), 900, np.uint16)
    np.testing.assert_array_equal(damage.without_edges(rng, flat), flat)


def test_stereo_fattens_what_is_near_and_loses_what_is_beside_it():
    grown = []
    for seed in range(30):
        seen = damage.as_stereo_sees_it(np.random.default_rng(seed), DEPTH)
        person = (seen > 0) & (seen < 2400)
        assert person[20:60, 40:60].all()
        rows, columns = np.nonzero(person)
        grown.append(columns.max() - 59)
        # As far to the left as to the right, and beyond that at the left a shadow.
        assert columns.min() == 40 - grown[-1] and rows.min() == 20 - grown[-1]
        assert not seen[40, columns.min() - 1] and seen[40, columns.max() + 1] > 2600
        assert (np.abs(seen[40, 70:].astype(int) - 3000) < 150).all()
    assert set(grown) == {0, 1, 2, 3}
    hole = np.where(np.arange(100) < 50, 0, DEPTH).astype(np.uint16)
    assert not damage.as_stereo_sees_it(np.random.default_rng(0), hole)[:, :40].any()


def test_hair_is_lost_around_the_head_alone():
    rng = np.random.default_rng(0)
    lost = damage.without_hair(rng, DEPTH, np.array([50.0, 25.0]), 40.0) == 0
    rows, columns = np.nonzero(lost)
    assert lost[25, 50] and rows.max() < 32 and (abs(columns - 50) < 7).all()
    unknown = damage.without_hair(rng, DEPTH, np.full(2, np.nan), 40.0)
    np.testing.assert_array_equal(unknown, DEPTH)


def test_without_its_background_the_person_is_left():
    left = damage.without_background(DEPTH, BOX[None], np.array([2100.0]), 300.0)
    np.testing.assert_array_equal(left > 0, DEPTH == 2000)
    assert (left[left > 0] == 2000).all()


def test_a_cover_hides_the_lower_part_and_nothing_above():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        covered, cover = damage.covered_below(rng, DEPTH, BOX, 2000.0)
        assert 34 <= cover.top <= 52 and 1100 <= cover.distance <= 1850
        np.testing.assert_array_equal(covered[: cover.top], DEPTH[: cover.top])
        below = covered[cover.top :, cover.left : cover.right]
        assert (below < 2000).all() and (below > 0).all()


def test_a_view_that_is_cut_off_shows_a_box_up_to_the_cut():
    target = views.Target(box=BOX, distance=2000.0)
    lost = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        depth, seen = views.damaged(rng, DEPTH, target, UNKNOWN, BODY15, 1.0)
        assert np.abs(seen.box - BOX).astype(bool).sum() == 1
        (edge,) = np.flatnonzero(seen.box != BOX)
        lost.add(int(edge))
        beyond = [np.s_[:, : int(seen.box[0])], np.s_[: int(seen.box[1])]]
        beyond += [np.s_[:, int(seen.box[2]) :], np.s_[int(seen.box[3]) :]]
        inside = depth[20:60, 40:60]
        # A table may be put there afterwards, but nothing of the room.
        assert (depth[beyond[edge]] < 2000).all()
        assert inside.any()
    assert lost == {0, 1, 2, 3}


def test_whose_legs_are_covered_is_seen_as_far_down_as_the_trunk_tells():
    """A trunk of 10 pixels: legs reach to 60, where feet are at 54 (bent knees)."""
    joints_px = np.full((15, 2), [50.0, 30], np.float32)
    joints_px[0], joints_px[1] = [50, 24], [50, 30]  # head, neck
    joints_px[9], joints_px[10] = [46, 40], [54, 40]  # hips
    joints_px[11:] = [50, 54]
    target = views.Target(box=BOX, distance=2000.0)
    standing = crops.standing_box(joints_px, BODY15.up, DEPTH.shape)
    assert standing[3] == np.float32(60 + 0.08 * (60 - 24))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        _, seen = views.damaged(rng, DEPTH, target, joints_px, BODY15, 1.0)
        # Cut off at one side, and nothing else is known of the labels' box.
        assert (seen.box != standing).sum() <= 1
        assert (seen.box[:2] >= standing[:2]).all()
        assert (seen.box[2:] <= standing[2:]).all()


def test_a_hand_has_no_legs_to_cover(monkeypatch):
    def refuse(*_):
        raise AssertionError("a hand was covered")

    monkeypatch.setattr(damage, "covered_below", refuse)
    target = views.Target(box=BOX, distance=2000.0)
    joints_px = np.random.default_rng(0).uniform(40, 60, (21, 2)).astype(np.float32)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        views.damaged(rng, DEPTH, target, joints_px, HAND21, 1.0)
    with pytest.raises(AssertionError, match="was covered"):
        rng = np.random.default_rng(0)
        views.damaged(rng, DEPTH, target, UNKNOWN, BODY15, 1.0)


def test_nothing_befalls_a_frame_unless_it_is_asked_for():
    target = views.Target(box=BOX, distance=2000.0)
    rng = np.random.default_rng(0)
    depth, seen = views.damaged(rng, DEPTH, target, UNKNOWN, BODY15, 0.0)
    np.testing.assert_array_equal(depth, DEPTH)
    assert seen == target
