"""Frames as other cameras and rooms would give them, and what is counted there."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import damaged
from cmbjax.predict.pose import in_picture
from cmbjax.skeletons import BODY15


def test_frames_are_damaged_with_their_labels():
    """A joint's reading stays at the joint, and leads to the same place in metres."""
    depth = np.zeros((60, 80), np.uint16)
    depth[4:, :] = 3000
    joints_px = np.column_stack([np.linspace(22, 58, 15), np.linspace(9, 49, 15)])
    for number, (x, y) in enumerate(joints_px.astype(int)):
        depth[y - 1 : y + 2, x - 1 : x + 2] = 1500 + number
    shot = damaged.Shot(depth, joints_px, np.array([90.0, 90, 40, 30]))
    rays = (joints_px - shot.camera[2:]) / shot.camera[:2]
    changed = {
        kind: damaged.KINDS[kind](np.random.default_rng(0), shot)
        for kind in damaged.KINDS
    }
    for kind, (image, joints, camera) in changed.items():
        places = (joints - camera[2:]) / camera[:2]
        if kind == "mirrored":
            order = list(BODY15.mirror)
            np.testing.assert_allclose(places, rays[order] * (-1, 1), atol=1e-5)
        else:
            lengths = np.linalg.norm(rays, axis=1)
            np.testing.assert_allclose(np.linalg.norm(places, axis=1), lengths, 1e-5)
        is_inside = in_picture(joints, image.shape)
        x, y = joints[is_inside].astype(int).T
        read = image[y, x].astype(int)
        order = list(BODY15.mirror) if kind == "mirrored" else list(range(15))
        told = np.array(order)[is_inside] + 1500
        # What moves the picture alone changes no reading of a joint.
        if kind.startswith(("as they", "mirrored", "turned", "upside", "cut off")):
            np.testing.assert_array_equal(read, told)
    inside = {
        k: in_picture(s.joints_px, s.depth.shape).sum() for k, s in changed.items()
    }
    assert inside["upside down"] == 15 and inside["cut off at the hips"] == 7
    assert inside["cut off at the right"] == 9 and inside["cut off at the left"] == 9
    assert (changed["a fifth missing"].depth == 0).mean() == pytest.approx(
        0.25, abs=0.03
    )
    ten = changed["a fifth missing, as 10000"].depth
    assert (ten == 10_000).mean() == pytest.approx(0.2, abs=0.03)


def test_who_is_found_in_damaged_frames_is_counted(monkeypatch):
    joints_px = np.column_stack([np.full(15, 20.0), np.linspace(5, 55, 15)])
    shot = damaged.Shot(
        np.full((60, 40), 2000, np.uint16), joints_px, np.array([90.0, 90, 20, 30])
    )
    head = np.linalg.norm(joints_px[0] - joints_px[1])
    off = np.zeros((15, 2))
    off[:3] = [[0.49 * head, 0], [0.51 * head, 0], [0, 0]]
    pose = SimpleNamespace(joints_px=joints_px + off, visibility=np.full(15, 2))
    pose.visibility[-1] = 0

    class Found:
        camera = None

        def __call__(self, depth):
            return [pose] if len(depth) == 60 else []

    columns = damaged.score(Found(), [shot, shot], damaged.KINDS["as they are"], 0)
    assert columns["found"] == "2 of 2" and columns["PCKh@0.5"] == f"{1400 / 15:.1f}"
    assert columns["joints outside"] == "0"
    hips = damaged.KINDS["cut off at the hips"]
    columns = damaged.score(Found(), [shot, shot], hips, 0)
    assert columns == {
        "found": "0 of 2",
        "PCKh@0.5": "0.0",
        "joints outside": "0",
        "said to be seen": "0",
    }
