"""Examples whose numbers no camera gives are refused by name."""

import numpy as np
import pytest

from datasets import schema

DEPTH = np.full((6, 8), 2000, np.uint16)
JOINTS_PX = np.array([[1.5, 2.5], [3.5, 4.5]], np.float32)
JOINTS_M = np.array([[0.1, 0.2, 2.0], [0.3, 0.4, 2.5]], np.float32)
CAMERA = np.array([100, 101, 4, 3], np.float32)


def example(**fields):
    known = {"joints_px": JOINTS_PX, "joints_m": JOINTS_M, "camera": CAMERA}
    return schema.example(depth=DEPTH, frame="frame_7", **{**known, **fields})


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("field", "array", "place", "value", "says"),
    [
        ("joints_px", JOINTS_PX, (1, 0), 1e30, "joints_px .* -100000 to 100000, got 1"),
        ("joints_px", JOINTS_PX, (0, 1), -1.1e5, "joints_px .*, got -110000$"),
        ("joints_m", JOINTS_M, (1, 2), 1e30, "joints_m must be from -100 to 100, got"),
        ("joints_m", JOINTS_M, (0, 0), -np.inf, "joints_m .*, got -inf$"),
        ("camera", CAMERA, 0, 1e30, "fx and fy must be between 1 and 1e.06 pixels"),
        ("camera", CAMERA, 1, 1e-44, "fx and fy .* got 100 and 9.*e-45$"),
        ("camera", CAMERA, 0, -100, "fx and fy .* got -100 and 101$"),
        ("camera", CAMERA, 3, 1e30, "cx and cy must be from -100000 to 100000, got 1"),
    ],
)
def test_numbers_beyond_what_a_camera_sees_are_refused(
    field, array, place, value, says
):
    with pytest.raises(ValueError, match=f"^frame_7: {says}"):
        example(**{field: changed(array, place, value)})


def test_what_is_far_or_not_known_is_an_example():
    far = example(joints_px=changed(JOINTS_PX, (0, 0), 9.9e4))
    assert far["joints_px"][0, 0] == np.float32(9.9e4)
    unknown = example(
        joints_px=changed(JOINTS_PX, 0, np.nan),
        visible=np.array([False, True]),
        joints_m=changed(JOINTS_M, 1, np.nan),
        camera=np.full(4, np.nan, np.float32),
    )
    assert np.isnan(unknown["joints_px"][0]).all()
    assert np.isnan(unknown["joints_m"]).tolist() == [[False] * 3, [True] * 3]
    assert np.isnan(unknown["camera"]).all()
