"""What the detector is shown, and how its maps are read."""

import hashlib

import cv2
import jax
import numpy as np
import pytest

import train_detector
from cmbjax.depth import detector
from cmbjax.files import write_json
from cmbjax.models.detector import Detector
from datasets.mannequin.frames import make_frame

CELLS = detector.SIDE // detector.STRIDE


def maps_of(*people, cells=CELLS):
    """Maps that say: at a cell, with a score's logit, there is a box."""
    maps = np.zeros((cells, cells, detector.CHANNELS), np.float32)
    maps[..., detector.CENTRE] = -9
    for row, column, logit, reach, depth, up in people:
        logs = np.log(np.divide(reach, detector.UNIT))
        body = logs + np.log([1, 1, 1, 2])  # twice as far down
        maps[row, column] = [logit, *logs, *body, depth, *up]
    return maps


def sight(thinning=2, nearest=1000.0, span=2000.0):
    image = np.zeros((detector.SIDE, detector.SIDE, 3), np.float32)
    return detector.Sight(image, thinning, nearest, span)


def test_a_frame_is_thinned_out_and_scaled_by_what_is_in_it():
    depth = np.zeros((240, 320), np.uint16)
    depth[:120] = 1000
    depth[120:] = 3000
    depth[:, :2] = 0
    shown = detector.look(depth, metric=True)
    assert shown.thinning == 2 and (shown.nearest, shown.span) == (1000, 2000)
    # Inside: near, far, no reading; outside of the frame: nothing.
    places = [(10, 10), (70, 10), (10, 0), (150, 10)]
    values = [shown.image[place].tolist() for place in places]
    assert values == [[-1, 1, 0.25], [1, 1, 0.75], [0, 0, 0], [0, 0, 0]]
    raw = detector.look(depth, metric=False)
    np.testing.assert_array_equal(raw.image[..., :2], shown.image[..., :2])
    assert not raw.image[..., 2].any()


@pytest.mark.parametrize(
    ("shape", "thinning", "seen"),
    [
        ((120, 160), 1.0, (120, 160)),
        ((60, 100), 1.0, (60, 100)),
        ((168, 160), 1.05, (160, 153)),
        ((150, 200), 1.25, (120, 160)),
        ((212, 256), 2.0, (106, 128)),  # of K2HPD: evenly spaced pixels fill enough
        ((242, 322), 2.0125, (121, 160)),
        ((424, 512), 4.0, (106, 128)),
    ],
)
def test_whatever_its_size_a_frame_fills_most_of_what_the_network_sees(
    shape, thinning, seen
):
    depth = (1 + np.arange(np.prod(shape)) % 60_000).reshape(shape).astype(np.uint16)
    shown = detector.look(depth, metric=False)
    assert shown.thinning == pytest.approx(thinning)
    filled = np.flatnonzero(shown.image[0, :, 1]), np.flatnonzero(shown.image[:, 0, 1])
    assert (len(filled[1]), len(filled[0])) == seen
    assert shown.image[: seen[0], : seen[1], 1].all()
    # Pixels as far apart as the thinning says, the first one first.
    columns = (np.arange(seen[1]) * thinning).astype(int)
    relative = 2 * (depth[0, columns] - shown.nearest) / shown.span - 1
    np.testing.assert_allclose(
        shown.image[0, : seen[1], 0], np.clip(relative, -2, 2), atol=1e-5
    )


def test_far_values_are_no_readings_and_a_frame_without_any_is_empty():
    depth = np.full((50, 60), 2000, np.uint16)
    depth[:25] = 65535
    image = detector.look(depth, metric=True).image
    assert not image[:25].any() and image[25:50, :60, 1].all()
    assert not detector.look(np.zeros((50, 60), np.uint16), metric=True).image.any()


GAPS = {
    "rows": [np.s_[::2]],
    "columns": [np.s_[:, ::2]],
    "every fourth row": [np.s_[::4]],
    "all but one of four": [np.s_[::2], np.s_[:, 1::2]],  # spread over a larger grid
}


