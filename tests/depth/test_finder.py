import json
import pathlib

import cv2
import numpy as np
import pytest

from cmbjax.depth import finder

CAMERA = np.array([200.0, 200.0, 160.0, 120.0], np.float32)
REAL = pathlib.Path(__file__).parents[2] / "shared" / "real" / "itop_side_dev"


def make_room(wall=4.0, floor=1.0, shape=(240, 320)):
    """An empty room in millimetres: z = wall, and the floor 1 m below the camera."""
    v = np.arange(shape[0]) + 0.5 - CAMERA[3]
    with np.errstate(divide="ignore"):
        ground = np.where(v > 0, floor * CAMERA[1] / v, np.inf)
    return np.repeat(np.minimum(ground, wall)[:, None] * 1000, shape[1], axis=1)


def add_person(room, x=160, depth_mm=2500):
    """Puts head, trunk, arms and legs into a room; returns the box of their pixels.

    At 2.5 m a pixel is 12.5 mm and the floor lies 80 px below the centre, at row 200.
    The feet end there: the head's top, at row 62, is 1.73 m above the floor. A slope
    of 8 mm a column keeps the body from being a board; its median is depth_mm.
    """
    parts = [(62, 80, 8), (80, 130, 18), (84, 126, 26), (130, 200, 16)]
    mask = np.zeros(room.shape, bool)
    for top, bottom, half in parts:
        mask[top:bottom, max(x - half, 0) : x + half] = True
    mask[130:200, x - 2 : x + 2] = False  # between the legs
    columns = np.arange(room.shape[1])
    depth = depth_mm + 8.0 * np.abs(columns - x)  # a round body comes forward at x
    depth += depth_mm - np.median(np.broadcast_to(depth, room.shape)[mask])
    np.copyto(room, np.broadcast_to(depth, room.shape), where=mask)
    return [max(x - 26, 0), 62, min(x + 26, room.shape[1]), 200]


def find(room, camera=CAMERA):
    return finder.find_people(np.round(room).astype(np.uint16), camera)


def test_a_person_in_a_room_is_boxed_to_two_pixels():
    room = make_room()
    box = add_person(room, x=131)
    (person,) = find(room)
    np.testing.assert_allclose(person.box, box, atol=2)
    assert person.box.dtype == np.float32
    assert abs(person.depth_mm - 2500) <= 8  # one column of the round body
    assert person.mask[100, 131] and not person.mask[100, 200]
    assert person.mask.shape == room.shape


@pytest.mark.parametrize("gap_m", [0.4, 0.9])
def test_a_wall_close_behind_is_left_out(gap_m):
    room = make_room(wall=2.5 + 0.2 + gap_m)
    box = add_person(room)
    (person,) = find(room)
    np.testing.assert_allclose(person.box, box, atol=2)


def test_two_people_come_nearest_first():
    room = make_room(wall=5)
    far = add_person(room, x=230, depth_mm=2600)
    near = add_person(room, x=90, depth_mm=2400)
    first, second = find(room)
    np.testing.assert_allclose(first.box[[0, 1, 2]], near[:3], atol=2)
    np.testing.assert_allclose(second.box[[0, 1, 2]], far[:3], atol=2)
    assert first.depth_mm < second.depth_mm


@pytest.mark.parametrize("camera", [CAMERA, np.full(4, np.nan, np.float32), None])
def test_an_empty_room_holds_nobody(camera):
    assert find(make_room(), camera) == []


def test_furniture_is_nobody():
    room = make_room()
    room[120:200, 60:140] = np.minimum(room[120:200, 60:140], 2500)  # a flat cupboard
    room[150:200, 200:250] = 2500 + 5 * np.abs(np.arange(-25, 25))  # 0.6 m tall
    assert find(room) == []


@pytest.mark.parametrize("shape", [(240, 320), (100, 100), (1, 1), (3, 700)])
def test_a_frame_without_a_reading_holds_nobody(shape):
    assert find(np.zeros(shape)) == []


@pytest.mark.parametrize("shift", [-40, 17, 60])
def test_the_box_moves_with_the_scene(shift):
    rooms = make_room(), make_room()
    for room, x in zip(rooms, (160, 160 + shift), strict=True):
        add_person(room, x=x)
    (still,), (moved,) = find(rooms[0]), find(rooms[1])
    np.testing.assert_allclose(moved.box - still.box, [shift, 0, shift, 0], atol=1)


def test_a_person_cut_by_the_border_is_boxed_up_to_it():
    room = make_room()
    add_person(room, x=16)
    (person,) = find(room)
    np.testing.assert_allclose(person.box, [0, 62, 42, 200], atol=2)


