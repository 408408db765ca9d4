import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cmbjax import metrics
from cmbjax.data.views import Preparation
from cmbjax.depth import crops
from cmbjax.evaluate import predictions, report
from cmbjax.evaluate.predictions import apply_frozen
from cmbjax.files import write_json
from cmbjax.models import MODELS
from cmbjax.models.losses import joints_to_heatmaps
from cmbjax.models.network import Network, Outputs
from cmbjax.skeletons import BODY15
from cmbjax.train.config import TrainConfig
from cmbjax.train.run import Run
from cmbjax.train.statistics import Statistics, training_statistics
from tests.data.test_batches import FRAMES, make_example, make_frames

PREPARATION = Preparation(side=64, crop="label_box", depth_range=1000.0)


class Oracle(Network, kw_only=True):
    """Answers with the same heat maps whatever it sees; has a memory of the count."""

    num_joints: int = 15
    joints_px: tuple

    @nn.compact
    def outputs(self, depth, *, train, r):
        seen = self.variable("memory", "value", jnp.zeros, (1, 1, 1))
        if self.is_mutable_collection("memory"):
            seen.value += 1
        joints = jnp.broadcast_to(jnp.array(self.joints_px), (len(depth), 15, 2))
        visible = jnp.ones((len(depth), 15), bool)
        side = depth.shape[1] // 2
        maps = joints_to_heatmaps(joints, visible, side=side, stride=2, sigma=1.5)
        return Outputs(maps)


STATISTICS = Statistics(
    "figures", "body15", np.full((15, 2), 0.5, np.float32), np.full(15, 0.05)
)


def evaluate(model, variables=None, **options):
    given = {
        "model": model,
        "r": 1.0,
        "preparation": PREPARATION,
        "sigma": 1.5,
        "batch_size": 3,
        **options,
    }
    frames = given.pop("frames", FRAMES)
    statistics = given.pop("statistics", STATISTICS)
    variables = variables or {"memory": {"value": jnp.zeros((1, 1, 1))}, "params": {}}
    return predictions.evaluate(variables, frames, statistics, **given)


def test_predictions_floor_and_ceiling_by_hand():
    # The network always answers with the crop's centre, which is the centre of the
    # body's box; so is the floor, whose mean pose puts every joint into the middle.
    result = evaluate(Oracle(joints_px=((32.0, 32.0),) * 15))
    assert result.names == [f"frame {i}" for i in range(7)]
    boxes = np.asarray(
        metrics.label_boxes(result.poses.targets_px, result.poses.visible)
    )
    centres = np.broadcast_to(((boxes[:, :2] + boxes[:, 2:]) / 2)[:, None], (7, 15, 2))
    np.testing.assert_allclose(result.poses.predictions_px, centres, atol=0.05)
    np.testing.assert_allclose(result.floor.predictions_px, centres, atol=1e-3)
    # DARK finds Gaussians to a fraction of a cell: the ceiling is next to the labels.
    visible = result.poses.visible
    off = result.ceiling.predictions_px - result.ceiling.targets_px
    assert np.abs(off[visible]).max() < 0.05
    # The figure is a plane 5 cm before its joints, and the offsets say so.
    off_m = result.ceiling.predictions_m - result.ceiling.targets_m
    assert np.abs(off_m[visible]).max() < 0.002
    z = 2.05 + 0.01 * np.arange(7)
    np.testing.assert_allclose(result.poses.predictions_m[:, 3, 2], z, atol=1e-3)


def test_coarser_decode_lowers_the_ceiling():
    def error(decode):
        result = evaluate(Oracle(joints_px=((32.0, 32.0),) * 15), decode=decode)
        off = result.ceiling.predictions_px - result.ceiling.targets_px
        return np.abs(off[result.poses.visible]).mean()

    assert error("dark") < error("quarter") < error("argmax")


def test_maps_are_read_in_both_ways_beside_each_other():
    oracle = Oracle(joints_px=((32.7, 30.6),) * 15)
    both = evaluate(oracle).others
    argmax = evaluate(oracle, decode="argmax")
    for row, poses in {
        "all joints, argmax": argmax.poses,
        "ceiling: labels on the grid, argmax": argmax.ceiling,
    }.items():
        np.testing.assert_array_equal(both[row].predictions_px, poses.predictions_px)
        np.testing.assert_array_equal(both[row].predictions_m, poses.predictions_m)
    assert set(argmax.others) == {
        "all joints, dark",
        "ceiling: labels on the grid, dark",
    }
    table = report.results_table(evaluate(oracle), BODY15, ["all"], None)
    rows = list(table["PCKh@0.5"])
    assert rows[-4:] == [*both, report.FLOOR, report.CEILING]


