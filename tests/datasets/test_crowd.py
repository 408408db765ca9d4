"""Frames of the data set crowd: who is in them, and what is said of them."""

import importlib.util

import cv2
import numpy as np
import pytest

from datasets.crowd import furniture
from datasets.simulation import solids

HAS_PEOPLE = all(importlib.util.find_spec(name) for name in ("anny", "torch"))
needs_people = pytest.mark.skipif(
    not HAS_PEOPLE, reason="requirements-people.txt is not installed"
)


def area(solid):
    """The area of a surface, whichever way its triangles turn."""
    a, b, c = (solid.vertices[solid.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


def test_solids_have_the_areas_of_geometry():
    assert area(solids.box((0, 0, 0), (1, 2, 3))) == pytest.approx(22)
    n = solids.SIDES
    cap = n / 2 * np.sin(2 * np.pi / n)
    side = 2 * n * np.sin(np.pi / n)
    tube = solids.tube((0, 0, 0), (0, 0, 2), (1, 1))
    assert area(tube) == pytest.approx(2 * cap + 2 * side, rel=1e-6)
    ball = solids.ellipsoid((1, 2, 3), (1, 1, 1))
    assert area(ball) == pytest.approx(4 * np.pi, rel=0.08)
    sheet = solids.sheet(np.zeros((3, 4)), (2, 5))
    assert area(sheet) == pytest.approx(10)


def test_joined_solids_keep_their_triangles():
    first, second = solids.box((0, 0, 0), (1, 1, 1)), solids.box((2, 0, 0), (3, 1, 1))
    both = solids.joined([first, second])
    assert area(both) == pytest.approx(12)
    assert both.vertices.max() == 3 and len(both.faces) == 24
    turned = first.turned(np.pi / 2).moved((5, 0, 0))
    np.testing.assert_allclose(turned.vertices.min(axis=0), (4, 0, 0), atol=1e-12)


@pytest.mark.parametrize("kind", dict.fromkeys(furniture.KINDS))
def test_furniture_stands_on_the_floor_and_fits_a_room(kind):
    for seed in range(15):
        thing = kind(np.random.default_rng(seed))
        low, high = thing.vertices.min(axis=0), thing.vertices.max(axis=0)
        assert -0.25 <= low[2] <= 0.31 and high[2] < 3.2
        assert np.abs([low[:2], high[:2]]).max() < 2
        assert thing.faces.min() == 0 and thing.faces.max() < len(thing.vertices)


@needs_people
def test_boxes_hold_what_is_seen_of_each_person():
    from cmbjax.skeletons import BODY15
    from datasets.crowd import frames
    from datasets.people.figure import Figure

    rng = np.random.default_rng(0)
    pool = frames.sample_people(rng, Figure(), [])
    assert len(pool) == frames.POSES
    counts, hidden, behind = [], [], []
    for number in range(30):
        example = frames.make_frame(
            rng, pool, BODY15, f"frame_{number}", frames.ANYWHERE
        )
        png = np.frombuffer(example["depth"], np.uint8)
        depth = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        counts.append(len(example["boxes"]))
        for person in range(counts[-1]):
            x0, y0, x1, y1 = example["boxes"][person].astype(int)
            assert 0 <= x0 < x1 <= depth.shape[1] and 0 <= y0 < y1 <= depth.shape[0]
            seen = ~example["hidden"][person]
            assert not (seen & ~example["inside"][person]).any()
            joints = example["joints_px"][person][seen]
            # A joint that is seen lies on the person, hence in the box.
            assert (joints >= (x0, y0)).all() and (joints <= (x1, y1)).all()
            hidden += (~seen).tolist()
            at = joints.astype(int)
            surface = depth[at[:, 1], at[:, 0]] / 1000
            z = example["joints_m"][person][seen, 2]
            behind += (z - surface)[surface > 0].tolist()
    # Joints lie some centimetres behind the surface that is seen there.
    assert 0.0 < np.median(behind) < 0.12
    assert np.mean(np.abs(behind) < 0.25) > 0.9
    assert {0, 1, 2} <= set(counts) and 0.2 < np.mean(hidden) < 0.9


@needs_people
def test_a_camera_above_sees_heads_before_feet():
    from cmbjax.skeletons import BODY15
    from datasets.crowd import frames
    from datasets.people.figure import Figure

    made = frames.make_frames(
        Figure(), [], BODY15, 0, "train", 0, count=25, mountings=frames.ABOVE
    )
    trunks, spans = [], []
    for example in made:
        z = example["joints_m"][..., 2]
        trunk = example["joints_m"][:, 1] - example["joints_m"][:, 9:11].mean(axis=1)
        trunks += (-trunk[:, 2] / np.linalg.norm(trunk, axis=1)).tolist()
        spans += (z[:, 13:].max(axis=1) - z[:, 0]).tolist()
    assert len(trunks) > 15
    # But for those who lie or bend, trunks are along the line of sight, heads up.
    assert np.median(trunks) > 0.7 and np.median(spans) > 1.0


@needs_people
def test_a_frame_of_many_has_five_people_or_more_but_for_whom_no_place_was_left():
    from cmbjax.skeletons import BODY15
    from datasets.crowd import frames
    from datasets.people.figure import Figure

    arguments = (Figure(), [], BODY15, 0, "train", 0)
    counts = [
        [len(e["boxes"]) for e in frames.make_frames(*arguments, count=8, odds=odds)]
        for odds in (frames.FEW, frames.MANY)
    ]
    assert max(counts[0]) <= 5 and max(counts[1]) > 6
    assert np.mean(counts[1]) > 2 * np.mean(counts[0])


@needs_people
def test_the_same_group_has_the_same_frames():
    from cmbjax.skeletons import BODY15
    from datasets.crowd.frames import make_frames
    from datasets.people.figure import Figure

    figure = Figure()

    def frames(group):
        made = make_frames(figure, [], BODY15, 0, "train", group, count=2)
        return [frame["depth"] for frame in made]

    assert frames(3) == frames(3) != frames(4)


def test_each_person_of_whom_enough_is_seen_is_an_example():
    from datasets.crowd.crowd import EachPerson

    joints_px = np.zeros((3, 15, 2), np.float32)
    joints_px[..., 0] = np.arange(15) * 4  # 0 to 56
    joints_px[..., 1] = 20
    joints_px[1, 12:] = np.nan  # behind the camera
    inside, hidden = np.ones((3, 15), bool), np.zeros((3, 15), bool)
    inside[1, 12:] = False
    hidden[2, 3:] = True  # three joints are left
    frame = {
        "depth": b"a PNG",
        "boxes": np.array([[2.0, 10, 40, 30], [0, 0, 60, 60], [0, 0, 9, 9]], "f4"),
        "depths_m": np.array([1.5, 2.5, 3.5], np.float32),
        "joints_px": joints_px,
        "joints_m": np.arange(3.0)[:, None, None] * np.ones((3, 15, 3)),
        "inside": inside,
        "hidden": hidden,
        "camera": np.ones(4, np.float32),
        "frame": b"test_00007_31",
    }
    nobody = {
        name: value[:0] if isinstance(value, np.ndarray) and name != "camera" else value
        for name, value in frame.items()
    }
    people = EachPerson([nobody, frame])
    assert [person["frame"] for person in people] == [
        "test_00007_31_0",
        "test_00007_31_1",
    ]
    first, second = people
    assert first["distance_m"] == 1.5 and second["distance_m"] == 2.5
    assert first["subject"] == "test_00007" and first["joints_m"][0, 0] == 0
    assert second["joints_m"][0, 0] == 1 and second["depth"] == b"a PNG"
    # Joints from 0 to 56 in row 20, and the rim of 8 % of that around them.
    rim = 0.08 * 56
    np.testing.assert_allclose(first["box"], [-rim, 10, 56 + rim, 30], atol=1e-4)
    np.testing.assert_array_equal(second["labelled"], np.arange(15) < 12)
    np.testing.assert_array_equal(second["visible"], np.arange(15) < 12)