@pytest.mark.parametrize("gaps", GAPS.values(), ids=GAPS.keys())
@pytest.mark.parametrize("repeat", [1, 2])
def test_a_pixel_without_a_reading_is_seen_by_one_beside_it(gaps, repeat):
    rows = np.repeat(np.arange(1, 13), 20 * repeat).astype(np.uint16)
    depth = np.repeat(rows[:, None], 320 * repeat, axis=1)
    whole = detector.look(depth, metric=False)
    assert whole.thinning == 2 * repeat and whole.image[..., 1].sum() == 120 * 160
    for gap in gaps:
        depth[gap] = 0
    np.testing.assert_array_equal(detector.look(depth, metric=False).image, whole.image)


def test_of_a_square_with_one_reading_that_is_seen():
    """Wherever it lies; where most squares have one at their corner, that alone is."""
    depth = np.zeros((480, 640), np.uint16)
    depth[3::4, 1::4] = np.arange(120 * 160).reshape(120, 160) + 1
    image = detector.look(depth, metric=False).image
    spread = detector.look(depth[3::4, 1::4], metric=False).image
    np.testing.assert_array_equal(image, spread)
    depth = np.full((240, 320), 1000, np.uint16)
    depth[:, :100] = 0
    depth[::2, 100:120] = 0  # a tenth of the readings
    image = detector.look(depth, metric=True).image
    assert image[:120, 60:, 1].all() and not image[:, :60, 1].any()


def test_flecks_go_and_thin_things_before_a_wall_or_nothing_stay():
    depth = np.full((12, 20), 90, np.uint16)
    depth[:, 12:] = 0  # nothing is seen there
    depth[2:10, 2:5] = 50  # three pixels wide: an arm
    depth[2:10, 14:15] = 50  # one wide, before nothing
    depth[6, 6:9], depth[3, 10] = 8, 59
    depth[3, 8] = 61  # not far before the wall
    cleaned = detector.without_flecks(depth)
    expected = depth.copy()
    expected[6, 6:9] = expected[3, 10] = 0
    np.testing.assert_array_equal(cleaned, expected)


def test_maps_are_read_by_hand():
    # Cell (10, 20) is around the input's pixel (82, 42): of the frame (164, 84).
    maps = maps_of((10, 20, 2.0, (4, 8, 16, 32), 0.0, (0.0, -0.9)))
    (person,) = detector.decode(maps, sight(), (240, 320), 0.4)
    np.testing.assert_allclose(person.box, [156, 68, 196, 148], atol=1e-3)
    np.testing.assert_allclose(person.body_box, [156, 68, 196, 212], atol=1e-3)
    assert person.depth == 2000 and person.roll_deg == 0
    assert person.score == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_boxes_end_with_the_frame_and_weak_peaks_are_nobody():
    maps = maps_of((0, 0, 2.0, (30, 30, 30, 30), 0, (0, -1)))
    (person,) = detector.decode(maps, sight(), (240, 320), 0.4)
    np.testing.assert_allclose(person.box, [0, 0, 64, 64], atol=1e-3)
    assert not detector.decode(maps, sight(), (240, 320), 0.9)


def test_a_person_is_found_once_and_one_behind_another_twice():
    reach, up = (20, 40, 20, 40), (0, -1)
    same = maps_of((15, 15, 2, reach, 0, up), (15, 17, 1, reach, 0, up))
    assert len(detector.decode(same, sight(), (240, 320), 0.4)) == 1
    small = (4, 8, 4, 8)  # inside of the first box
    behind = maps_of((15, 15, 2, reach, 0, up), (17, 17, 1, small, 0.9, up))
    assert len(detector.decode(behind, sight(), (240, 320), 0.4)) == 2
    part = maps_of((15, 15, 2, reach, 0, up), (17, 17, 1, small, 0.0, up))
    assert len(detector.decode(part, sight(), (240, 320), 0.4)) == 1


def test_the_nearest_is_the_first_of_those_who_are_nearly_as_sure_as_the_surest():
    box, up = np.zeros(4, np.float32), np.zeros(2, np.float32)
    people = [
        detector.Person(box, box, 1000.0 + i, score, up)
        for i, score in enumerate((0.45, 0.7, 0.75))
    ]
    assert detector.nearest(people) == [people[1]]
    assert detector.nearest(people[:1]) == [people[0]]
    assert detector.nearest([]) == []