def test_the_mean_pose_in_the_crop_by_hand():
    mean = np.zeros((15, 3), np.float32)
    mean[2] = 0.25, -0.5, 0.3
    statistics = dataclasses.replace(STATISTICS, mean_in_crop=mean)
    result = evaluate(Oracle(joints_px=((32.0, 32.0),) * 15), statistics=statistics)
    floor = result.others[predictions.FLOOR_IN_CROP]
    boxes = np.stack(list(map(crops.body_box, floor.targets_px, floor.visible)))
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    # The crop is a square around the body's box, and 15 % larger.
    sides = 1.15 * sizes.max(axis=1, keepdims=True)
    offs = floor.predictions_px[:, 2] - centres
    np.testing.assert_allclose(offs / sides, [[0.25, -0.5]] * 7, atol=0.01)
    np.testing.assert_allclose(
        floor.predictions_px[:, 3] - centres, 0, atol=0.01 * sides.max()
    )
    # 0.3 m behind whatever the others are at.
    z = floor.predictions_m[..., 2]
    np.testing.assert_allclose(z[:, 2] - z[:, 3], 0.3, atol=1e-4)
    whole = evaluate(
        Oracle(joints_px=((32.0, 32.0),) * 15),
        statistics=statistics,
        preparation=dataclasses.replace(PREPARATION, crop="full"),
    )
    assert predictions.FLOOR_IN_CROP not in whole.others


def test_the_mean_pose_in_training_crops_by_hand(tmp_path):
    statistics = training_statistics(FRAMES)
    mean = statistics.mean_in_crop
    examples = [FRAMES.source[i] for i in range(len(FRAMES))]
    joints_px = np.stack([example["joints_px"] for example in examples])
    visible = np.stack([example["visible"] for example in examples])
    boxes = np.stack(list(map(crops.body_box, joints_px, visible)))
    sides = 1.15 * (boxes[:, 2:] - boxes[:, :2]).max(axis=1)[:, None]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    expected = ((joints_px[:, 0] - centres) / sides).mean(axis=0)
    np.testing.assert_allclose(mean[0, :2], expected, atol=1e-3)
    assert np.isnan(mean[4]).all()
    # From what the network has as the reference, the surface: 5 cm before the joints.
    np.testing.assert_allclose(np.delete(mean[:, 2], 4), 0.05, atol=1e-3)
    write_json(tmp_path / "statistics.json", statistics.to_json())
    again = Statistics.read(tmp_path / "statistics.json")
    np.testing.assert_array_equal(again.mean_in_crop, mean)


def test_training_statistics_by_hand():
    statistics = training_statistics(FRAMES)
    assert statistics.skeleton == "body15"
    np.testing.assert_allclose(statistics.offsets_m, 0.05, atol=1e-3)
    # Joint 4 is never visible; the head is at the top of its box, a foot at the bottom.
    assert np.isnan(statistics.mean_pose[4]).all()
    np.testing.assert_allclose(statistics.mean_pose[[0, 14], 1], [0, 1], atol=1e-5)


def test_statistics_are_taken_once_and_stay_those_of_the_run(tmp_path):
    config = TrainConfig(run_dir=tmp_path)
    first = Run.of(config).take_statistics(FRAMES)
    other = [
        make_example(i, joints_m=np.full((15, 3), 9, np.float32)) for i in range(3)
    ]
    again = Run.of(config).take_statistics(make_frames(other))
    np.testing.assert_array_equal(first.offsets_m, again.offsets_m)
    np.testing.assert_array_equal(first.mean_pose, again.mean_pose)  # NaNs, too
    with pytest.raises(ValueError, match="holds a run on figures, but .* now others"):
        Run.of(config).take_statistics(make_frames(other, name="others"))


