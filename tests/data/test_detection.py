"""Views of whole frames: labels follow the picture."""

import numpy as np
import pytest

from cmbjax.data import detection
from cmbjax.depth import detector


def frame():
    """A person of 20x40 px at 2 m in a frame of 100x60 at 4 m, head above the hips."""
    depth = np.full((60, 100), 4000, np.uint16)
    depth[10:50, 30:50] = 2000
    return detection.Frame(
        depth,
        np.array([[30.0, 10, 50, 50]], np.float32),
        np.array([[28.0, 8, 52, 54]], np.float32),
        np.array([2000.0], np.float32),
        np.array([[0.0, -1.0]], np.float32),
        np.array([[40.0, 15.0]], np.float32),
        np.ones(1, bool),
    )


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_boxes_heads_and_directions_turn_with_the_picture(quarters, flip):
    turned = detection.turned(frame(), quarters, flip=flip)
    x0, y0, x1, y1 = turned.boxes[0].astype(int)
    expected = np.zeros(turned.depth.shape, bool)
    expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(turned.depth == 2000, expected)
    # The body's box is 2 px further out, and 4 at the feet: away from the head.
    rim = np.abs(turned.body_boxes - turned.boxes)[0]
    feet = [(3, 2, 1, 0), (3, 0, 1, 2)][flip][quarters]
    assert rim.tolist() == [4 if side == feet else 2 for side in range(4)]
    # From the middle of the box to the head is upwards in the frame as it was.
    middle = (turned.boxes[0, :2] + turned.boxes[0, 2:]) / 2
    np.testing.assert_allclose(turned.heads[0] - middle, 15 * turned.ups[0], atol=1e-5)


def test_a_window_cuts_boxes_off_and_drops_whom_it_hardly_shows():
    part = detection.windowed(frame(), (40, 0, 100, 60))
    np.testing.assert_array_equal(part.boxes, [[0, 10, 10, 50]])
    np.testing.assert_array_equal(part.heads, [[0, 15]])
    np.testing.assert_array_equal(part.body_boxes, [[0, 8, 12, 54]])
    assert part.depth.shape == (60, 60) and part.clear.all()
    # Of 3 columns in 20 somebody may be found or not; of none, nobody is there.
    assert not detection.windowed(frame(), (47, 0, 100, 60)).clear.any()
    assert not len(detection.windowed(frame(), (50, 0, 100, 60)).boxes)


def test_what_hides_a_side_of_a_person_ends_the_box():
    """A table most often, a door at the left or right, seldom something above."""
    edges = []
    for seed in range(200):
        hidden = detection.hidden(np.random.default_rng(seed), frame())
        (edge,) = np.flatnonzero(hidden.boxes[0] != frame().boxes[0])
        edges.append(edge)
        x0, y0, x1, y1 = (int(v) for v in hidden.boxes[0].round())
        left = (x1 - x0) * (y1 - y0) / (20 * 40)
        assert 0.3 < left <= 0.85
        assert (hidden.depth[y0:y1, x0:x1] == 2000).all()
        covered = np.zeros((60, 100), bool)
        covered[10:50, 30:50] = True
        covered[y0:y1, x0:x1] = False
        assert (hidden.depth[covered] < 2000).mean() > 0.7  # a leg may show beside it
        np.testing.assert_array_equal(hidden.ups, frame().ups)
        np.testing.assert_array_equal(hidden.heads, frame().heads)
    left, top, right, bottom = np.bincount(edges, minlength=4)
    assert bottom > left + right > 40 and 0 < top < min(left, right)


def test_without_a_unit_near_and_far_keep_their_order_or_turn_it():
    orders = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        raw, raws = detection.without_unit(rng, frame().depth, frame().depths)
        person, wall = int(raw[20, 40]), int(raw[5, 5])
        assert abs(raws[0] - person) <= 1 and 1 <= min(person, wall)
        orders.add(person < wall)
    assert orders == {True, False}


def test_targets_say_what_the_detector_reads():
    rng = np.random.default_rng(3)
    compared = 0
    for _ in range(40):
        image, targets = detection.training_image(rng, frame())
        assert image.shape == (detector.SIDE, detector.SIDE, 3)
        assert all(np.isfinite(values).all() for values in targets.values())
        maps = np.zeros(
            (detection.CELLS, detection.CELLS, detector.CHANNELS), np.float32
        )
        maps[..., detector.CENTRE] = np.where(targets["centre"] >= 1, 5, -9)
        maps[..., 1:] = targets["values"]
        shown = detector.Sight(image, 1, -1.0, 2.0)
        for person in detector.decode(maps, shown, (detector.SIDE,) * 2, 0.5):
            x0, y0, x1, y1 = np.rint(person.box).astype(int)
            inside = image[y0:y1, x0:x1]
            seen = inside[..., 1] > 0
            middle = np.median(inside[seen][:, 0]) if seen.any() else np.nan
            assert seen.sum() < 20 or abs(middle - person.depth) < 0.5
            compared += seen.sum() >= 20
    assert compared > 25


def test_nothing_is_put_before_hands():
    """Their lower part is not hidden as a person's legs are: nothing is nearer."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        image, targets = detection.training_image(rng, frame(), hands=True)
        metres = image[..., 2][image[..., 1] > 0]
        assert targets["centre"].shape == (detection.CELLS, detection.CELLS)
        if metres.max() > 0:  # in metres, 4 of which are 1
            assert metres.min() > 0.44


def test_each_guess_finds_one_person_and_who_overlaps_nobody_is_a_false_alarm():
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    people = np.array([0, 1])  # of the third hardly anything is seen

    def matched(*guesses):
        return detection.matched([np.array(g, float) for g in guesses], boxes, people)

    assert matched() == ([None, None], 0)
    # Of two guesses at the first person the better one; the other is no alarm.
    assert matched((0, 0, 10, 9), (0, 0, 10, 10)) == ([1, None], 0)
    # 4 of 10 are too little to find, and too much for an alarm; 2 of 10 are one.
    assert matched((0, 0, 10, 4), (20, 0, 30, 2)) == ([None, None], 1)
    assert matched((40, 0, 50, 10)) == ([None, None], 0)  # it may be found
    nobody = detection.matched([boxes[0]], np.zeros((0, 4)), np.zeros(0, int))
    assert nobody == ([], 1)


def test_what_a_person_is_like():
    boxes = np.array([[5, 5, 20, 40], [40, 5, 64, 47]], np.float32)
    frame = detection.Frame(
        np.zeros((48, 64), np.uint16),
        boxes,
        boxes,
        np.array([1400, 3600], np.float32),
        np.array([[0, -1], [0.3, 0.1]], np.float32),
        np.zeros((2, 2), np.float32),
        np.ones(2, bool),
    )
    assert detection.kinds_of(frame, 0, "people") == [
        "all",
        "nearer than 1.5 m",
        "one of two",
        "whole or hidden",
        "upright",
    ]
    cut = ["all", "beyond 3.5 m", "one of two", "cut off by the picture"]
    assert detection.kinds_of(frame, 1, "people") == [*cut, "along the trunk"]
    alone = frame.only(np.array([True, False]))
    assert detection.kinds_of(alone, 0, "hands")[1:3] == ["beyond 0.8 m", "alone"]
