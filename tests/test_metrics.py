import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmbjax import metrics
from cmbjax.evaluate.predictions import quantise
from cmbjax.skeletons import BODY15, BODY19, HAND20, HAND21, Skeleton
from tests import fabricate

K2HPD = fabricate.real("k2hpd_labels.npz")
needs_k2hpd = pytest.mark.skipif(not K2HPD.exists(), reason=f"{K2HPD} is absent")

# head 0, neck 1, two hips: the head is 10 px long, the torso 40 px
STICK = Skeleton(
    name="stick",
    joints=("head", "neck", "right_hip", "left_hip"),
    parents=(1, -1, 1, 1),
    head=((0,), (1,)),
    torsos={"neck_to_hips": ((1,), (2, 3)), "neck_to_left": ((1,), (3,))},
    rows={"Head": (0,), "Hips": (2, 3)},
)
TARGET = [[20.0, 10.0], [14.0, 18.0], [4.0, 58.0], [24.0, 58.0]]


def stick(*offsets, visible=(True, True, True, True)):
    """One frame: predictions (the target moved by offsets), targets, visible."""
    targets = jnp.array([TARGET])
    return targets + jnp.array([offsets]), targets, jnp.array([visible])


def random_poses(frames=11, skeleton=BODY15, seed=0):
    rng = np.random.default_rng(seed)
    joints = skeleton.num_joints
    px = rng.uniform(0, 200, (frames, joints, 2)).astype(np.float32)
    m = rng.normal(0, 1, (frames, joints, 3)).astype(np.float32)
    return metrics.Poses(
        predictions_px=px + rng.normal(0, 20, px.shape).astype(np.float32),
        targets_px=px,
        visible=rng.random((frames, joints)) < 0.9,
        predictions_m=m + rng.normal(0, 0.1, m.shape).astype(np.float32),
        targets_m=m,
    )


def assert_tally(tally, total, count):
    np.testing.assert_array_equal(tally.total, total)
    np.testing.assert_array_equal(tally.count, count)


def test_pckh_counts_by_hand():
    # 5, 6, 0 and 0 px off; a 10 px head allows 5; the last joint is hidden
    moved = [3.0, 4.0], [0.0, 6.0], [0.0, 0.0], [0.0, 0.0]
    tally = metrics.pckh(*stick(*moved, visible=(True, True, True, False)), STICK)
    assert_tally(tally, [1, 0, 1, 0], [1, 1, 1, 0])
    np.testing.assert_array_equal(tally.mean, [1, 0, 1, np.nan])


def test_pdj_counts_by_hand():
    # the torso goes from (14, 18) to (14, 58): 0.25 allows 10 px
    moved = [6.0, 8.0], [0.0, -11.0], [9.0, 0.0], [0.0, 10.5]
    frame = stick(*moved, visible=(True, True, True, True))
    assert_tally(metrics.pdj(*frame, STICK, 0.25), [1, 0, 1, 0], [1, 1, 1, 1])
    # to the left hip alone it is sqrt(10^2 + 40^2) = 41.2 px, which allow 10.3
    tally = metrics.pdj(*frame, STICK, 0.26, "neck_to_left")
    assert_tally(tally, [1, 0, 1, 1], [1, 1, 1, 1])


def test_10cm_rule_counts_by_hand():
    targets = jnp.array([[[0.1, -0.2, 3.0], [0.0, 0.0, 2.0], [1.0, 0.0, 2.5]]])
    moved = jnp.array([[[0.02, 0.03, 0.06], [0.0, 0.08, 0.08], [0.0, 0.0, 0.0]]])
    visible = jnp.array([[True, True, False]])  # 0.07 and 0.113 m off
    tally = metrics.map_10cm(targets + moved, targets, visible)
    assert_tally(tally, [1, 0, 0], [1, 1, 0])
    exact = jnp.full((1, 1, 3), 0.25).at[..., :2].set(0.0)
    tally = metrics.map_10cm(exact, jnp.zeros((1, 1, 3)), jnp.ones((1, 1), bool), 0.25)
    assert_tally(tally, [0], [1])  # "less than" (Sec. 5)