def test_no_floor_in_view_is_no_obstacle():
    room = np.full((160, 320), 4000.0)
    add_person(room)
    (person,) = find(room)  # the rows below 160 are missing
    np.testing.assert_allclose(person.box, [134, 62, 186, 160], atol=2)


def test_holes_speckle_and_a_dead_stripe_do_not_move_the_box():
    random = np.random.default_rng(0)
    room = make_room()
    box = add_person(room)
    room += random.normal(0, 6, room.shape)
    room[random.random(room.shape) < 0.01] = 0
    room[:, :8] = 0
    speckle = random.random(room.shape) < 0.002
    room[speckle] = random.uniform(500, 4000, speckle.sum())
    (person,) = find(room)
    np.testing.assert_allclose(person.box, box, atol=3)


def test_a_forearm_towards_the_camera_belongs_to_the_person():
    room = make_room()
    box = add_person(room)
    room[86:96, 180:195] = 2100  # a hand 0.4 m in front of the shoulder, 9 px beyond
    (person,) = find(room)
    np.testing.assert_allclose(person.box, [box[0], box[1], 195, box[3]], atol=2)


def test_a_large_image_is_boxed_in_its_own_pixels():
    room = make_room()
    box = add_person(room)
    (person,) = find(room.repeat(2, axis=0).repeat(2, axis=1), 2 * CAMERA)
    np.testing.assert_allclose(person.box, 2 * np.array(box), atol=4)
    assert person.mask.shape == (480, 640)


def test_an_unknown_camera_is_taken_to_be_the_default():
    room = make_room()
    add_person(room)
    default = [1.07 * 240, 1.07 * 240, 160, 120]
    (expected,) = find(room, default)
    for camera in (None, np.full(4, np.nan)):
        (person,) = find(room, camera)
        np.testing.assert_array_equal(person.box, expected.box)


@pytest.mark.parametrize("background", [0, 255])
def test_raw_values_need_only_a_clean_background(background):
    raw = np.full((212, 256), background, np.uint8)
    raw[40:180, 100:140] = 90
    raw[50:60, 140:170] = 70  # an arm, nearer
    raw[5:7, 5:7] = 80  # speckle
    (person,) = finder.find_people(raw, metric=False)
    np.testing.assert_array_equal(person.box, [100, 40, 170, 180])
    assert person.depth_mm == 90
    assert finder.find_people(np.full_like(raw, background), metric=False) == []


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (
            np.zeros((4, 5), np.float32),
            r"\[height, width\] uint16, got float32 \(4, 5\)",
        ),
        (np.zeros((4, 5), np.uint8), r"uint16, got uint8"),
        (np.zeros((4, 5, 1), np.uint16), r"got uint16 \(4, 5, 1\)"),
        (np.zeros((0, 5), np.uint16), r"got uint16 \(0, 5\)"),
    ],
)
def test_other_images_are_refused(depth, message):
    with pytest.raises(ValueError, match=message):
        finder.find_people(depth)


def test_a_camera_has_four_numbers():
    with pytest.raises(ValueError, match=r"\[fx, fy, cx, cy\], got shape \(3,\)"):
        finder.find_people(np.zeros((4, 5), np.uint16), [1, 2, 3])


@pytest.mark.skipif(not REAL.exists(), reason="the real frames are not at hand")
def test_the_person_of_real_frames_is_found():
    labels = json.loads((REAL / "annotations.json").read_text())
    camera = [labels["info"]["camera"][name] for name in ("fx", "fy", "cx", "cy")]
    overlaps, counts = [], []
    for image, label in zip(labels["images"], labels["annotations"], strict=True):
        depth_mm = cv2.imread(str(REAL / image["file_name"]), cv2.IMREAD_UNCHANGED)
        people = finder.find_people(depth_mm, camera)
        joints_px = np.reshape(label["keypoints"], (-1, 3))[:, :2]
        low, high = joints_px.min(0), joints_px.max(0)
        pad = 0.08 * (high - low)  # from the joints to the body's outline
        box = np.clip(np.concatenate([low - pad, high + pad]), 0, 100)
        overlaps.append(overlap(people[0].box, box) if people else 0.0)
        counts.append(len(people))
    assert np.mean(np.array(overlaps) >= 0.7) >= 0.95
    assert min(overlaps) >= 0.5
    assert np.mean(np.array(counts) == 1) >= 0.95


def overlap(one, other):
    shared = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(shared, 0))
    sizes = [np.prod(box[2:] - box[:2]) for box in (one, other)]
    return shared / (sum(sizes) - shared)
