import numpy as np

from cmbjax.depth import lifting

BODY = {"reach_mm": 1000.0, "limb_m": 0.03}
CAMERA = np.array([100, 100, 30, 20], np.float32)


def scene():
    """A wall at 4 m, an arm of 8 px at 2 m, 40 rows by 60 columns."""
    depth = np.full((40, 60), 4000, np.uint16)
    depth[10:30, 20:28] = 2000
    return depth


def test_surface_by_hand():
    depth = scene()
    depth[19:21, 23:25] = 0  # a hole on the arm
    # On the arm, on the hole, just beside the edge, far outside of the image. At 2 m
    # a radius of 3 cm is 1.5 px.
    joints = np.array([[22.5, 15], [24, 20], [28.5, 15], [300, 300]], np.float32)
    surface = lifting.surface_depth(depth, joints, 2000.0, 100.0, **BODY)
    np.testing.assert_allclose(surface, [2, 2, 2, 2])


def test_readings_far_from_the_person_do_not_count():
    joints = np.array([[50, 5]], np.float32)  # on the wall, 2 m behind
    surface = lifting.surface_depth(scene(), joints, 2000.0, 100.0, **BODY)
    np.testing.assert_allclose(surface, [2.0])


def test_lift_by_hand():
    joints = np.array([[22.5, 15]], np.float32)
    found = lifting.lift(
        scene(), joints, 2000.0, CAMERA, np.array([0.1], np.float32), **BODY
    )
    # z = 2.1; x = (22.5 - 30) / 100 * 2.1; y = (15 - 20) / 100 * 2.1.
    np.testing.assert_allclose(found, [[-0.1575, -0.105, 2.1]], rtol=1e-5)


def test_offsets_are_medians_over_labelled_frames():
    z = np.array([[2.1, 3.0, np.nan], [2.3, 3.2, np.nan], [9.0, np.nan, np.nan]])
    surfaces = np.array([[2.0, 3.0, 2.0], [2.0, 3.0, 2.0], [2.0, 3.0, 2.0]])
    offsets = lifting.offsets(z.astype(np.float32), surfaces.astype(np.float32))
    np.testing.assert_allclose(offsets, [0.3, 0.1, 0.0], rtol=1e-5)


def test_joint_that_is_nowhere_gets_the_persons_depth():
    joints = np.array([[np.nan, np.nan], [-40, 20]], np.float32)
    surface = lifting.surface_depth(scene(), joints, 2345.0, 100.0, **BODY)
    np.testing.assert_allclose(surface, [2.345, 2.345])


def test_what_is_before_a_joint_is_the_median_of_the_readings_around_it():
    rng = np.random.default_rng(0)
    depth_mm = rng.integers(500, 4000, (12, 17)).astype(np.uint16)
    depth_mm[rng.random(depth_mm.shape) < 0.5] = 0
    joints_px = rng.uniform(-2, 19, (400, 2))
    depths_m = rng.uniform(0.5, 4, 400)
    expected = []
    for (x, y), depth_m in zip(joints_px, depths_m, strict=True):
        rows = range(max(int(y) - 1, 0), min(int(y) + 2, 12))
        columns = range(max(int(x) - 1, 0), min(int(x) + 2, 17))
        around = [depth_mm[r, c] for r in rows for c in columns if depth_mm[r, c]]
        is_inside = 0 <= x < 17 and 0 <= y < 12
        before = 1000 * (depth_m - 0.2) > np.median(around) if around else False
        expected.append(bool(is_inside and before))
    found = lifting.hidden(depth_mm, joints_px, depths_m, 0.2)
    assert found.tolist() == expected and 50 < found.sum() < 150


def test_joints_behind_a_surface_are_hidden():
    depth_mm = np.full((20, 30), 3000, np.uint16)
    depth_mm[:, :10] = 1500
    depth_mm[:, 20:] = 0
    joints_px = np.array([[5.0, 5], [15, 5], [25, 5], [-3, 5], [np.nan, 5]])
    behind = lifting.hidden(depth_mm, joints_px, np.full(5, 2.0), 0.2)
    assert behind.tolist() == [True, False, False, False, False]
    near = lifting.hidden(depth_mm, joints_px, np.full(5, 1.65), 0.2)
    assert not near.any()
    finger = lifting.hidden(depth_mm, joints_px, np.full(5, 1.65), 0.03)
    assert finger.tolist() == behind.tolist()
