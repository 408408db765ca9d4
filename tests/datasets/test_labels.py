"""Labels of people and hands in whole frames, by hand."""

import numpy as np
import pytest

from datasets.crowd import labels
from datasets.people.frames import Camera

CAMERA = Camera(8, 6, 4.0, (4.0, 3.0), "time of flight")
MASK = np.zeros((6, 8), bool)
MASK[2:5, 1:4] = True
EXACT = np.where(MASK, 2.0, 5.0)
EXACT[4, 3] = 3.0
# At (2.5, 3.5) on its surface; behind it there; at (5.5, 3.5) before the wall; beyond
# the picture's right edge; behind the camera.
JOINTS_M = np.array(
    [
        [-0.75, 0.25, 2.0],
        [-0.9, 0.3, 2.4],
        [0.75, 0.25, 2.0],
        [3.0, 0.25, 2.0],
        [0.1, 0.1, -1.0],
    ]
)


@pytest.mark.parametrize("on_itself", [True, False])
def test_what_is_seen_of_one(on_itself):
    label = labels.label(
        MASK,
        EXACT,
        JOINTS_M,
        CAMERA,
        nearest_m=0.05,
        behind_m=0.2,
        on_itself=on_itself,
    )
    assert label["boxes"] == (1, 2, 4, 5)  # x before y, ends excluded
    assert label["depths_m"] == 2.0  # of nine pixels one is at 3 m
    expected = [[2.5, 3.5], [2.5, 3.5], [5.5, 3.5], [10.0, 3.5]]
    np.testing.assert_allclose(label["joints_px"][:4], expected)
    assert np.isnan(label["joints_px"][4]).all()
    assert label["inside"].tolist() == [True, True, True, False, False]
    assert label["hidden"].tolist() == [False, True, on_itself, True, True]


def test_nobody_is_arrays_of_no_one():
    stacked = labels.stacked([], labels.fields(5))
    assert {key: value.shape for key, value in stacked.items()} == {
        "boxes": (0, 4),
        "depths_m": (0,),
        "joints_px": (0, 5, 2),
        "joints_m": (0, 5, 3),
        "inside": (0, 5),
        "hidden": (0, 5),
    }
    assert stacked["hidden"].dtype == np.bool_
    assert stacked["boxes"].dtype == np.float32
