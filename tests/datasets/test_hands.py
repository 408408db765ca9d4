"""Hands of the data set hands: how fingers bend, what they hold, what is labelled."""

import dataclasses
import re
import shutil

import cv2
import numpy as np
import pytest

from cmbjax.predict.card import WEIGHTS, read_card
from cmbjax.skeletons import HAND20, HAND21
from datasets.hands import fingers, things
from datasets.hands.fingers import Fingers, Hand
from tests.datasets.test_crowd import needs_people


def hand(sign=1.0):
    """A flat hand in x (towards the thumb) and y (along), the palm towards z.

    Fingers are 2 cm apart and have phalanges of 4, 3 and 2 cm; with a sign of -1 it is
    the other hand.
    """
    steps = np.cumsum([0, 0.04, 0.03, 0.02])
    chains = np.zeros((5, 4, 3))
    for number in range(1, 5):
        chains[number, :, 0] = 0.02 * (2.5 - number)
        chains[number, :, 1] = 0.09 + steps
    chains[0, :, 0] = 0.03 + 0.7 * steps
    chains[0, :, 1] = 0.03 + 0.7 * steps
    chains[1:, 1:, 2] = 1e-4 * np.arange(1, 4)  # at rest they are bent a trifle
    chains[..., 0] *= sign
    return Hand.of(np.zeros(3), chains)


def straight(**changes):
    return Fingers(np.zeros((5, 3)), np.zeros(5), 0.0)._replace(**changes)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_hand_knows_its_axes(sign):
    mine = hand(sign)
    np.testing.assert_allclose(
        mine.along, [-0.01 * sign * -1, 0.09, 0] / np.hypot(0.01, 0.09), atol=1e-6
    )
    assert mine.radial @ (sign, 0, 0) > 0.9
    np.testing.assert_allclose(mine.palm, (0, 0, 1), atol=1e-9)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_right_angle_at_the_base_points_out_of_the_palm(sign):
    mine, flexion = hand(sign), np.zeros((5, 3))
    flexion[2, 0] = np.pi / 2
    joints = mine.joints(straight(flexion=flexion))
    base = mine.chains[2, 0]
    # Bent from the line of the wrist and the base, which leans by 0.11 radians.
    np.testing.assert_allclose(
        np.linalg.norm(np.diff(joints[2], axis=0), axis=1),
        [0.04, 0.03, 0.02],
        atol=1e-6,
    )
    assert joints[2, 3] - base == pytest.approx([0, 0, 0.09], abs=2e-3)
    index = joints[1, 3] - mine.chains[1, 0]
    assert index[2] == pytest.approx(0, abs=1e-3) and index[1] > 0.085


