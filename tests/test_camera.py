import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cmbjax import camera

UNEQUAL = np.array([300.0, 280.0, 161.0, 119.0], np.float32)


def test_itop_projects_by_hand():
    # X = (u - 160) z 0.0035 for the 0-based index u: index 180 is 0.14 m right at 2 m.
    # Its pixel's centre is 180.5; index 20 is 0.7 m above the axis.
    joints_m = np.array([[0.14, -0.7, 2.0], [0.0, 0.0, 3.0]], np.float32)
    expected = np.array([[180.5, 20.5], [160.5, 120.5]], np.float32)
    joints_px = camera.camera_to_pixels(joints_m, camera.ITOP_CAMERA)
    np.testing.assert_allclose(joints_px, expected, atol=1e-4)
    back = camera.pixels_to_camera(expected, joints_m[:, 2], camera.ITOP_CAMERA)
    np.testing.assert_allclose(back, joints_m, atol=1e-6)


def test_focal_lengths_and_centres_belong_to_their_own_axis():
    joints_m = np.array([[[0.5, 0.25, 2.0]]], np.float32)
    joints_px = camera.camera_to_pixels(joints_m, UNEQUAL)
    np.testing.assert_array_equal(joints_px, [[[161 + 75, 119 + 35]]])


def test_what_is_assumed_is_one_camera_however_it_is_held():
    landscape, portrait = map(camera.default_camera, ((480, 640), (640, 480)))
    np.testing.assert_allclose(landscape, [1.07 * 480, 1.07 * 480, 320, 240])
    np.testing.assert_allclose(portrait, [1.07 * 480, 1.07 * 480, 240, 320])


@given(
    x=st.floats(-3, 3, width=32),
    y=st.floats(-2, 2, width=32),
    z=st.floats(0.5, 8, width=32),
)
def test_pixels_and_metres_round_trip(x, y, z):
    joints_m = np.array([[x, y, z]], np.float32)
    joints_px = camera.camera_to_pixels(joints_m, UNEQUAL)
    back = camera.pixels_to_camera(joints_px, joints_m[:, 2], UNEQUAL)
    np.testing.assert_allclose(back, joints_m, atol=2e-5)


def test_an_unknown_camera_gives_no_number():
    joints_px = np.ones((3, 2), np.float32)
    unknown = np.full(4, np.nan, np.float32)
    joints_m = camera.pixels_to_camera(joints_px, np.ones(3, np.float32), unknown)
    assert np.isnan(joints_m[:, :2]).all()
