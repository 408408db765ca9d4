"""Features, splits and votes of the forests, by hand."""

import cv2
import numpy as np
import pytest

from cmbjax.camera import camera_to_pixels
from cmbjax.data.examples import decode_depth
from cmbjax.forests import parts, trees, votes, walks
from cmbjax.forests.bodies import Body, body_parts, cut_out, to_pixels
from cmbjax.skeletons import BODY15, HAND21
from datasets import schema
from tests.data.test_batches import make_frames

CAMERA = np.array([100.0, 100, 40, 30], np.float32)


def scene():
    """A plate 2 m away in columns 20 to 59, rows 10 to 49; its right half at 2.2 m."""
    depth_m = np.full((60, 80), trees.FAR_M, np.float32)
    depth_m[10:50, 20:60] = 2.0
    depth_m[10:50, 40:60] = 2.2
    return depth_m


def body():
    depth_m = scene()
    rows, columns = np.nonzero(depth_m < 5)
    pixels = np.stack([columns, rows], axis=1) + 0.5
    z = depth_m[rows, columns]
    rays = (pixels - CAMERA[2:]) / CAMERA[:2]
    points = np.column_stack([rays * z[:, None], z]).astype(np.float32)
    return Body(depth_m, pixels.astype(np.float32), points, CAMERA)