@pytest.mark.parametrize("sign", [1, -1])
def test_the_middle_joint_moves_what_lies_beyond_it_alone(sign):
    mine, flexion = hand(sign), np.zeros((5, 3))
    flexion[3, 1] = np.pi / 2
    joints = mine.joints(straight(flexion=flexion))[3]
    assert joints[1] == pytest.approx(mine.joints(straight())[3, 1], abs=1e-9)
    assert joints[3, 2] - joints[1, 2] == pytest.approx(0.05, abs=2e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_fingers_spread_towards_the_thumb_on_either_hand(sign):
    mine, aside = hand(sign), np.zeros(5)
    aside[1] = 0.2
    before, after = (mine.joints(f)[1, 3] for f in (straight(), straight(aside=aside)))
    assert (after - before) @ mine.radial == pytest.approx(0.09 * np.sin(0.2), abs=2e-3)


def test_a_hands_mirror_image_has_mirrored_joints():
    rng = np.random.default_rng(0)
    for _ in range(10):
        bent = fingers.limited(fingers.anyhow(rng))
        right, left = (hand(sign).joints(bent) for sign in (1, -1))
        np.testing.assert_allclose(left, right * (-1, 1, 1), atol=1e-9)


def test_poses_keep_within_the_joints_limits_and_out_of_one_another():
    mine = hand()
    for seed in range(60):
        pose = fingers.sample(np.random.default_rng(seed), mine)
        low, high = fingers.LIMITS.T
        assert (pose.flexion[1:] >= low - 1e-9).all()
        assert (pose.flexion[1:] <= high + 1e-9).all()
        assert not fingers.entangled(mine, pose).any()
    crossed = straight(aside=np.array([0, -0.15, 0.15, 0, 0]))
    expected = [False, True, True, False, False]
    assert fingers.entangled(mine, crossed).tolist() == expected
    fist = fingers.limited(fingers.bent(np.random.default_rng(0)))
    free = fingers.untangled(mine, fist)
    assert free is not None and not fingers.entangled(mine, free).any()
    assert np.median(free.flexion[1:, 1]) > np.radians(60)  # it still is a fist


@needs_people
def test_pinching_brings_two_tips_together():
    from datasets.hands.frames import Arms, sample_body
    from datasets.people.figure import Figure

    rng = np.random.default_rng(0)
    arms = Arms(Figure())
    body, gaps = sample_body(rng, arms), []
    mine = arms.hand(body, "left")
    for seed in range(30):
        pose = fingers.limited(fingers.pinching(np.random.default_rng(seed), mine))
        tips = mine.joints(pose)[:, 3]
        gaps.append(np.linalg.norm(tips[1:] - tips[0], axis=1).min())
    # Half are to touch, and the others to be up to 6 cm apart.
    assert np.mean(np.array(gaps) < 0.013) > 0.3 and np.max(gaps) < 0.075


def test_distances_to_things_are_those_of_geometry():
    turn, centre = np.eye(3), np.array([0.0, 0, 1])
    points = np.array([[0.0, 0, 1], [3, 0, 1], [0, 0, 4], [3, 4, 1]])
    ball = things.Thing("ball", np.full(3, 1.0), centre, turn)
    assert ball.distance(points).tolist() == [-1, 2, 2, 4]
    rod = things.Thing("rod", np.array([1.0, 1, 2]), centre, turn)
    assert rod.distance(points).tolist() == [-1, 2, 1, 4]
    block = things.Thing("block", np.array([1.0, 2, 3]), centre, turn)
    np.testing.assert_allclose(block.distance(points), [-1, 2, 0, 2 * np.sqrt(2)])
    sideways = block._replace(rotation=np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(sideways.distance(points[1:2]), [1])


def test_fingers_close_until_they_touch_what_they_hold():
    mine = hand()
    rod = things.Thing(
        "rod",
        np.array([0.02, 0.02, 0.1]),
        np.array([0.0, 0.12, 0.035]),
        np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
    )
    closed = fingers.closed_around(np.random.default_rng(1), mine, rod)
    points = fingers.points_of(mine.joints(closed))[1:]
    gaps = rod.distance(points.reshape(-1, 3)).reshape(points.shape[:-1])
    # A step closes by a few millimetres: no deeper than that is a bone.
    touching = gaps.min(axis=(1, 2))
    assert (touching > -0.006).all() and (touching < fingers.THICKNESS_M).sum() >= 3
    bent = closed.flexion[1:].sum(axis=1)
    assert (bent[touching < fingers.THICKNESS_M] > 1).all()


@needs_people
def test_frames_show_hands_where_their_labels_are():
    from datasets.hands import frames
    from datasets.people.figure import Figure

    figure = Figure()
    on_hand, seen_share, counts, gaps = [], [], [], []
    for example in frames.make_frames(figure, [], HAND21, 0, "test", 3, 24):
        png = np.frombuffer(example["depth"], np.uint8)
        depth = cv2.imdecode(png, cv2.IMREAD_UNCHANGED) / 1000
        counts.append(len(example["boxes"]))
        assert example["left"].shape == (counts[-1],)
        for number in range(counts[-1]):
            joints_m = example["joints_m"][number]
            joints_px = example["joints_px"][number]
            fx, fy, cx, cy = example["camera"]
            x, y, z = joints_m.T
            expected = np.stack([fx * x / z + cx, fy * y / z + cy], axis=1)
            np.testing.assert_allclose(joints_px, expected, rtol=1e-4, atol=1e-2)
            # A hand is as large as a hand is.
            lengths = np.linalg.norm(joints_m[9] - joints_m[0])
            assert 0.04 < lengths < 0.13
            seen = ~example["hidden"][number]
            seen_share.append(seen.mean())
            columns, rows = joints_px[seen].astype(int).T
            readings = depth[rows, columns]
            there = readings > 0
            gaps.extend(z[seen][there] - readings[there])
            on_hand.extend(np.abs(z[seen][there] - readings[there]) < 0.035)
    assert set(counts) >= {1, 2} and 0.3 < np.mean(seen_share) < 0.95
    assert np.mean(on_hand) > 0.9
    assert 0 < np.median(gaps) < 0.015  # bones lie behind the skin


@needs_people
def test_frames_depend_on_their_numbers_alone_and_astar_shows_one_empty_hand():
    from datasets.hands import frames
    from datasets.people.figure import Figure

    figure = Figure()

    def made(person):
        return list(
            frames.make_frames(figure, [], HAND20, 0, "train", person, 3, astar=True)
        )

    first, again, other = made(0), made(0), made(1)
    for one, two in zip(first, again, strict=True):
        assert one["depth"] == two["depth"]
        np.testing.assert_array_equal(one["joints_m"], two["joints_m"])
    assert first[0]["depth"] != other[0]["depth"]
    for example in first + other:
        assert len(example["boxes"]) == 1
        png = np.frombuffer(example["depth"], np.uint8)
        assert cv2.imdecode(png, cv2.IMREAD_UNCHANGED).shape == (240, 320)
        assert example["joints_m"].shape == (1, 20, 3)


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """Where the first test that needs hands/tiny makes it."""
    return tmp_path_factory.mktemp("tfds")


@needs_people
def test_a_small_data_set_is_made_and_xu_and_chengs_forest_learns_from_it(
    tfds_dir, tmp_path
):
    import datasets
    import train_forest

    frames = datasets.load("hands/tiny", None, tfds_dir, split="train")
    assert frames.skeleton is HAND21 and frames.findable and frames.metric
    assert frames.depth_range == 200 and 30 < len(frames) < 80
    example = frames.source[0]
    assert example["joints_px"].shape == (21, 2) and example["box"].shape == (4,)
    config = train_forest.ForestConfig(
        dataset="hands/tiny",
        tfds_dir=tfds_dir,
        run_dir=tmp_path / "forest",
        model="xu_cheng",
        crop="label_box",
    )
    columns = train_forest.main(config)
    errors = columns["mean error mm"]
    assert errors["Full Hand"] < 150 and errors["Wrist"] > 0
    again = train_forest.main(config)  # the forest that is there
    assert again["mean error mm"]["Full Hand"] == errors["Full Hand"]


@needs_people
def test_whole_frames_are_measured_and_who_is_there_is_fitted(tfds_dir, tmp_path):
    from benchmarks.whole_frames import WholeFramesConfig, main

    folder = tmp_path / "network"
    shutil.copytree(WEIGHTS / "hands-96", folder)
    config = WholeFramesConfig(
        dataset="hands/tiny", tfds_dir=tfds_dir, network=str(folder)
    )
    result = main(config)
    assert result["frames"] == 40 and result["hands"] > 20
    numbers = [re.search(r"m \((\d+)\)$", name) for name in result]  # by distance
    assert sum(int(n[1]) for n in numbers if n) == result["hands"]
    assert result["found, %"] > 50 and result["false alarms a frame"] < 0.3
    assert result["median error mm, joints seen"] < 15
    assert result["within 2 cm, %, joints seen"] > result["within 2 cm, %, all"] > 50
    fitted = main(dataclasses.replace(config, split="validation", fit_presence=True))
    assert fitted["both"] >= max(fitted["area under ROC: score"], 0.8)
    assert list(read_card(folder).presence) == pytest.approx(
        fitted["coefficients"], abs=1e-3
    )
    with pytest.raises(ValueError, match="expected crowd or hands, whose frames"):
        WholeFramesConfig(dataset="mannequin")
    for wrong in ({"network": "hands-96"}, {"split": "validation"}):
        with pytest.raises(ValueError, match="--fit_presence writes into a card"):
            WholeFramesConfig(fit_presence=True, **wrong)
    with pytest.raises(ValueError, match="--step must be at least 1, got 0"):
        WholeFramesConfig(step=0)