def test_joint_errors_by_hand():
    targets = jnp.array([[[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [jnp.nan] * 3]])
    predictions = jnp.array([[[0.02, 0.03, 2.06], [0.0, 9.0, 2.0], [0.0, 0.0, 1.0]]])
    errors = metrics.joint_errors(
        predictions, targets, jnp.array([[True, False, True]])
    )
    np.testing.assert_allclose(errors, [[0.07, np.nan, np.nan]], rtol=1e-5)


def test_a_prediction_that_is_no_number_is_a_miss():
    predictions, targets, visible = stick(*[[0.0, 0.0]] * 4)
    predictions = predictions.at[0, 1, 1].set(jnp.nan)
    for tally in (
        metrics.pckh(predictions, targets, visible, STICK),
        metrics.pdj(predictions, targets, visible, STICK, 0.2),
    ):
        assert_tally(tally, [1, 0, 1, 1], [1, 1, 1, 1])
    metres = jnp.ones((1, 4, 3))
    broken = metres.at[0, 2].set(jnp.nan)
    assert_tally(metrics.map_10cm(broken, metres, visible), [1, 1, 0, 1], [1] * 4)
    errors = metrics.joint_errors(broken, metres, visible)
    np.testing.assert_array_equal(errors, [[0, 0, np.inf, 0]])


@pytest.mark.parametrize("visible", [(False, True, True, True), (True,) * 4])
def test_a_frame_without_a_measurable_head_does_not_count(visible):
    predictions, targets, visible = stick(*[[0.0, 0.0]] * 4, visible=visible)
    if visible.all():
        targets = targets.at[0, 1].set(targets[0, 0])  # a head of no length
    assert_tally(metrics.pckh(predictions, targets, visible, STICK), [0] * 4, [0] * 4)


def test_what_is_right_counts_as_the_metrics_count():
    """Perfect predictions are right wherever there is something to measure them by."""
    target, visible = np.array(random_poses(3)[1]), np.ones((3, 15), bool)
    visible[1, 0] = False  # its head: a frame without PCKh's unit
    poses = metrics.Poses(target, target, visible)
    right, counted = metrics.are_right(poses, BODY15)
    assert right[counted].all() and counted.sum(axis=1).tolist() == [15, 0, 15]
    metres = np.zeros((3, 15, 3), np.float32)
    metres[2, 4] = np.nan  # a joint without metres
    off = metres.copy()
    off[0, 1, 0] = 0.11
    poses = metrics.Poses(target, target, visible, off, metres)
    right, counted = metrics.are_right(poses, BODY15)
    assert counted.sum(axis=1).tolist() == [15, 14, 14]
    assert (counted & ~right).sum() == 1 and not right[0, 1]
    tally = metrics.map_10cm(off, metres, visible)
    share = float(tally.total.sum() / tally.count.sum())
    assert share == pytest.approx(right[counted].mean())
    hand = metrics.Poses(*[np.zeros((1, 21, 2))] * 2, np.ones((1, 21), bool))
    assert metrics.are_right(hand, HAND21) is None  # neither metres nor a head


def test_a_frame_without_a_measurable_torso_does_not_count():
    predictions, targets, visible = stick(
        *[[0.0, 0.0]] * 4, visible=(True, True, True, False)
    )
    tally = metrics.pdj(predictions, targets, visible, STICK, 0.2)
    assert_tally(tally, [0] * 4, [0] * 4)
    assert np.isnan(tally.mean).all()


@settings(max_examples=5, deadline=None)
@given(cut=st.sampled_from([0, 1, 4]), seed=st.integers(0, 99))
def test_batches_of_uneven_size_add_up(cut, seed):
    poses = random_poses(seed=seed)
    first, last = (
        [part[rows] for part in poses] for rows in (np.s_[:cut], np.s_[cut:])
    )
    for metric in (
        lambda p: metrics.pckh(*p[:3], BODY15),
        lambda p: metrics.pdj(*p[:3], BODY15, 0.1),
        lambda p: metrics.map_10cm(p[3], p[4], p[2]),
    ):
        whole, summed = metric(poses), metric(first) + metric(last)
        assert_tally(summed, whole.total, whole.count)


@settings(max_examples=15, deadline=None)
@given(power=st.integers(-8, 8), seed=st.integers(0, 9))
def test_pckh_and_pdj_ignore_the_images_scale(power, seed):
    predictions, targets, visible = random_poses(seed=seed)[:3]
    scale = np.float32(2.0**power)
    for metric in (metrics.pckh, functools.partial(metrics.pdj, fraction=0.1)):
        tally = metric(predictions, targets, visible, BODY15)
        scaled = metric(scale * predictions, scale * targets, visible, BODY15)
        assert_tally(scaled, tally.total, tally.count)


def test_metrics_agree_under_jit_and_between_numpy_and_jax():
    poses = random_poses()
    plain = metrics.pckh(*poses[:3], BODY15)
    jitted = jax.jit(functools.partial(metrics.pckh, skeleton=BODY15))
    assert_tally(jitted(*map(jnp.asarray, poses[:3])), plain.total, plain.count)


def test_a_row_weighs_joints_by_what_was_counted():
    tally = metrics.Tally(jnp.array([1, 5, 3, 0]), jnp.array([2, 5, 3, 1]))
    rows = metrics.rows(tally, STICK)
    # Hips are joints 2 and 3; the skeleton's rows leave out the neck
    assert rows == {"Head": 0.5, "Hips": 0.75, "All joints": pytest.approx(9 / 11)}


def test_a_row_over_no_joints_is_nan():
    tally = metrics.Tally(jnp.array([0, 5, 3, 0]), jnp.array([0, 5, 3, 1]))
    assert np.isnan(metrics.rows(tally, STICK)["Head"])
    errors = jnp.array([[jnp.nan, 1.0, 2.0, jnp.nan]])
    rows = metrics.median_rows(errors, STICK)
    assert np.isnan(rows["Head"]) and rows["Hips"] == 2 and rows["All joints"] == 1.5


def test_table_by_hand():
    predictions, targets, visible = stick(
        [3.0, 4.0], [0.0, 3.0], [7.0, 0.0], [0.0, 9.0]
    )
    metres = jnp.zeros((1, 4, 3))
    moved = metres.at[0, :, 2].set(jnp.array([0.01, 0.02, 0.03, 0.2]))
    poses = metrics.Poses(predictions, targets, visible, moved, metres)
    table = metrics.table(poses, STICK)
    # off by 5, 3, 7, 9 px, where PDJ allows 2, 4, 6, 8 px
    everyone = {title: column["All joints"] for title, column in table.items()}
    assert everyone == pytest.approx(
        {
            "PDJ@0.05": 0,
            "PDJ@0.10": 25,
            "PDJ@0.15": 50,
            "PDJ@0.20": 75,
            "PDJ mean": 37.5,
            "PCKh@0.5": 50,
            "mAP@10cm": 75,
            "mean error mm": 65,
            "median error mm": 25,
        }
    )
    assert table["PCKh@0.5"]["Hips"] == 0
    assert table["median error mm"]["Hips"] == pytest.approx(115)
    assert list(metrics.table(poses, STICK, ["pckh", "map_10cm"])) == [
        "PCKh@0.5",
        "mAP@10cm",
    ]
    curve = metrics.pdj_curve(poses, STICK, [0.0, 0.1, 0.15, 0.3])
    assert curve == [0, 25, 50, 100]


def test_all_leaves_out_what_the_data_do_not_have():
    flat = metrics.Poses(*random_poses()[:3])
    titles = list(metrics.table(flat, BODY15))
    assert titles[-2:] == ["PDJ mean", "PCKh@0.5"]
    hand = random_poses(skeleton=HAND20)
    titles = list(metrics.table(hand, HAND20))
    assert titles == ["mAP@10cm", "mean error mm", "median error mm"]
    with pytest.raises(ValueError, match="no metric applies to 'hand20' without 3-D"):
        metrics.table(metrics.Poses(*hand[:3]), HAND20)


@pytest.mark.parametrize(
    ("metric", "skeleton", "message"),
    [
        ("pdj", HAND20, "PDJ needs a torso; skeleton 'hand20' has none"),
        ("pckh", HAND20, "PCKh needs a head; skeleton 'hand20' has none"),
        ("map_10cm", BODY15, "mAP@10cm and joint error need 3-D joints"),
        ("joint_error", BODY15, "mAP@10cm and joint error need 3-D joints"),
        ("acc", BODY15, "unknown metric 'acc'; choose from: joint_error, map_10cm"),
    ],
)
def test_a_metric_asked_for_by_name_must_apply(metric, skeleton, message):
    flat = metrics.Poses(*random_poses(skeleton=skeleton)[:3])
    with pytest.raises(ValueError, match=message):
        metrics.table(flat, skeleton, [metric])


def test_an_unknown_torso_names_those_there_are():
    with pytest.raises(ValueError, match="'spine'; choose from: neck_to_hips, should"):
        metrics.pdj(*random_poses()[:3], BODY15, 0.1, "spine")


def test_shapes_are_checked_where_users_call():
    # as users call them: without the test session's type checker
    pckh, map_10cm = inspect.unwrap(metrics.pckh), inspect.unwrap(metrics.map_10cm)
    pixels, visible = jnp.zeros((4, 15, 2)), jnp.ones((4, 15), bool)
    with pytest.raises(ValueError, match=r"both be \[batch, joints, 2\].*\(3, 15, 2\)"):
        pckh(pixels, pixels[:3], visible, BODY15)
    with pytest.raises(ValueError, match=r"both be \[batch, joints, 3\].*\(4, 15, 2\)"):
        map_10cm(pixels, pixels, visible)
    with pytest.raises(ValueError, match=r"visible \[batch, joints\].*and \(15,\)"):
        pckh(pixels, pixels, visible[0], BODY15)
    with pytest.raises(ValueError, match="'body19' has 19 joints, predictions have 15"):
        pckh(pixels, pixels, visible, BODY19)


def test_format_table_aligns_its_columns():
    columns = {
        "PDJ@0.05": {"Head": 100.0, "Full Body": 8.25},
        "mean error mm": {"Head": float("nan"), "Full Body": float("inf")},
    }
    assert metrics.format_table(columns).splitlines() == [
        "|           | PDJ@0.05 | mean error mm |",
        "| --------- | -------: | ------------: |",
        "| Head      |    100.0 |           nan |",
        "| Full Body |      8.2 |           inf |",
    ]


def test_mean_pose_by_hand():
    # boxes 10 x 20 at (0, 0), and 4 x 8 at (2, 10); the third has no height
    joints_px = jnp.array(
        [
            [[0.0, 0.0], [10.0, 20.0], [5.0, 5.0]],
            [[2.0, 10.0], [6.0, 18.0], [99.0, 99.0]],
            [[3.0, 3.0], [4.0, 3.0], [5.0, 3.0]],
        ]
    )
    visible = jnp.array([[True, True, True], [True, True, False], [True, True, True]])
    boxes = metrics.label_boxes(joints_px, visible)
    np.testing.assert_array_equal(boxes, [[0, 0, 10, 20], [2, 10, 6, 18], [3, 3, 5, 3]])
    pose = metrics.mean_pose(joints_px, visible, boxes)
    np.testing.assert_array_equal(pose, [[0, 0], [1, 1], [0.5, 0.25]])
    placed = metrics.place(pose, jnp.array([[10.0, 0.0, 14.0, 40.0]]))
    np.testing.assert_array_equal(placed, [[[10, 0], [14, 40], [12, 10]]])


def test_a_frame_without_visible_joints_has_no_box():
    joints_px, visible = jnp.zeros((1, 3, 2)), jnp.zeros((1, 3), bool)
    boxes = metrics.label_boxes(joints_px, visible)
    assert np.isnan(boxes).all()
    assert np.isnan(metrics.mean_pose(joints_px, visible, boxes)).all()


def k2hpd(split, step):
    joints_px = np.load(K2HPD)[split][::step].astype(np.float32) + 0.5
    return joints_px, np.ones(joints_px.shape[:2], bool)


@needs_k2hpd
def test_the_mean_pose_on_k2hpd_scores_what_plain_numpy_gives():
    train, test = k2hpd("train", 10), k2hpd("test", 10)
    pose = metrics.mean_pose(*train, metrics.label_boxes(*train))
    placed = metrics.place(pose, metrics.label_boxes(*test))
    poses = metrics.Poses(placed, *test)
    scores = metrics.pdj_curve(poses, BODY19, metrics.PDJ_FRACTIONS)
    # from all frames, in float64
    np.testing.assert_allclose(scores, [16.6, 36.2, 49.0, 58.0], atol=0.7)


@needs_k2hpd
def test_cell_centres_keep_the_pdj_that_cell_corners_lose():
    joints_px, visible = k2hpd("test", 600)
    low, high = np.split(np.asarray(metrics.label_boxes(joints_px, visible)), 2, -1)
    extent = 1.25 * (high - low).max(axis=-1)[:, None, None]
    shift = (low + high)[:, None] / 2 - extent / 2

    def pdj(side):
        crops_px = (joints_px - shift) / extent * side
        grid = {"side": side // 2, "stride": 2, "sigma": 1.0}
        read = quantise(
            crops_px, visible, **grid, decodes=["argmax"], drawn=lambda maps: maps
        )
        centres = read["argmax"]
        for decoded in (centres, centres - 1):  # a corner is half a cell up and left
            frame_px = decoded / side * extent + shift
            tally = metrics.pdj(frame_px, joints_px, visible, BODY19, 0.05)
            yield 100 * tally.total.sum() / tally.count.sum()

    centre, corner = pdj(128)
    assert centre > 99.9 and 80 < corner < 90
    centre, corner = pdj(192)
    assert centre > 99.9 and 97 < corner < 100