def test_depth_differences_by_hand():
    """At 2 m an offset of 40 pixel metres is 20 pixels."""
    offsets = np.array(
        [[40, 0, 0, 0], [-40, 0, 0, 0], [40, 0, -40, 0], [0, 200, 0, 0], [0, 0, 0, 0]],
        np.float32,
    )
    pixels, z = np.array([[30.5, 30.5], [55.5, 30.5]]), np.array([2.0, 2.2])
    found = trees.differences(scene(), pixels, z, offsets)
    # From column 30: 50 lies on the right half, 10 beside the plate, 130 rows down
    # outside of the picture. From column 55 at 2.2 m: 18.2 pixels to 73 and 37.
    expected = [
        [0.2, 8.0, 2.2 - 10, 8.0, 0],
        [7.8, 2.0 - 2.2, 8.0, 7.8, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_features_are_the_same_at_twice_the_distance():
    """Of a plate twice as far away and half as large in the picture."""
    near, far = np.full((2, 80, 80), trees.FAR_M, np.float32)
    near[20:60, 20:60] = 1.0
    far[30:50, 30:50] = 2.0
    offsets = trees.sample_offsets(np.random.default_rng(0), 200, 60.0)
    middle = np.array([[40.0, 40.0]])
    a = trees.differences(near, middle, np.array([1.0]), offsets)[0]
    b = trees.differences(far, middle, np.array([2.0]), offsets)[0]
    np.testing.assert_array_equal(a > 5, b > 5)  # which pixels leave the plate
    assert 0.2 < np.mean(a > 5) < 0.8
    assert (offsets[:100, 2:] == 0).all() and np.abs(offsets).max() <= 60


def test_features_reach_as_far_as_their_authors_have_it():
    """A hand's: half a hand of 20 cm, at ASTAR's focal length of 241 pixels."""
    assert parts.REACH == 129 and 100 <= walks.REACH <= 150
    assert votes.REACH / 241 == pytest.approx(0.1, abs=0.01)


def stump():
    """Right where the depth 20 pixels to the right, at 2 m, is farther by 1 m."""
    return trees.Tree(
        offsets=np.array([[40, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32),
        thresholds=np.array([1.0, 0, 0], np.float32),
        children=np.array([[1, 2], [-1, -1], [-1, -1]], np.int32),
        values=np.array([[0, 0], [0.8, 0.2], [0.1, 0.9]], np.float32),
    )


def test_a_tree_is_climbed_and_trees_vote_by_hand():
    pixels, z = np.array([[25.5, 30.5], [55.5, 30.5]]), np.array([2.0, 2.2])
    assert trees.leaves(stump(), scene(), pixels, z).tolist() == [1, 2]
    other = stump()._replace(values=np.array([[0, 0], [0.4, 0.6], [0.5, 0.5]]))
    votes = parts.probabilities([stump(), other], scene(), pixels, z)
    np.testing.assert_allclose(votes, [[0.6, 0.4], [0.3, 0.7]])


def test_climbing_agrees_with_scikit_learn():
    from sklearn.tree import DecisionTreeClassifier

    rng = np.random.default_rng(0)
    depth_m = rng.uniform(1, 4, (60, 80)).astype(np.float32)
    pixels = rng.uniform(0, 60, (400, 2))
    z = rng.uniform(1, 3, 400)
    offsets = trees.sample_offsets(rng, 50, 40.0)
    features = trees.differences(depth_m, pixels, z, offsets).astype(np.float32)
    labels = (features[:, 3] > 0.2).astype(int) + (features[:, 7] > 0)
    grown = DecisionTreeClassifier(max_depth=6, random_state=0).fit(features, labels)
    tree = trees.as_arrays(grown.tree_, offsets, grown.tree_.value[:, 0])
    ends = trees.leaves(tree, depth_m, pixels, z)
    np.testing.assert_array_equal(ends, grown.apply(features))
    (again,) = trees.loaded(trees.stored([tree], "a") | trees.stored([], "b"), "a")
    np.testing.assert_array_equal(trees.leaves(again, depth_m, pixels, z), ends)
    climber = trees.Climber(tree)
    points = np.column_stack([pixels, z]).tolist()
    one_by_one = [climber.leaf(depth_m, *point) for point in points]
    np.testing.assert_array_equal(one_by_one, ends)


def test_mean_shift_finds_the_densest_place_by_hand():
    """Two clusters; of the second joint, pixels at 3 m weigh 9 to 4 at 2 m."""
    near = np.array([0.0, 0, 2]) + 0.01 * np.eye(3)
    far = np.array([0.5, 0, 3]) + 0.01 * np.eye(3)
    points = np.concatenate([near, far]).astype(np.float32)
    part = np.array([[0.9, 0.5]] * 3 + [[0.1, 0.5]] * 3)
    modes, heights = parts.modes_of(points, part)
    np.testing.assert_allclose(modes[0], near.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(modes[1], far.mean(axis=0), atol=1e-4)
    assert heights[1] / heights[0] == pytest.approx(9 * 0.5 / (4 * 0.9), rel=0.02)


def test_a_walk_ends_where_its_tree_points():
    """Every leaf points right: 10 steps of 5 cm."""
    values = np.zeros((3, walks.CLUSTERS, 4), np.float32)
    values[:, 0] = [1, 0, 0, 1]
    climber, start = trees.Climber(stump()), np.array([-0.2, 0, 2])
    rng = np.random.default_rng(0)
    places = walks.walk(climber, values, body(), start, 10, rng)
    np.testing.assert_allclose(places[:, 0], -0.2 + 0.05 * np.arange(1, 11), atol=1e-6)
    np.testing.assert_allclose(places[:, 1:], [[0, 2]] * 10)


def test_a_walk_takes_directions_as_often_as_its_tree_met_them():
    values = np.zeros((3, walks.CLUSTERS, 4), np.float32)
    values[:, :2] = [[0, 1, 0, 0.25], [0, -1, 0, 0.75]]
    climber, rng = trees.Climber(stump()), np.random.default_rng(0)
    places = walks.walk(climber, values, body(), np.array([0.0, 0, 2]), 2000, rng)
    steps = np.diff(places[:, 1]) / walks.STEP_M
    assert set(steps.round(6)) == {1.0, -1.0}
    assert (steps > 0).mean() == pytest.approx(0.25, abs=0.03)


def test_directions_of_a_leaf_are_clustered_by_hand():
    directions = np.array([[1.0, 0, 0]] * 6 + [[0, 0, -1]] * 2)
    found = walks.clusters(np.random.default_rng(0), directions)
    share = {tuple(np.round(row[:3], 6)): 0.0 for row in found}
    for row in found:
        share[tuple(np.round(row[:3], 6))] += row[3]
    assert share[(1, 0, 0)] == pytest.approx(0.75)
    assert share[(0, 0, -1)] == pytest.approx(0.25)


def test_walks_go_from_parents_to_children():
    order = list(walks.in_order(BODY15))
    assert order[0] == (8, -1) and sorted(joint for joint, _ in order) == list(
        range(15)
    )
    for number, (_, parent) in enumerate(order[1:], start=1):
        assert parent in [joint for joint, _ in order[:number]]


def frames_of(*source, **changes):
    return make_frames(source, **changes)


def hands(*source):
    return frames_of(*source, skeleton=HAND21, depth_range=200.0)


def example(shift=0.0, parts_image=None):
    """A figure of a trunk and a head, both boards 2 m away, moved to the right."""
    depth = np.full((120, 160), 4000, np.uint16)
    joints_m = np.full((15, 3), 2.05, np.float32)
    x = [0, 0, -0.2, 0.2, -0.3, 0.3, -0.3, 0.3, 0, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1]
    y = [-0.5, -0.3, -0.28, -0.28, 0, 0, 0.2, 0.2, 0, 0.2, 0.2, 0.4, 0.4, 0.55, 0.55]
    joints_m[:, 0], joints_m[:, 1] = np.add(x, shift), y
    camera = np.array([200.0, 200, 80, 60], np.float32)
    joints_px = camera_to_pixels(joints_m, camera)
    for u, v in joints_px.astype(int):
        depth[max(0, v - 5) : v + 6, max(0, u - 5) : u + 6] = 2000
    fields = {
        "depth": schema.encode_png(depth),
        "joints_px": joints_px,
        "joints_m": joints_m,
        "visible": np.ones(15, bool),
        "camera": camera,
        "frame": f"f{shift:+.2f}",
        "subject": "",
    }
    return fields if parts_image is None else fields | {"parts": parts_image}


def test_the_body_is_cut_out_and_its_parts_are_the_nearest_joints_or_the_labels():
    found = cut_out(example(), frames_of(), labelled=True)
    assert (found.depth_m[found.depth_m < 5] == 2).all()
    part = body_parts(found, example())
    at = {name: i for i, name in enumerate(BODY15.joints)}
    pixels = to_pixels(example()["joints_m"], found.camera)
    for name in ("head", "left_foot", "right_hand"):
        here = np.abs(found.pixels - pixels[at[name]]).max(axis=1) < 2
        assert here.any() and (part[here] == at[name]).all()
    labels = np.zeros((120, 160), np.uint8)
    labels[:60] = 1 + at["torso"]
    of_labels = body_parts(found, example(parts_image=schema.encode_png(labels)))
    above = found.pixels[:, 1] < 60
    assert (of_labels[above] == at["torso"]).all()
    np.testing.assert_array_equal(of_labels[~above], part[~above])
    cut_off = schema.encode_png(labels)[:-20]
    with pytest.raises(ValueError, match="frame .*: its parts are no whole PNG"):
        body_parts(found, example(parts_image=cut_off))


@pytest.mark.parametrize("forest", [parts, walks])
def test_forests_learn_where_joints_are(forest):
    """Where the figure is differs from frame to frame; 5 cm behind its surface."""
    shifts = np.linspace(-0.3, 0.3, 40)
    frames = [example(shift) for shift in shifts]
    options = {"starts_a_frame": 60} if forest is walks else {}
    grown = forest.grow(frames_of(*frames[::2]), seed=0, num_features=200, **options)
    errors = []
    for frame in frames[1::4]:
        joints_m, scores = grown.predict(cut_out(frame, frames_of(), labelled=True))
        assert joints_m.shape == (15, 3) and np.isfinite(scores).all()
        errors.append(np.linalg.norm(joints_m - frame["joints_m"], axis=1))
    assert np.median(errors) < 0.05
    if forest is walks:  # drawn alike whenever the body is seen, but by the seed
        body = cut_out(frame, frames_of(), labelled=True)
        again = walks.WalkingTrees.of(grown.arrays, BODY15)
        other = walks.WalkingTrees(grown.grown, BODY15, seed=1)
        np.testing.assert_array_equal(again.predict(body)[0], joints_m)
        assert (other.predict(body)[0] != joints_m).any()
    with pytest.raises(ValueError, match="no frame shows people"):
        bare = example() | {"visible": np.zeros(15, bool)}
        forest.grow(frames_of(bare), seed=0)


def test_a_body_reaches_as_far_as_networks_see_of_it():
    """From above: 1.2 m from a label's depth is beyond a body, but not 2 m."""
    tall = example()
    depth = decode_depth(tall)
    depth[70:74, 75:85] = 3250
    tall["depth"] = schema.encode_png(depth)
    for depth_range, deepest in ((1000.0, 2.0), (2000.0, 3.25)):
        frames = frames_of(depth_range=depth_range)
        found = cut_out(tall, frames, labelled=True)
        assert found.points_m[:, 2].max() == pytest.approx(deepest)
    assert frames_of(findable=False).crop == "label_box"
    assert frames_of().crop == "person"


def test_nobody_is_no_body(monkeypatch):
    from cmbjax.forests import bodies

    monkeypatch.setattr(bodies, "found_target", lambda *_, **__: None)
    assert cut_out(example(), frames_of(), labelled=False) is None


def test_offsets_turn_clockwise_on_the_screen():
    """Upwards becomes to the right; two quarter turns are a half."""
    up = np.array([[0.0, -40, 10, 0]], np.float32)
    quarter = votes.turned_pixels(up, np.pi / 2)
    np.testing.assert_allclose(quarter, [[40, 0, 0, 10]], atol=1e-5)
    half = votes.turned_pixels(quarter, np.pi / 2)
    np.testing.assert_allclose(half, -up, atol=1e-5)
    metres = votes.turned_offsets(np.array([[0.0, -0.1, 0.3]]), np.pi / 2)
    np.testing.assert_allclose(metres, [[0.1, 0, 0.3]], atol=1e-9)


def test_votes_are_counted_where_they_are_densest_by_hand():
    """Seven votes near 0 and three 20 cm away: the mode is not the mean."""
    ballots = np.zeros((10, 1, 3))
    ballots[:7, 0, 0] = 0.002 * np.arange(-3, 4)
    ballots[7:, 0, 0] = 0.2
    mode, share = votes.modes_of(ballots)
    np.testing.assert_allclose(mode, [[0, 0, 0]], atol=1e-4)
    near = np.exp(-((0.002 * np.arange(-3, 4)) ** 2) / votes.BANDWIDTH_M**2)
    assert share[0] == pytest.approx(near.sum() / 10, abs=1e-3)


def turned_hand(angle, grip=0.0):
    """A flat hand 0.5 m away that points so many radians clockwise from upwards."""
    joints_m = np.zeros((HAND21.num_joints, 3))
    for finger in range(5):
        x = 0.015 * (finger - 2)
        for joint in range(4):
            number = 1 + 4 * finger + joint
            joints_m[number, :2] = x, -0.06 - (0.03 - grip) * joint
    joints_m[:, 2] = 0.508
    cos, sin = np.cos(angle), np.sin(angle)
    joints_m[:, :2] = joints_m[:, :2] @ np.array([[cos, sin], [-sin, cos]])
    camera = np.array([300.0, 300, 80, 80], np.float32)
    depth = np.full((160, 160), 900, np.uint16)
    for joint, parent in enumerate(HAND21.parents):
        ends = camera_to_pixels(joints_m[[joint, max(parent, 0)]], camera)
        a, b = (tuple(np.rint(16 * (end - 0.5)).astype(int).tolist()) for end in ends)
        cv2.line(depth, a, b, 500, 7, shift=4)
    return {
        "depth": schema.encode_png(depth),
        "joints_px": camera_to_pixels(joints_m, camera).astype(np.float32),
        "joints_m": joints_m.astype(np.float32),
        "visible": np.ones(HAND21.num_joints, bool),
        "camera": camera,
        "frame": f"{angle:.2f}",
        "subject": "",
    }


def test_pixels_vote_for_hands_that_point_anywhere():
    rng = np.random.default_rng(0)
    draw = [(rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.015)) for _ in range(90)]
    frames = [turned_hand(*each) for each in draw]
    grown = votes.grow(hands(*frames[:70]), seed=0, num_features=200)
    assert 0.003 < grown.thick_m < 0.02
    reached = np.abs(np.concatenate([t.offsets for t in grown.ways + grown.votes]))
    assert 0.9 * votes.REACH < reached.max() <= votes.REACH
    off, errors = [], []
    for frame, (angle, _) in zip(frames[70:], draw[70:], strict=True):
        body = cut_out(frame, hands(), labelled=True)
        found = grown.angle(body, body.pixels, body.points_m)
        off.append(abs((found - angle + np.pi) % (2 * np.pi) - np.pi))
        joints_m, _ = grown.predict(body)
        errors.append(np.linalg.norm(joints_m - frame["joints_m"], axis=1).mean())
    assert np.median(off) < 0.2 and np.median(errors) < 0.012
    again = votes.VotingForest.of(grown.arrays, HAND21)
    np.testing.assert_array_equal(again.predict(body)[0], joints_m)
    # The true pose fits better than one that is moved aside, or before the surface.
    truth = frame["joints_m"].astype(float)
    fits = grown.misfit(body, body.points_m, truth)
    assert fits < grown.misfit(body, body.points_m, truth + (0.02, 0, 0))
    assert fits < grown.misfit(body, body.points_m, truth - (0, 0, 0.03))
    with pytest.raises(ValueError, match="no frame shows hands"):
        votes.grow(hands(frame | {"visible": np.zeros(21, bool)}), seed=0)
