import subprocess
import sys

import cv2
import matplotlib.colors
import numpy as np
import pytest
from matplotlib.figure import Figure

from cmbjax import plots
from cmbjax.skeletons import BODY15, HAND20, Skeleton

STICK = Skeleton(
    name="stick",
    joints=("neck", "right_hand", "left_hand"),
    parents=(-1, 0, 0),
    mirror_pairs=((1, 2),),
)
PREDICTION = [[30.0, 20.0], [10.0, 35.0], [50.0, 45.0]]
LABEL = [[31.0, 21.0], [12.0, 33.0], [52.0, 41.0]]


def depth_mm(height=60, width=80):
    depth = np.full((height, width), 3000, np.uint16)
    depth[20:50, 10:50] = 2000
    depth[:, :5] = 0
    return depth


@pytest.fixture
def ax():
    return Figure().subplots()


def bones(ax):
    """(colour, [[parent x, y], [joint x, y]]) of each line."""
    return [(line.get_color(), line.get_xydata().tolist()) for line in ax.lines]


def test_bones_join_parents_and_joints_in_the_colour_of_their_side(ax):
    plots.draw_pose(ax, depth_mm(), PREDICTION, STICK)
    neck, right, left = PREDICTION
    assert bones(ax) == [(plots.RIGHT, [neck, right]), (plots.LEFT, [neck, left])]


def test_the_label_is_thin_and_white_beneath_the_prediction(ax):
    plots.draw_pose(ax, depth_mm(), PREDICTION, STICK, LABEL)
    colours = [colour for colour, _ in bones(ax)]
    assert colours == [plots.LABEL, plots.LABEL, plots.RIGHT, plots.LEFT]
    assert ax.lines[0].get_linewidth() < ax.lines[2].get_linewidth()
    assert bones(ax)[1][1] == [LABEL[0], LABEL[2]]


def test_a_label_alone_has_the_colours_of_its_sides(ax):
    plots.draw_pose(ax, depth_mm(), None, STICK, LABEL)
    assert [colour for colour, _ in bones(ax)] == [plots.RIGHT, plots.LEFT]


def test_a_joint_without_position_takes_its_bones_along(ax):
    broken = np.array(PREDICTION)
    broken[1, 0] = np.inf
    plots.draw_pose(ax, depth_mm(), broken, STICK)
    assert np.isnan(bones(ax)[0][1][1]).all()
    assert bones(ax)[1][1] == [PREDICTION[0], PREDICTION[2]]


def test_pixels_of_the_depth_have_their_centres_at_a_half(ax):
    plots.draw_depth(ax, depth_mm())
    assert tuple(ax.images[0].get_extent()) == (0, 80, 60, 0)
    assert ax.get_xlim() == (0, 80) and ax.get_ylim() == (60, 0)


def test_near_is_light_and_holes_are_neither(ax):
    plots.draw_depth(ax, depth_mm()[..., None])
    shown = ax.images[0]
    near, far, hole = shown.to_rgba(shown.get_array())[[30, 5, 30], [20, 60, 2], :3]
    np.testing.assert_array_equal(near, [1, 1, 1])
    np.testing.assert_array_equal(far, [0, 0, 0])
    np.testing.assert_allclose(hole, matplotlib.colors.to_rgb(plots.HOLE))


def test_normalised_depth_of_zero_is_no_hole(ax):
    plots.draw_depth(ax, np.array([[-1.0, 0.0, np.nan], [1.0, 0.5, 0.0]]))
    mask = ax.images[0].get_array().mask
    np.testing.assert_array_equal(mask, [[False, False, True], [False] * 3])


def test_a_picture_without_readings_is_drawn(ax):
    plots.draw_pose(ax, np.zeros((6, 8), np.uint16), None, STICK)
    assert ax.images[0].get_array().mask.all()


def test_zoom_shows_a_square_around_the_poses(ax):
    plots.draw_pose(ax, depth_mm(), PREDICTION, STICK)
    # x from 10 to 50, y from 20 to 45: half a side is 0.62 * 40, and y meets the edge
    np.testing.assert_allclose(ax.get_xlim(), (30 - 24.8, 30 + 24.8))
    np.testing.assert_allclose(ax.get_ylim(), (57.3, 7.7))