@pytest.mark.parametrize("memory_mode", ["shared", "per_sample"])
def test_frozen_evaluation_ignores_batches_and_rolling_does_not(memory_mode):
    model = MODELS["cmb"](num_joints=15, width=0.125, memory_mode=memory_mode)
    preparation = Preparation(side=32, crop="label_box", depth_range=1000.0)
    depth = jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
    variables = model.init(jax.random.key(0), depth, train=True, r=1.0)

    def heights(**options):
        return evaluate(model, variables, preparation=preparation, **options).scores

    frozen = heights(memory="frozen", batch_size=3)
    np.testing.assert_allclose(heights(batch_size=5), frozen, rtol=1e-4, atol=1e-6)
    backwards = dataclasses.replace(FRAMES, source=FRAMES.source[::-1])
    np.testing.assert_allclose(
        heights(frames=backwards)[::-1], frozen, rtol=1e-4, atol=1e-6
    )
    rolling = heights(memory="rolling")
    assert np.abs(rolling - frozen).max() > 1e-3
    assert len(rolling) == 7  # the short last batch is there, too


def test_mirrored_views_are_averaged():
    # Answers with what it sees: the mean over both views is symmetric.
    class Mirror(Network, kw_only=True):
        num_joints: int = 15

        @nn.compact
        def outputs(self, depth, *, train, r):
            self.variable("memory", "value", jnp.zeros, (1, 1, 1))
            maps = jnp.broadcast_to(depth[:, ::2, ::2], (len(depth), 32, 32, 15))
            return Outputs(maps)

    depth = jax.random.normal(jax.random.key(0), (2, 64, 64, 1))
    variables = {"memory": {"value": jnp.zeros((1, 1, 1))}, "params": {}}
    maps = apply_frozen(
        variables, depth, model=Mirror(), r=1.0, mirror=BODY15.mirror
    ).heatmaps
    there, back = depth[:, ::2, ::2, 0], depth[:, ::2, ::-1][:, :, ::2, 0][:, :, ::-1]
    for joint in (0, 6, 7):  # all maps are alike, and so are left and right
        np.testing.assert_allclose(maps[..., joint], (there + back) / 2, rtol=1e-6)


def test_order_of_a_rolling_memory_is_the_one_asked_for():
    model = MODELS["cmb"](num_joints=15, width=0.125)
    preparation = Preparation(side=32, crop="label_box", depth_range=1000.0)
    depth = jax.random.normal(jax.random.key(1), (3, 32, 32, 1))
    variables = model.init(jax.random.key(0), depth, train=True, r=1.0)

    def seen(**options):
        batches = predictions.predict(
            variables,
            FRAMES,
            model=model,
            r=1.0,
            preparation=preparation,
            memory="rolling",
            batch_size=3,
            **options,
        )
        return [index for batch in batches for index in batch.loaded.indices]

    assert seen(order="sorted") == list(range(7))
    assert seen(order="reversed") == list(range(6, -1, -1))
    assert sorted(seen()) == list(range(7)) != seen()
    assert seen(order_seed=1) != seen() == seen()
    with pytest.raises(ValueError, match="order must be one of shuffled, .* got 'any'"):
        seen(order="any")


def test_recurrent_network_follows_each_recording_by_itself():
    # Two recordings in two streams give what each gives alone, frame after frame.
    subjects = [b"a", b"a", b"a", b"b", b"b"]
    source = [make_example(i, subject=s) for i, s in enumerate(subjects)]
    model = MODELS["convlstm"](num_joints=15, width=0.125)
    preparation = Preparation(side=32, crop="label_box", depth_range=1000.0)
    depth = jax.random.normal(jax.random.key(1), (2, 32, 32, 1))
    variables = model.init(jax.random.key(0), depth, train=True, r=1.0)
    options = {"preparation": preparation, "memory": "rolling"}
    together = evaluate(model, variables, frames=make_frames(source), **options).scores
    alone = model.init(jax.random.key(0), depth[:1], train=True, r=1.0)
    for part in (slice(0, 3), slice(3, 5)):
        one = evaluate(model, alone, frames=make_frames(source[part]), **options)
        np.testing.assert_allclose(one.scores, together[part], rtol=1e-3, atol=1e-6)
    # A frame by itself is another thing than one that follows on others.
    single = evaluate(
        model, variables, frames=make_frames(source), preparation=preparation
    )
    np.testing.assert_allclose(single.scores[[0, 3]], together[[0, 3]], rtol=1e-3)
    assert np.abs(single.scores[1] - together[1]).max() > 1e-4