def test_what_is_said_of_a_mirrored_image_is_told_of_the_image():
    """Cell (10, 20) becomes (10, 19) of 40; left and right change places."""
    maps = maps_of((10, 20, 2.0, (4, 8, 16, 32), 0.5, (0.3, -0.9)))
    told = detector.mirrored(maps)
    expected = maps_of((10, 19, 2.0, (16, 8, 4, 32), 0.5, (-0.3, -0.9)))
    np.testing.assert_allclose(told[10, 19], expected[10, 19], atol=1e-6)
    np.testing.assert_array_equal(detector.mirrored(told), maps)


@pytest.mark.parametrize(
    ("up", "degrees"),
    [((0.1, -1), 0), ((1, 0.1), 270), ((0, 1), 180), ((-0.9, 0), 90), ((0, 0.2), 0)],
)
def test_quarter_turns_set_people_upright(up, degrees):
    box = np.zeros(4, np.float32)
    person = detector.Person(box, box, 1.0, 1.0, np.array(up, np.float32))
    assert person.roll_deg == degrees


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network whose weights are all alike, and its card."""
    network = Detector()
    image = np.zeros((1, detector.SIDE, detector.SIDE, 3), np.float32)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
    variables = jax.tree.map(lambda like: np.full(like.shape, 0.01, "f4"), shapes)
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    train_detector.write_onnx(path, variables)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(".json"), {"sha256": digest})
    return path


def test_a_frame_of_any_size_is_searched(weights, monkeypatch):
    """Somebody in the first cells of the picture, whose box would reach beyond it."""
    search = detector.Detector(weights)
    cells = search._run(np.zeros((detector.SIDE, detector.SIDE, 3), np.float32)).shape
    assert cells == (40, 40, detector.CHANNELS)
    maps = np.full(cells, -9.0, np.float32)
    maps[0, 0, detector.CENTRE] = 3
    maps[0, 0, detector.SIDES] = maps[0, 0, detector.BODY] = 4
    maps[0, 0, detector.UP] = 0, -1
    monkeypatch.setattr(search, "_run", lambda image: maps)
    for shape in ((240, 320), (100, 100), (640, 480), (7, 9)):
        (person,) = search(np.full(shape, 2000, np.uint16))
        np.testing.assert_array_equal(person.box, [0, 0, *shape[::-1]])


@pytest.mark.parametrize(
    "depth", [np.zeros((4, 5, 1), np.uint16), np.zeros((4, 5)), np.zeros((0, 5), "u2")]
)
def test_what_is_no_depth_image_is_refused(weights, depth):
    with pytest.raises(
        ValueError, match=r"depth must be \[height, width\] uint16, got"
    ):
        detector.Detector(weights)(depth)


def test_a_network_that_is_absent_or_damaged_is_refused(weights, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.onnx: no such file"):
        detector.Detector(tmp_path / "absent.onnx")
    changed = tmp_path / "changed.onnx"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 4
    changed.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="changed.json: no such file"):
        detector.Detector(changed)
    card = weights.with_suffix(".json").read_text()
    changed.with_suffix(".json").write_text(card)
    with pytest.raises(ValueError, match="changed.onnx is damaged"):
        detector.Detector(changed)


def room():
    """A floor and a wall 3.5 m away, without anybody, as a camera 1.2 m up sees it."""
    y = (np.arange(240) + 0.5 - 120) / 285
    with np.errstate(divide="ignore"):
        floor = np.where(y > 0, 1.2 / y, np.inf)
    rows = np.minimum(floor, 3.5)
    return np.repeat((1000 * rows).astype(np.uint16)[:, None], 320, axis=1)


@pytest.mark.parametrize("turns", range(4))
def test_a_person_is_found_however_the_camera_is_turned(turns):
    frame = make_frame(0, "test", 0)
    depth, inside = (np.rot90(x, turns) for x in (frame.depth_mm, frame.parts > 0))
    people = detector.shipped()(np.ascontiguousarray(depth))
    rows, columns = np.nonzero(inside)
    person = max(people, key=lambda p: p.score)
    truth = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    low = np.maximum(person.box[:2], truth[:2])
    high = np.minimum(person.box[2:], truth[2:])
    common = np.prod(high - low)
    areas = [np.prod(np.subtract(b[2:], b[:2])) for b in (person.box, truth)]
    assert common / (sum(areas) - common) > 0.6
    assert person.depth == pytest.approx(np.median(depth[inside]), abs=300)
    assert person.roll_deg == {0: 0, 1: 90, 2: 180, 3: 270}[turns]


def test_nobody_is_in_an_empty_room_and_a_dog_is_nobody():
    empty = room()
    assert detector.shipped()(empty) == []
    cv2.ellipse(empty, (160, 175), (38, 16), 0, 0, 360, 2500, cv2.FILLED)
    for x in (130, 140, 180, 190):
        empty[180:215, x : x + 4] = 2500
    assert detector.shipped()(empty) == []


def test_people_beside_one_another_are_each_found():
    frame = make_frame(0, "test", 9)  # 81 pixels wide
    inside = frame.parts > 0
    rows, columns = np.nonzero(inside)
    person = np.where(inside, frame.depth_mm, 0)
    middle = (columns.min() + columns.max()) // 2
    depth = room()
    for at in (70, 160, 250):
        moved = np.roll(person, at - middle, axis=1)
        depth = np.where(moved > 0, moved, depth).astype(np.uint16)
    people = sorted(detector.shipped()(depth), key=lambda p: p.box[0])
    centres = [(p.box[0] + p.box[2]) / 2 for p in people]
    assert len(people) == 3
    np.testing.assert_allclose(centres, [70, 160, 250], atol=15)


@pytest.mark.parametrize("gaps", GAPS.values(), ids=GAPS.keys())
def test_gaps_hide_nobody_wherever_they_lie(gaps):
    depth = make_frame(0, "test", 0).depth_mm.copy()
    whole = max(detector.shipped()(depth), key=lambda p: p.score)
    for gap in gaps:
        depth[gap] = 0
    person = max(detector.shipped()(depth), key=lambda p: p.score)
    np.testing.assert_allclose(person.box, whole.box, atol=8)
    assert person.score > 0.9 * whole.score


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2"])
def test_a_person_is_found_without_a_unit(dtype):
    frame = make_frame(0, "test", 0)
    depth = np.where(frame.depth_mm > 0, 20 + frame.depth_mm / 32, 0).astype(dtype)
    people = detector.shipped()(depth, metric=False)
    rows, columns = np.nonzero(frame.parts > 0)
    centre = (people[0].box[:2] + people[0].box[2:]) / 2
    expected = [columns.min() + columns.max(), rows.min() + rows.max()]
    np.testing.assert_allclose(centre, np.divide(expected, 2), atol=12)


def person_of(box, up, depth=3000.0):
    box = np.array(box, np.float32)
    return detector.Person(box, box, depth, 0.9, np.array(up, np.float32))


def test_legs_behind_a_table_are_in_the_bodys_box_by_hand():
    depth = np.full((240, 320), 4000, np.uint16)
    depth[60:120, 100:140] = 3000
    depth[120:, 60:200] = 2500  # a table 0.5 m before the person
    person = person_of((100, 60, 140, 120), (0, -1))
    # 1.8 m at 3 m and 200 px: 120 px from the head down.
    longer = detector.reaching_down(person, depth, 200.0)
    np.testing.assert_allclose(longer.body_box, [100, 60, 140, 180])
    np.testing.assert_array_equal(longer.box, person.box)
    # Not beyond the picture, and not where the legs were in the box already.
    long = detector.reaching_down(person, depth, 900.0)
    np.testing.assert_allclose(long.body_box, [100, 60, 140, 240])
    assert detector.reaching_down(person, depth, 90.0).body_box[3] == 120
    # The same picture on its side: the feet are at the right.
    turned = person_of((60, 180, 120, 220), (-1, 0))
    lying = detector.reaching_down(turned, np.rot90(depth).copy(), 200.0)
    np.testing.assert_allclose(lying.body_box, [60, 180, 180, 220])


@pytest.mark.parametrize("below", [0, 2900, 4000])
def test_where_nothing_nearer_is_below_the_body_ends(below):
    depth = np.full((240, 320), 4000, np.uint16)
    depth[60:120, 100:140] = 3000
    depth[120:] = below  # holes, the floor before the feet, the wall
    person = person_of((100, 60, 140, 120), (0, -1))
    assert detector.reaching_down(person, depth, 200.0) is person
    above = person_of((100, 60, 140, 120), (0.1, 0.1))  # seen from above
    depth[120:] = 2000
    assert detector.reaching_down(above, depth, 200.0) is above


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0), (0, -0.9), 270),  # not sure, and then upright
        ((0, 0), (0, 0.9), 90),  # not sure, and then upside down
        ((0.5, 0), (0, -0.9), 270),  # lying, and then upright
        ((0, 0), (0, -0.1), 0),  # seen from above, both times
        ((0, 0), (0.9, 0), 0),  # what says no more is not taken
    ],
)
def test_who_is_not_upright_is_seen_once_more_turned(
    weights, monkeypatch, first, second, expected
):
    search = detector.Detector(weights)
    asked = []

    def run(image):
        asked.append(image)
        up = first if len(asked) == 1 else second
        row, column = (10, 20) if len(asked) == 1 else (CELLS - 21, 10)
        return maps_of((row, column, 2.0, (16, 16, 16, 16), 0.0, up))

    monkeypatch.setattr(search, "_run", run)
    rng = np.random.default_rng(0)
    depth = rng.integers(1500, 2500, (240, 320)).astype(np.uint16)
    (person,) = search(depth)
    np.testing.assert_array_equal(asked[1], np.rot90(asked[0]))
    assert len(asked) == 2 and person.roll_deg == expected
    # Up after a turn anticlockwise is to the right before it.
    if second == (0, -0.9):
        np.testing.assert_allclose(person.up, (0.9, 0), atol=1e-6)
    # The box of 32 pixels' width, at a thinning of two, around the cell's middle.
    x, y = 2 * 4 * 20.5, 2 * 4 * 10.5
    np.testing.assert_allclose(person.box, [x - 32, y - 32, x + 32, y + 32], atol=0.1)


def test_who_is_upright_is_seen_once(weights, monkeypatch):
    search = detector.Detector(weights)
    asked = []

    def run(image):
        asked.append(image)
        return maps_of((10, 20, 2.0, (16, 16, 16, 16), 0.0, (0.1, -0.9)))

    monkeypatch.setattr(search, "_run", run)
    search(np.full((240, 320), 2000, np.uint16))
    assert len(asked) == 1


def test_a_crowd_is_looked_at_closer_and_each_of_it_is_found_once(weights, monkeypatch):
    search, asked = detector.Detector(weights), []

    def person(row, column, logit, reach):
        return row, column, logit, reach, 0.0, (0.0, -0.9)

    def run(image):
        asked.append(len(image))
        scale = asked[-1] / 160  # as large as they are seen
        places = [
            (round(scale * 15), round(scale * (4 + 10 * i))) for i in range(number)
        ]
        reach = np.multiply(scale, (12, 40, 12, 40))
        people = [person(*place, 2.0, reach) for place in places]
        if scale > 1:  # somebody small between them
            people.append(person(30, 10, 1.0, (5, 12, 5, 12)))
        return maps_of(*people, cells=asked[-1] // detector.STRIDE)

    monkeypatch.setattr(search, "_run", run)
    depth = np.full((240, 320), 2000, np.uint16)
    number = 4
    people = search(depth)
    assert asked == [160, 224]
    assert len(people) == 5
    small = min(people, key=lambda p: detector.area(p.box))
    # Of 10 and 24 pixels of 224, each of which is 320 / 224 of the frame.
    size = small.box[2:] - small.box[:2]
    np.testing.assert_allclose(size, np.multiply(320 / 224, (10, 24)), rtol=1e-3)
    asked.clear()
    number = 3
    assert len(search(depth)) == 3 and asked == [160]
    number = 4
    search(depth, metric=False)
    assert 224 not in asked


def test_what_would_be_seen_from_above_is_not_flat(weights, monkeypatch):
    """A board, and somebody whose head is 30 cm nearer than the shoulders."""
    search = detector.Detector(weights)
    flat = maps_of((10, 20, 2.0, (16, 16, 16, 16), 0.0, (0.0, 0.1)))
    monkeypatch.setattr(search, "_run", lambda _: flat)
    depth = np.full((240, 320), 2000, np.uint16)
    assert search(depth) == []
    depth[70:98, 150:178] = 1700
    assert len(search(depth)) == 1
