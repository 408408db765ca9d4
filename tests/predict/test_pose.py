"""What a pose tells of itself, by hand."""

import numpy as np
import pytest

from cmbjax.predict.pose import Pose, mean_of_surest, side_of
from cmbjax.skeletons import BODY15, HAND20, HAND21


def test_somebody_is_told_by_the_surest_third_of_the_joints_in_the_picture():
    confidence = np.zeros(15, np.float32)
    confidence[:6] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    joints_px = np.full((15, 2), 5.0)
    pose = Pose(
        joints_px, np.zeros((15, 3)), confidence, np.full(15, 2), np.zeros(4), 2.0
    )
    assert mean_of_surest(pose, (10, 10)) == pytest.approx(0.7)
    joints_px[0] = -1  # not in the picture: does not count
    assert mean_of_surest(pose, (10, 10)) == pytest.approx(0.6)
    assert mean_of_surest(pose, (4, 4)) == 0


@pytest.mark.parametrize("skeleton", [HAND20, HAND21], ids=["hand20", "hand21"])
def test_a_hand_is_a_right_one_by_its_shape(skeleton):
    """Raise a right hand, the palm away from you: its thumb points to your left.

    Whoever is opposite sees palm and fingers, and the thumb at the right.
    """
    x = dict(zip(("thumb", "index", "middle", "ring", "little"), range(5), strict=True))
    joints_m = np.zeros((skeleton.num_joints, 3))
    for number, name in enumerate(skeleton.joints):
        finger, _, part = name.partition("_")
        if finger in x:
            step = {"base": 0, "1": 1, "2": 2, "tip": 3}[part]
            # Bent towards the camera, which looks along z.
            joints_m[number] = 0.02 * x[finger], -0.08 - 0.03 * step, -0.01 * step**2
    joints_m += (0, 0, 0.5)
    # The thumb is at the picture's left.
    assert side_of(joints_m, skeleton) == "left"
    assert side_of(joints_m * (-1, 1, 1), skeleton) == "right"
    back = joints_m * (1, 1, -1) + (0, 0, 1.0)
    assert side_of(back, skeleton) == "right"
    assert side_of(np.zeros((15, 3)), BODY15) == ""