def test_rolling_writes_once_a_batch_and_leaves_the_caller_its_memory(monkeypatch):
    model = Oracle(joints_px=((32.0, 32.0),) * 15)
    variables = {"memory": {"value": jnp.zeros((1, 1, 1))}, "params": {}}
    written = []

    def keep(old, new, is_real):
        written.append((old["value"].item(), new["value"].item()))
        return new

    monkeypatch.setattr(predictions.memories, "keep", keep)
    with jax.disable_jit():
        evaluate(model, variables, memory="rolling", batch_size=3)
    assert written == [(0, 1), (1, 2), (2, 3)]  # seven frames
    assert variables["memory"]["value"].item() == 0


class InOrder(Oracle):
    """Sees recordings in order, and has one memory for all streams."""

    @property
    def sequential(self):
        return True


def test_a_shared_memory_sees_batches_of_streams_as_in_training(monkeypatch):
    """Two recordings of six and four frames, batches of four."""
    source = [make_example(i, subject=b"a" if i < 6 else b"b") for i in range(10)]
    model = InOrder(joints_px=((32.0, 32.0),) * 15)
    variables = {"memory": {"value": jnp.zeros((1, 1, 1))}, "params": {}}
    load, asked = predictions.evaluation_batches, []

    def recorded(frames, *, preparation, batches):
        asked.append(batches)
        return load(frames, preparation=preparation, batches=batches)

    monkeypatch.setattr(predictions, "evaluation_batches", recorded)
    for stream_frames in (1, 2, 4):
        result = evaluate(
            model,
            variables,
            frames=make_frames(source),
            memory="rolling",
            batch_size=4,
            stream_frames=stream_frames,
        )
        assert result.names == [f"frame {i}" for i in range(10)]
    of_four_streams, of_two, of_one = asked
    assert of_four_streams[0] == [0, 3, 6, 9]  # cut, as there are two recordings
    assert of_two[0] == [0, 6, 1, 7]
    assert of_one[0] == [0, 1, 2, 3] and of_one[1][:2] == [4, 5]
    for batch_size in (2, 6):  # no stream, and one and a half
        with pytest.raises(ValueError, match="a multiple of 4, the run's --stream_fra"):
            evaluate(
                model,
                variables,
                frames=make_frames(source),
                memory="rolling",
                batch_size=batch_size,
                stream_frames=4,
            )


def test_perfect_maps_are_drawn_once_for_all_decodes():
    drawn = []

    def draw(maps):
        drawn.append(maps.shape)
        return maps

    joints_px = np.full((2, 3, 2), 20.5, np.float32)
    visible = np.ones((2, 3), bool)
    grid = {"side": 16, "stride": 4, "sigma": 1.5, "drawn": draw}
    read = predictions.quantise(joints_px, visible, decodes=["dark", "argmax"], **grid)
    assert drawn == [(2, 16, 16, 3)]
    np.testing.assert_allclose(read["dark"], 20.5, atol=0.01)
    np.testing.assert_array_equal(read["argmax"], 22)  # the middle of cell 5


def test_raw_depth_has_no_metres():
    raw = make_frames(FRAMES.source, metric=False)
    result = evaluate(Oracle(joints_px=((32.0, 32.0),) * 15), frames=raw)
    assert result.poses.predictions_m is None


def test_empty_split_is_refused():
    empty = make_frames([])
    with pytest.raises(ValueError, match="the split has no frames"):
        evaluate(Oracle(joints_px=((32.0, 32.0),) * 15), frames=empty)


def test_results_folder_holds_what_the_table_says(tmp_path):
    result = evaluate(Oracle(joints_px=((32.0, 32.0),) * 15))
    columns = report.results_table(result, BODY15, ["map_10cm"], None)
    report.write_results(tmp_path, result, FRAMES, columns, {"seed": 3}, None)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"results.json", "joints.csv", "frames.png", "pdj.png"}
    lines = (tmp_path / "joints.csv").read_text().splitlines()
    assert len(lines) == 1 + 7 * 15
    # Joint 4 is not visible: it has no error.
    assert lines[5].startswith("frame 0,right_elbow,0,")
    assert lines[5].endswith(",nan,1")
    assert cv2.imread(str(tmp_path / "frames.png")).std() > 10