def test_zoom_stays_within_the_picture(ax):
    far_out = [[30.0, 20.0], [-500.0, 35.0], [50.0, 900.0]]
    plots.draw_pose(ax, depth_mm(), far_out, STICK)
    low, high = ax.get_xlim()
    assert 0 <= low < high <= 80
    assert ax.get_ylim() == (60, 0)


def test_fingers_of_a_hand_differ_in_colour():
    colours = plots.joint_colours(HAND20)
    assert len(set(colours)) == 6
    assert colours[1] == colours[2] == colours[3] != colours[4]
    assert plots.joint_colours(BODY15)[:4] == [
        plots.MIDDLE,
        plots.MIDDLE,
        plots.RIGHT,
        plots.LEFT,
    ]


def test_sheets_and_curves_are_saved(tmp_path):
    depths = [depth_mm(), depth_mm(90, 40), depth_mm()]  # frames may differ in size
    poses, titles = np.array([PREDICTION] * 3), ["best", "median", "worst"]
    folder = tmp_path / "figures"
    plots.pose_sheet(depths, poses, poses + 2, STICK, titles, folder / "poses.png")
    plots.pose_sheet(depths, None, poses, STICK, titles, folder / "views.png")
    maps = np.random.default_rng(0).random((2, 30, 30))
    rows = [[depths[0], *maps], [depths[2], *maps[::-1]]]
    plots.map_sheet(rows, titles[:2], ["depth", "x", "M"], folder / "maps.png")
    values = {"SH": {"Head": 50.0, "Feet": 20.0}, "Ours": {"Head": 60.0, "Feet": 30.0}}
    errors = {"SH": {"Head": 1.0, "Feet": np.nan}, "Ours": {"Head": 2.0, "Feet": 1.0}}
    theirs = {"SH": {"Head": 70.0}}
    plots.bars(values, errors, theirs, "theirs", "%", folder / "bars.png")
    shares = {"Ours": [(1, 50.0, 2.0), (10, 70.0, 1.0)]}
    plots.share_curves(shares, "%", folder / "shares.png")
    plots.cost_picture({"SH": (30.7, 56.0), "Ours": (5.4, 14.0)}, folder / "costs.png")
    curves = {"network": [0, 50, 90], "floor": [0, 10, 20], "ceiling": [10, 100, 100]}
    plots.pdj_curve([0.0, 0.1, 0.2], curves, folder / "pdj.png")
    records = [
        {"step": 1, "loss": 0.5, "steps_per_s": 2.0},
        {"step": 2, "validation/PCKh@0.5": 30.0, "validation/mean error mm": 210.0},
        {"step": 2, "loss": 0.0},
        {"step": 3, "loss": None},  # it was no number
        {"step": 3, "validation/PDJ mean": None},
    ]
    plots.loss_curve(records, folder / "loss.png")
    plots.loss_curve([], folder / "nothing_yet.png")
    for path in folder.iterdir():
        assert cv2.imread(str(path)).std() > 5, path.name
    assert len(list(folder.iterdir())) == 9


def test_runs_of_a_method_are_lines_of_one_colour_and_one_name(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: saved.append(figure))
    sh, ours = [(100, 40.0), (200, 60.0)], [(100, 50.0)]
    curves = {"SH": [sh, [], sh[:1]], "Ours": [ours, ours]}
    plots.validation_curves(curves, "%", tmp_path / "curves.png")
    (ax,) = saved[0].axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [
        [[100, 40], [200, 60]],
        [[100, 40]],
        [[100, 50]],
        [[100, 50]],
    ]
    colours = [line.get_color() for line in ax.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    assert ax.get_legend_handles_labels()[1] == ["SH", "Ours"]


def test_a_sheet_needs_frames_and_a_title_for_each(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        plots.pose_sheet([], None, None, STICK, [], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="shorter"):
        plots.pose_sheet([depth_mm()], None, None, STICK, [], tmp_path / "sheet.png")


def test_models_do_not_need_matplotlib():
    code = "import sys, cmbjax.models; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
