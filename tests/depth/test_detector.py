"""What the detector is shown, and how its maps are read."""

import hashlib

import jax
import numpy as np
import pytest

import train_detector
from cmbjax.depth import detector
from cmbjax.files import write_json
from cmbjax.models.detector import Detector

CELLS = detector.SIDE // detector.STRIDE


def maps_of(*people):
    """Maps that say: at a cell, with a score's logit, there is a box."""
    maps = np.zeros((CELLS, CELLS, detector.CHANNELS), np.float32)
    maps[..., detector.CENTRE] = -9
    for row, column, logit, reach, depth, up in people:
        values = [logit, *np.log(np.divide(reach, detector.UNIT)), depth, *up]
        maps[row, column] = values
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


def test_far_values_are_no_readings_and_a_frame_without_any_is_empty():
    depth = np.full((50, 60), 2000, np.uint16)
    depth[:25] = 65535
    image = detector.look(depth, metric=True).image
    assert not image[:25].any() and image[25:50, :60, 1].all()
    assert not detector.look(np.zeros((50, 60), np.uint16), metric=True).image.any()


def test_maps_are_read_by_hand():
    # Cell (10, 20) is around the input's pixel (82, 42): of the frame (164, 84).
    maps = maps_of((10, 20, 2.0, (4, 8, 16, 32), 0.0, (0.0, -0.9)))
    (person,) = detector.decode(maps, sight(), (240, 320), 0.4)
    np.testing.assert_allclose(person.box, [156, 68, 196, 148], atol=1e-3)
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


@pytest.mark.parametrize(
    ("up", "degrees"),
    [((0.1, -1), 0), ((1, 0.1), 270), ((0, 1), 180), ((-0.9, 0), 90), ((0, 0.2), 0)],
)
def test_quarter_turns_set_people_upright(up, degrees):
    box = np.zeros(4, np.float32)
    person = detector.Person(box, 1.0, 1.0, np.array(up, np.float32))
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


def test_a_frame_of_any_size_is_searched(weights):
    search = detector.Detector(weights)
    for shape in ((240, 320), (100, 100), (640, 480), (7, 9)):
        depth = np.full(shape, 2000, np.uint16)
        assert all(
            (person.box[2:] <= shape[::-1]).all()
            for person in search(depth, least_score=0.01)
        )


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
