"""Predictor and predict.py, with a small untrained network and with the pretrained."""

import dataclasses
import json
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

import cmbjax
import datasets
from cmbjax.camera import ITOP_CAMERA, camera_to_pixels, pixels_to_camera
from cmbjax.data.views import Preparation
from cmbjax.depth import crops, detector
from cmbjax.evaluate import predictions
from cmbjax.predict import overlay, records
from cmbjax.predict import predictor as predictor_module
from cmbjax.predict.card import WEIGHTS, Arguments, read_card
from cmbjax.predict.predictor import TWIN, Look, Predictor, Stream
from cmbjax.predict.runtimes import load_weights
from cmbjax.skeletons import BODY15
from cmbjax.train.run import Run
from datasets import schema
from tests import fabricate
from tests.predict.scenes import HAS_ONNX, person

ROOT = Path(__file__).parents[2]


def test_what_is_seen_leads_back_to_the_frame(small):
    predictor = Predictor(small["maps"])
    depth = person(0).depth_mm
    (found,) = predictor.find(depth)
    view = predictor.view(depth, found)
    np.testing.assert_array_equal(view.box, found.box)
    assert view.depth.shape == (1, 32, 32, 1)
    # Exactly there and back: the crop's corners, and a joint.
    corners = np.array([[0.0, 0], [32, 0], [32, 32], [10, 20]], np.float32)
    inside = crops.transform_points(crops.invert(view.frame_from_crop), corners)
    back = crops.transform_points(view.frame_from_crop, inside)
    np.testing.assert_allclose(back, corners, atol=1e-3)
    centre = crops.transform_points(view.frame_from_crop, np.array([[16.0, 16.0]]))
    middle = (found.body_box[:2] + found.body_box[2:]) / 2
    np.testing.assert_allclose(centre[0], middle, atol=1e-3)
    # The middle of the crop shows the person's own depth.
    assert abs(view.reference_mm - depth[person(0).parts > 0].mean()) < 200


def test_metres_from_pixels_and_depth_by_hand(small):
    """One peak in each heat map, 1.5 m behind the person's depth at every joint."""
    predictor = Predictor(small["maps"], camera=(200, 100, 50, 30))
    # A card without a calibration: the confidence is the peak.
    predictor.card = dataclasses.replace(predictor.card, calibration=None)
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 4] = 0.7  # row 8, column 4: the crop's pixel (9, 17)
    depths = np.full((1, 16, 16, 15), 0.5, np.float32)  # of a range of 1 m
    depth_mm = np.full((60, 100), 2000, np.uint16)
    # A crop of 32 px that shows 64 px of the frame, from (10, -2) on.
    box = np.array([42.0, 30, 42, 30]) + 32 / crops.MARGIN * np.array([-1, -1, 1, 1])
    view = predictor.crop(depth_mm, box)
    assert view.reference_mm == 2000
    pose = predictor.decode(view, {"heatmaps": maps, "depth_maps": depths}, depth_mm)
    np.testing.assert_allclose(pose.joints_px, [[28, 32]] * 15, atol=1e-3)
    # z = 2 + 0.5; x = (28 - 50) / 200 z; y = (32 - 30) / 100 z.
    np.testing.assert_allclose(pose.joints_m, [[-0.275, 0.05, 2.5]] * 15, atol=1e-4)
    np.testing.assert_allclose(pose.confidence, 0.7)
    assert pose.depth_m == 2.0


def test_joints_are_seen_hidden_or_not_in_the_picture(small):
    predictor = Predictor(small["maps"], camera=(200, 200, 50, 30))
    depth_mm = np.full((60, 100), 2000, np.uint16)
    depth_mm[:, 60:] = 1500
    view = predictor.crop(depth_mm, np.array([20.0, 5, 80, 55]), distance_mm=2000.0)
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 7] = 0.6  # near the middle, on the surface of 2 m
    maps[0, :, :, 1] = 0
    maps[0, 8, 13, 1] = 0.6  # at the right, where something is 0.5 m before it
    maps[0, :, :, 2] *= 0.1  # hardly anywhere
    maps[0, :, :, 3] = 0
    maps[0, 0, 8, 3] = 0.6  # above the picture
    maps[0, :, :, 4:6] = 0
    maps[0, 1, 8, 4:6] = 0.39, 0.41  # beside the upper edge: a low peak, a higher one
    pose = predictor.decode(
        view, {"heatmaps": maps, "depth_maps": np.zeros_like(maps)}, depth_mm
    )
    assert pose.joints_px[3, 1] < 0 < pose.joints_px[4, 1] < 3.6  # 0.06 of 60 pixels
    assert pose.visibility.tolist() == [2, 1, 0, 0, 0, 2] + [2] * 9
    for seen, all_of_them in (
        (pose.seen_px, pose.joints_px),
        (pose.seen_m, pose.joints_m),
    ):
        assert np.isnan(seen[1:5]).all()
        np.testing.assert_array_equal(seen[5:], all_of_them[5:])
    line = records.line(Path("a.png"), [pose], predictor.camera, BODY15, depth_mm.shape)
    (person_of_file,) = records.coco([line], BODY15, Path())["annotations"]
    keypoints = np.reshape(person_of_file["keypoints"], (15, 3))
    assert person_of_file["num_keypoints"] == 12
    np.testing.assert_array_equal(keypoints[:, 2], pose.visibility)
    np.testing.assert_allclose(keypoints[1, :2], pose.joints_px[1], atol=0.01)
    assert not keypoints[2:5].any()


def test_confidence_is_the_probability_that_the_card_says(small):
    predictor = Predictor(small["maps"])
    offset, slope = np.zeros(15), np.ones(15)
    offset[0], slope[1] = 1.0, 2.0
    calibration = tuple(zip(offset.tolist(), slope.tolist(), strict=True))
    predictor.card = dataclasses.replace(predictor.card, calibration=calibration)
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 8] = 0.5
    depth_mm = np.full((60, 100), 2000, np.uint16)
    view = predictor.crop(depth_mm, np.array([20.0, 5, 80, 55]))
    pose = predictor.decode(view, {"heatmaps": maps}, depth_mm)
    odds = [np.e * 0.5, 0.25] + 13 * [0.5]  # exp(offset) peak^slope
    np.testing.assert_allclose(pose.confidence, np.divide(odds, np.add(odds, 1)))


@pytest.fixture
def without_mirror(monkeypatch):
    """Everybody is plain, and gets one look, as in evaluation and of a stream."""
    for what in predictor_module.PLAIN:
        monkeypatch.setitem(predictor_module.PLAIN, what, 0.0)


def peaked(height):
    """What a network gives that is as sure as that of every joint."""
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 8] = height
    return {"heatmaps": maps, "depth_maps": np.zeros_like(maps)}


@pytest.mark.parametrize("network", ["hands", "people"])
def test_what_is_not_plain_is_seen_in_a_mirror_as_well(monkeypatch, network):
    predictor = Predictor(network, decode="dark")
    joints = predictor.skeleton.num_joints
    # Odds of exp(3) peak^4: a peak of 0.75 is right by 0.86, one of 0.5 by 0.56.
    calibration = ((3.0, 4.0),) * joints
    predictor.card = dataclasses.replace(predictor.card, calibration=calibration)
    depth_mm = np.full((120, 160), 500, np.uint16)
    depth_mm[:, 80:] = 550
    view = predictor.crop(depth_mm, np.array([40.0, 20, 120, 100]))
    heights, asked = [], []

    def run(self, seen):
        maps = np.zeros((1, 48, 48, joints), np.float32)
        depths = np.zeros_like(maps)
        if asked:  # in the mirror they are elsewhere, and a quarter farther
            maps[0, 20, 5] = heights[1]
            depths[0, 20, 4:7] = 0.25
        else:
            maps[0, 20, 30] = heights[0]
        asked.append(seen.depth)
        return {"heatmaps": maps, "depth_maps": depths}

    monkeypatch.setattr(Predictor, "run", run)
    heights[:] = 0.75, 0.9

    def settled(view):
        return predictor._settled(predictor.ask(view, depth_mm), depth_mm)

    plain = settled(view)
    assert len(asked) == 1
    np.testing.assert_allclose(plain.peaks, 0.75)
    heights[:] = 0.5, 0.8
    silent = dataclasses.replace(predictor.card, calibration=None)
    # Of hardly anybody, and where the network does not say how sure it is: one look.
    for other in (view._replace(score=1e-3), view._replace(card=silent)):
        asked.clear()
        settled(other)
        assert len(asked) == 1
    asked.clear()
    pose = settled(view)
    np.testing.assert_array_equal(asked[1], asked[0][:, :, ::-1])
    assert len(asked) == 2
    # Both count by half. Column 5 of 48 in the mirror is 42 of the crop itself.
    np.testing.assert_allclose(pose.peaks, 0.4)
    back = crops.invert(view.frame_from_crop)
    in_crop = crops.transform_points(back, pose.joints_px)
    np.testing.assert_allclose(in_crop, [[2 * 42.5, 2 * 20.5]] * joints, atol=0.01)
    reach_m = predictor.card.depth_range / 1000
    behind = pose.joints_m[:, 2] - pose.depth_m
    np.testing.assert_allclose(behind, 0.125 * reach_m, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the trunk of somebody")
def test_poses_tell_people_from_things(small, monkeypatch):
    """A chair that the detector takes for somebody has its joints nowhere."""
    up = np.array([0.0, -1.0], np.float32)
    boxes = np.array([[10, 10, 90, 200], [150, 10, 250, 200]], np.float32)
    found = [
        detector.Person(box, box, 2000.0, score, up)
        for box, score in zip(boxes, (0.8, 0.3), strict=True)
    ]
    depth_mm = np.full((240, 320), 2000, np.uint16)

    def predictor(**options):
        made = Predictor(small["maps"], **options)
        made._detector = lambda depth_mm, *, focal_px, least_score: [
            person for person in found if person.score >= least_score
        ]
        return made

    posed = []

    def run(self, view):
        posed.append(view.box[0])
        return peaked(0.02 if view.box[0] < 100 else 0.9)

    monkeypatch.setattr(Predictor, "run", run)
    # A card that says nothing of it: the detector alone decides.
    (pose,) = predictor(people="all")(depth_mm)
    assert pose.box[0] == 10 and pose.score == pytest.approx(0.8)
    card = read_card(small["maps"])
    card = dataclasses.replace(card, calibration=None, presence=(0.0, 1.0, 1.0))
    monkeypatch.setattr("cmbjax.predict.predictor.read_card", lambda folder: card)
    (pose,) = predictor(people="all")(depth_mm)
    assert pose.box[0] == 150
    odds = 0.3 / 0.7 * 0.9 / 0.1
    assert pose.score == pytest.approx(odds / (1 + odds), abs=1e-3)
    both = predictor(people="all", least_score=0.05)(depth_mm)
    assert [pose.box[0] for pose in both] == [150, 10]  # as near, the surer first
    assert predictor(people="all", least_score=0.9)(depth_mm) == []
    # Asked for the nearest, who is far less sure than the surest is posed if that is
    # nobody.
    posed.clear()
    (pose,) = predictor()(depth_mm)
    assert pose.box[0] == 150 and posed == [10, 150]
    found[0] = found[0]._replace(score=0.3)
    found[1] = found[1]._replace(score=0.8)
    posed.clear()
    (pose,) = predictor()(depth_mm)
    assert pose.box[0] == 150 and posed == [150]
    found[:] = []
    assert predictor()(depth_mm) == []
    # A box that is given is somebody's.
    given = predictor()(depth_mm, boxes=boxes)
    assert [pose.score for pose in given] == [1.0, 1.0]
    assert predictor()(depth_mm, boxes=np.array([])) == []


@pytest.mark.parametrize(
    ("number", "size", "said"),
    [(np.uint16, 0.1, "0.0"), (np.uint16, 4, "[12].."), (np.float32, 3.28, "1.")],
)
def test_people_of_no_human_size_are_doubted_once(number, size, said):
    """Centimetres, quarters of a millimetre, feet: well found, of another length."""
    depth_mm, parts = person(0).depth_mm, person(0).parts
    scaled = np.where(depth_mm < 16_000, depth_mm, 0) * size
    frame = scaled / 1000 if number is np.float32 else np.rint(scaled)
    predictor = Predictor(least_score=0.1)
    with pytest.warns(UserWarning, match=f"trunk of .* is {said}.* another unit"):
        (pose,) = predictor(frame.astype(number))
    assert pose.confidence.mean() > 0.7
    predictor(frame.astype(number))  # would be an error here
    scales = {"depth_scale": np.float32(0.001 / size)}
    if number is np.uint16:
        (right,) = Predictor(**scales)(frame.astype(number))
        there_m = np.median(depth_mm[parts > 0]) / 1000
        assert right.depth_m == pytest.approx(there_m, abs=0.3)


@pytest.mark.filterwarnings("ignore:the trunk of somebody")
def test_one_person_is_given_once(small, monkeypatch):
    """Two boxes of one person, in which the joints are at one place."""
    up = np.array([0.0, -1.0], np.float32)
    boxes = np.array([[10, 10, 90, 200], [10, 10, 90, 120], [200, 10, 280, 200]])
    found = [
        detector.Person(box, boxes[number // 2], 2000.0, score, up)
        for number, (box, score) in enumerate(zip(boxes, (0.6, 0.8, 0.5), strict=True))
    ]
    predictor = Predictor(small["maps"], people="all")
    monkeypatch.setattr(predictor, "_detector", lambda *_, **__: found)
    # Of odds of exp(3) peak^4 a peak of 0.6 is right by 0.72: who is not plain is seen
    # in a mirror as well, but only once.
    calibration = ((3.0, 4.0),) * predictor.skeleton.num_joints
    predictor.card = dataclasses.replace(predictor.card, calibration=calibration)
    runs = []
    monkeypatch.setattr(predictor, "run", lambda view: runs.append(0) or peaked(0.6))
    poses = predictor(np.full((240, 320), 2000, np.uint16))
    assert [(pose.score, pose.box[0]) for pose in poses] == [(0.8, 10), (0.5, 200)]
    assert len(runs) == 2 + 1 + 2


def test_who_is_dropped_keeps_nobody_from_a_second_look(small, monkeypatch):
    """The second is the first once more; the third is near the second alone."""
    predictor = Predictor(small["maps"], people="all")
    up, box = np.array([0.0, -1.0], np.float32), np.array([10.0, 10, 90, 200])
    found = [detector.Person(box, box, 2000.0, s, up) for s in (0.9, 0.8, 0.7)]
    monkeypatch.setattr(predictor, "_detector", lambda *_, **__: found)
    limit = TWIN * predictor.skeleton.right_m
    (pose,) = predictor.poses(np.full((240, 320), 2000, np.uint16), boxes=box[None])
    settled = []

    def ask(view, depth_mm):
        rank = [0.9, 0.8, 0.7].index(view.score)
        moved = pose.joints_m + np.array([0.7 * limit * rank, 0, 0], np.float32)
        seen = dataclasses.replace(pose, joints_m=moved, score=view.score)
        return Look(view, seen, {})

    def settle(look, depth_mm):
        settled.append(look.pose.score)
        return look.pose

    monkeypatch.setattr(predictor, "ask", ask)
    monkeypatch.setattr(predictor, "_settled", settle)
    given = predictor(np.full((240, 320), 2000, np.uint16))
    assert [pose.score for pose in given] == settled == [0.9, 0.7]
    # Nor does who is nobody.
    settled.clear()
    monkeypatch.setattr(predictor, "least_score", 0.95)
    assert predictor(np.full((240, 320), 2000, np.uint16)) == []
    assert settled == [0.9, 0.8, 0.7]


def test_who_is_nobody_leaves_no_trace_in_a_rolling_memory(small, monkeypatch):
    frame = person(0).depth_mm
    predictor = Predictor(small["rolling"], memory="rolling")
    stream, other = Stream(predictor), Stream(predictor)
    (first,) = stream(frame)
    (again,) = stream(frame)
    assert (again.joints_m != first.joints_m).any()  # what was before counts
    monkeypatch.setattr(predictor, "least_score", 0.999)
    assert other(frame) == []
    monkeypatch.undo()
    (later,) = other(frame)
    np.testing.assert_array_equal(later.joints_m, first.joints_m)


def test_a_view_is_turned_by_what_is_known_of_the_camera(small):
    depth = np.rot90(person(0).depth_mm)  # the camera lies on its side
    upright = np.array([90.0, 20, 190, 220])
    expected = Predictor(small["maps"]).crop(person(0).depth_mm, upright)
    box = np.array([20.0, 130, 220, 230])  # of the same pixels
    turned = Predictor(small["maps"], roll=90).crop(depth, box)
    assert (turned.depth != expected.depth).mean() < 0.02  # but for pixels' rounding
    with pytest.raises(
        ValueError, match="roll must be 0, 90, 180 or 270 degrees, got 45"
    ):
        Predictor(small["maps"], roll=45)


def test_without_a_head_the_depth_is_looked_up(small):
    predictor = Predictor(small["none"], camera=(200, 200, 50, 30))
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 8] = 1.0
    depth_mm = np.full((60, 100), 2000, np.uint16)
    view = predictor.crop(depth_mm, np.array([20.0, 5, 80, 55]))
    pose = predictor.decode(view, {"heatmaps": maps}, depth_mm)
    offsets = np.array(predictor.card.offsets_m)
    np.testing.assert_allclose(pose.joints_m[:, 2], 2 + offsets, atol=1e-5)
    expected = pixels_to_camera(pose.joints_px, pose.joints_m[:, 2], predictor.camera)
    np.testing.assert_allclose(pose.joints_m, expected, atol=1e-5)


@pytest.mark.parametrize("head", ["none", "maps"])
def test_predictor_gives_what_evaluation_gives(small, head, without_mirror):
    folder = small[head]
    frames = datasets.load(
        "mannequin/tiny", None, folder.parents[2] / "tfds", split="test", limit=3
    )
    predictor = Predictor(folder, camera=ITOP_CAMERA)
    model, variables = load_weights(predictor.card)
    run = Run.open(folder.parents[1])
    result = predictions.evaluate(
        variables,
        frames,
        run.statistics,
        sigma=1.5,
        preparation=Preparation(side=32, crop="person", depth_range=1000.0),
        model=model,
        r=predictor.card.r,
        decode=predictor.decode_name,
    )
    assert result.is_found.any()
    for index in np.flatnonzero(result.is_found):
        png = np.frombuffer(frames.source[index]["depth"], np.uint8)
        depth = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        (pose,) = predictor(depth)
        np.testing.assert_allclose(
            pose.joints_px, result.poses.predictions_px[index], atol=0.02
        )
        np.testing.assert_allclose(
            pose.joints_m, result.poses.predictions_m[index], atol=1e-3
        )


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
@pytest.mark.parametrize("backend", ["jax", "openvino"])
@pytest.mark.parametrize("memory", ["frozen", "rolling"])
def test_backends_agree(small, backend, memory):
    folder = small["maps" if memory == "frozen" else "rolling"]
    frames = [person(index).depth_mm for index in (0, 1, 2)]
    ours = Predictor(folder, memory=memory)
    other = Predictor(folder, memory=memory, backend=backend)
    for a, b in zip(ours.stream(frames), other.stream(frames), strict=True):
        np.testing.assert_allclose(a[0].joints_px, b[0].joints_px, atol=0.01)
        np.testing.assert_allclose(a[0].joints_m, b[0].joints_m, atol=1e-3)


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_share_a_predictor(small, backend):
    predictor = Predictor(small["maps"], backend=backend)
    frames = [person(index).depth_mm for index in (0, 1, 2)] * 8
    expected = [predictor(frame)[0].joints_m for frame in frames[:3]] * 8
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(predictor, frames))
    for (pose,), joints_m in zip(found, expected, strict=True):
        np.testing.assert_array_equal(pose.joints_m, joints_m)


@pytest.mark.parametrize("backend", ["onnxruntime", "jax"])
def test_streams_of_one_predictor_keep_their_memories_apart(small, backend):
    folder = small["maps" if backend == "jax" else "rolling"]
    predictor = Predictor(folder, memory="rolling", backend=backend)
    cameras = [[person(i).depth_mm for i in order] for order in ((0, 1, 2), (2, 1, 0))]
    alone = [[poses[0].joints_m for poses in predictor.stream(c)] for c in cameras]
    assert (alone[0][1] != alone[1][1]).any()  # of one frame: what was before counts
    streams = Stream(predictor), Stream(predictor)
    for number in range(3):
        for stream, frames, expected in zip(streams, cameras, alone, strict=True):
            (pose,) = stream(frames[number])
            np.testing.assert_array_equal(pose.joints_m, expected[number])
    predictor(cameras[0][0])
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match="rolling memory is another thread's"),
    ):
        executor.submit(predictor, cameras[1][0]).result()
    with pytest.raises(ValueError, match="a stream needs Predictor"):
        Stream(Predictor(small["maps"]))


def test_a_stream_tells_of_bad_frames_and_goes_on(small, tmp_path):
    predictor = Predictor(small["maps"])
    frames = [person(0).depth_mm, np.zeros((5, 5), np.uint16), tmp_path / "none.png"]
    frames.append(frames[0])
    told = []
    poses = list(
        predictor.stream(frames, on_error=lambda frame, error: told.append(str(error)))
    )
    assert [len(people) for people in poses] == [1, 0, 0, 1]
    assert "no reading in it" in told[0] and "none.png: no such" in told[1]
    with pytest.raises(ValueError, match="no reading in it"):
        list(predictor.stream(frames))


def test_rolling_memory_remembers_frames_and_frozen_does_not(small):
    depth, before = person(1).depth_mm, person(0).depth_mm
    for memory in ("frozen", "rolling"):
        predictor = Predictor(small["maps"], memory=memory, backend="jax")
        first = predictor(depth)[0].joints_m
        predictor.reset()
        predictor(before)
        later = predictor(depth)[0].joints_m
        predictor.reset()
        again = predictor(depth)[0].joints_m
        np.testing.assert_array_equal(first, again)
        assert (first == later).all() == (memory == "frozen")


def test_files_arrays_and_units_give_one_pose(small, tmp_path):
    predictor = Predictor(small["maps"])
    depth = person(0).depth_mm
    (tmp_path / "0.png").write_bytes(schema.encode_png(depth))
    np.save(
        tmp_path / "1.npy", np.where(depth, depth / 1000, np.nan).astype(np.float32)
    )
    frames = [
        depth,
        str(tmp_path / "0.png"),
        tmp_path / "1.npy",
        depth.astype(np.int32),
    ]
    (first, *others) = [poses[0] for poses in predictor.stream(frames)]
    others += [poses[0] for poses in predictor.stream(tmp_path)]
    for pose in others:
        np.testing.assert_array_equal(pose.joints_m, first.joints_m)


def test_poses_are_of_frames_that_were_read(small):
    predictor = Predictor(small["maps"])
    for boxes in (None, np.array([[10.0, 10, 90, 200]])):
        with pytest.raises(ValueError, match=r"that was read must be .* uint16, got"):
            predictor.poses(np.full((240, 320), 2.5, np.float32), boxes=boxes)


def test_a_far_value_for_no_reading_changes_nothing():
    depth = person(0).depth_mm.copy()
    depth[np.random.default_rng(0).random(depth.shape) < 0.2] = 0
    predictor = Predictor(camera=ITOP_CAMERA)
    (expected,) = predictor(depth)
    for value in (10_000, 12_345):
        (pose,) = predictor(np.where(depth == 0, np.uint16(value), depth))
        np.testing.assert_array_equal(pose.joints_m, expected.joints_m)


def test_a_frame_without_a_person_gives_no_pose(small):
    wall = np.full((240, 320), 4000, np.uint16)
    predictor = Predictor(small["maps"])
    assert predictor(wall) == []
    assert len(predictor(wall, boxes=np.array([[10.0, 10, 90, 200]]))) == 1
    for boxes, says in (
        ([10.0, 10, 90, 200], r"boxes must be \[people, 4\]"),
        ([[10.0, 10, 10, 200]], "x0, y0, x1, y1 in pixels, at least 2 wide and high"),
        ([[0.1, 0.1, 0.9, 0.9]], "at least 2 wide and high, got"),
        (["a"], r"boxes must be \[people, 4\], .* got \['a'\]"),
        ([[400.0, 10, 500, 200]], r"box \[400.0, .* holds no reading"),
    ):
        with pytest.raises(ValueError, match=says):
            predictor(wall, boxes=np.array(boxes))


def test_a_candidate_without_a_reading_is_nobody_and_stops_nothing(small, monkeypatch):
    """The detector may say any depth, and see somebody where nothing was measured."""
    predictor = Predictor(small["maps"], people="all")
    depth = np.zeros((240, 320), np.uint16)
    depth[:, 200:] = 3000
    box = np.array([20.0, 40, 90, 200], np.float32)
    up = np.array([0, -1], np.float32)
    nobody = detector.Person(box, box, -400.0, 0.9, up)
    there = nobody._replace(box=box + [200, 0, 200, 0], body_box=box + [200, 0, 200, 0])
    monkeypatch.setattr(predictor, "find", lambda _: [nobody, there])
    poses = predictor(depth)
    assert {pose.depth_m for pose in poses} == {0.001, 3.0}
    assert all(np.isfinite(pose.joints_m).all() for pose in poses)


def test_bad_arguments_are_refused(small, tmp_path):
    cases = [
        ({"backend": "tensorrt"}, "backend must be one of onnxruntime, openvino, jax"),
        ({"people": "some"}, "people must be one of nearest, all, got 'some'"),
        ({"people": "all", "memory": "rolling"}, "follows one person"),
        ({"memory": "warm"}, "memory must be one of frozen, rolling, got 'warm'"),
        ({"precision": "bf16"}, "precision='bf16' is openvino's, got backend='onnx"),
        ({"precision": "int8", "backend": "jax"}, "is of ONNX files, got backend='jax"),
        ({"precision": "f16"}, "precision must be one of f32, bf16, int8, got 'f16'"),
        ({"depth_scale": 0.0}, "depth_scale must be a number above 0, got 0"),
        ({"max_pixels": 0}, "max_pixels must be a number above 0, got 0"),
        ({"camera": (285, 285, 160)}, r"camera must be \[fx, fy, cx, cy\]"),
        ({"camera": (0, 285, 160, 120)}, "focal lengths above 0"),
        ({"camera": np.array(["a"] * 4)}, r"camera must be .* got \['a' 'a' 'a' 'a'\]"),
        ({"least_score": 0.0}, "least_score must be a number above 0 and below 1, got"),
        ({"least_score": float("nan")}, "least_score must be .* below 1, got nan"),
        ({"decode": "mean"}, "unknown decode 'mean'"),
        ({"network": tmp_path}, "holds no card.json"),
    ]
    for options, says in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            Predictor(**{"network": small["maps"]} | options)


def test_damaged_weights_are_refused(small, tmp_path):
    for name in ("card.json", "weights.npz"):
        content = (small["none"] / name).read_bytes()
        (tmp_path / name).write_bytes(content[: -(name == "weights.npz") or None])
    with pytest.raises(ValueError, match=r"weights\.npz is damaged"):
        Predictor(tmp_path, backend="jax")
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.npz is not there"):
        Predictor(tmp_path, backend="jax")
    with pytest.raises(FileNotFoundError, match=r"network\.onnx is not there"):
        Predictor(tmp_path)


@pytest.mark.skipif(not HAS_ONNX, reason="needs requirements-export.txt")
def test_onnx_of_which_a_bit_is_flipped_is_refused(small, tmp_path):
    shutil.copytree(small["maps"], tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / "network.onnx").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "network.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"network\.onnx is damaged"):
        Predictor(tmp_path)


def test_card_of_the_first_format_is_read(small, tmp_path):
    stored = json.loads((small["maps"] / "card.json").read_text())
    del stored["format"], stored["network"], stored["sha256"]
    (tmp_path / "card.json").write_text(json.dumps(stored))
    old, new = read_card(tmp_path), read_card(small["maps"])
    assert (
        old.network
        == new.network
        == Arguments("cmb", 15, 0.125, "maps", "shared", True)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 9}, "has the format 9; this version of cmbjax reads 2"),
        ({"side": None}, "lacks side: export the network again"),
    ],
)
def test_card_of_another_version_is_refused_in_one_line(
    small, tmp_path, fields, message
):
    stored = json.loads((small["maps"] / "card.json").read_text())
    changed = {k: v for k, v in (stored | fields).items() if v is not None}
    (tmp_path / "card.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message) as error:
        read_card(tmp_path)
    assert "\n" not in str(error.value)


def test_networks_are_loaded_by_name_from_a_folder_and_from_a_run(small):
    model, variables = cmbjax.load("people-96")
    assert (model.num_joints, model.head3d, model.width) == (15, "maps", 0.5)
    of_folder = cmbjax.load(small["maps"])
    of_run = cmbjax.load(small["maps"].parents[1])
    assert of_folder[0] == of_run[0]
    jax.tree.map(np.testing.assert_array_equal, *(x[1] for x in (of_folder, of_run)))
    depth = np.zeros((1, 32, 32, 1), np.float32)
    outputs = of_run[0].apply(of_run[1], depth, train=False, r=3.0)
    assert outputs.heatmaps.shape == outputs.depth_maps.shape == (1, 16, 16, 15)
    with pytest.raises(FileNotFoundError, match="one of the package's .*: .*people-96"):
        cmbjax.load("people-69")


def test_overlay_has_the_colours_of_the_skeleton_on_its_bones():
    depth = np.full((120, 160), 2000, np.uint16)
    depth[:, 80:] = 3000
    depth[:10] = 0
    joints_px = np.full((15, 2), np.nan, np.float32)
    joints = [BODY15.joints.index(name) for name in ("right_knee", "right_foot")]
    joints_px[joints] = [[40, 30], [40, 90]]
    picture = overlay.draw(depth, [joints_px], BODY15)
    scale = picture.shape[0] // 120
    assert picture.shape == (120 * scale, 160 * scale, 3) and picture.shape[1] >= 640

    def at(x, y):
        return picture[int(y * scale), int(x * scale)].tolist()

    assert at(40, 60) == [0x00, 0x9F, 0xE6]  # the right side is orange, here as BGR
    assert at(100, 60) < at(70, 60)  # far is dark, near is light
    assert at(20, 5) == list(overlay.HOLE)
    # A frame of one column is not made one of 640.
    assert overlay.draw(np.full((1600, 1), 2000, np.uint16), [], BODY15).size == 4800
    # Nothing is drawn of joints that are no numbers, or of bones to them.
    empty = overlay.draw(depth, [np.full((15, 2), np.nan)], BODY15)
    np.testing.assert_array_equal(empty, overlay.draw(depth, [], BODY15))


def test_prediction_loads_no_package_of_training(tmp_path):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    code = f"""
import sys
import predict
predict.main(predict.parse([{str(tmp_path / "a.npy")!r}, "--out_dir={tmp_path}/out"]))
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"numpy", "cv2", "onnxruntime"} <= loaded
    absent = "jax jaxlib flax grain orbax optax tqdm matplotlib tyro jaxtyping scipy"
    assert not loaded & set(absent.split())


@pytest.mark.slow
def test_in_jax_the_second_process_compiles_nothing(small, tmp_path):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    cache = tmp_path / "cache"
    environment = fabricate.environment(ROOT) | {
        "JAX_COMPILATION_CACHE_DIR": str(cache)
    }
    kept = []
    for turn in range(2):
        command = [sys.executable, ROOT / "predict.py", tmp_path / "a.npy"]
        flags = ["--backend=jax", f"--network={small['maps']}"]
        command += [*flags, f"--out_dir={tmp_path}/{turn}"]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        kept.append({path.name for path in cache.iterdir()})
    assert len(kept[0]) > 50 and kept[1] == kept[0]


@pytest.mark.slow
def test_prediction_runs_where_four_packages_are_installed(tmp_path):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    packages = ("numpy", "opencv-python-headless", "onnxruntime")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    command = [python, ROOT / "predict.py", tmp_path / "a.npy"]
    subprocess.run([*command, f"--out_dir={tmp_path}/out"], check=True, cwd=ROOT)
    (line,) = (tmp_path / "out/poses.jsonl").read_text().splitlines()
    assert len(json.loads(line)["people"]) == 1


def test_pretrained_weights_place_a_known_pose_within_7_cm():
    predictor = Predictor(camera=ITOP_CAMERA)
    assert predictor.skeleton is BODY15
    errors = []
    for index in (0, 1, 2, 4):
        frame = person(index)
        (pose,) = predictor(frame.depth_mm)
        errors.append(np.linalg.norm(pose.joints_m - frame.joints_m, axis=-1))
        projected = camera_to_pixels(pose.joints_m, ITOP_CAMERA)
        np.testing.assert_allclose(projected, pose.joints_px, atol=1e-2)
    # These figures are simpler than any that the weights have seen.
    assert np.mean(errors) < 0.07


def test_frames_of_any_size_give_the_same_metres():
    """Twice the pixels and twice the focal length: the same scene."""
    depth = person(0).depth_mm
    (small,) = Predictor(camera=ITOP_CAMERA)(depth)
    large = depth.repeat(2, axis=0).repeat(2, axis=1)
    (other,) = Predictor(camera=2 * ITOP_CAMERA)(large)
    np.testing.assert_allclose(other.joints_px, 2 * small.joints_px, atol=2.0)
    np.testing.assert_allclose(other.joints_m, small.joints_m, atol=0.02)


def test_pretrained_weights_fit_into_the_repository():
    sizes = {path: path.stat().st_size for path in WEIGHTS.rglob("*.*")}
    people = [size for path, size in sizes.items() if "hand" not in path.parent.name]
    assert sum(people) < 25e6 and sum(sizes.values()) < 32e6


def test_two_people_give_two_poses():
    """Of two frames, the second one's person is put beside the first one's."""
    first, second = person(0), person(1)
    depth = first.depth_mm.copy()
    shift = 95
    mask = np.roll(second.parts > 0, shift, axis=1)
    moved = np.roll(second.depth_mm, shift, axis=1)
    nearer = mask & (moved > 0) & ((depth == 0) | (moved < depth))
    depth[nearer] = moved[nearer]
    poses = Predictor(camera=ITOP_CAMERA, people="all")(depth)
    assert len(poses) == 2
    truths = [first.joints_px, second.joints_px + (shift, 0)]
    for truth in truths:
        distances = [
            np.linalg.norm(pose.joints_px - truth, axis=-1).mean() for pose in poses
        ]
        assert min(distances) < 8 and max(distances) > 40
    assert poses[0].depth_m <= poses[1].depth_m
    assert len(Predictor(camera=ITOP_CAMERA)(depth)) == 1


def test_predictor_is_at_hand_under_its_name():
    assert cmbjax.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'predictor_of'"):
        _ = cmbjax.predictor_of


def test_who_may_be_seen_from_above_is_posed_by_the_network_that_is_surer(monkeypatch):
    """The detector says who: whose trunk is short in the picture."""
    predictor = Predictor(camera=ITOP_CAMERA)
    depth = person(0).depth_mm
    (found,) = predictor.find(depth)
    above = found._replace(up=np.array([0.1, -0.2], np.float32))
    names = [view.card.folder.name for view in predictor.views(depth, above)]
    assert names == ["people-96", "people-above-96"]
    (view,) = predictor.views(depth, found)
    assert view.card.folder.name == "people-96"
    alone = Predictor("people-96", camera=ITOP_CAMERA)
    assert len(alone.views(depth, above)) == 1  # the one that was asked for
    for name in ("people", Path("people")):
        assert len(Predictor(name, camera=ITOP_CAMERA).views(depth, above)) == 2
    monkeypatch.setattr(predictor, "find", lambda _: [above])
    expected = []
    for name in names:
        one = Predictor(name, camera=ITOP_CAMERA)
        box, distance = np.asarray(found.body_box, np.float32), found.depth
        seen = one.crop(depth, box, distance_mm=distance)
        expected.append(one.decode(seen, one.run(seen), depth))
    surer = max(expected, key=lambda pose: pose.confidence.mean())
    (pose,) = predictor(depth)
    np.testing.assert_array_equal(pose.joints_m, surer.joints_m)
    assert surer is expected[0]  # of somebody who stands before the camera


@pytest.mark.filterwarnings("ignore:the trunk of somebody")
def test_in_a_box_the_other_network_is_asked_where_the_first_is_not_sure(monkeypatch):
    """What answers is seen in a mirror where neither is sure."""
    predictor = Predictor(camera=ITOP_CAMERA)
    depth = person(0).depth_mm
    (found,) = predictor.find(depth)
    names = [predictor.card.folder.name, predictor._above.folder.name]
    heights, asked = {}, []

    def run(view):
        asked.append(view.card.folder.name)
        outputs = peaked(heights[asked[-1]])
        if len(asked) == 3:  # the mirror's, which says the same
            outputs = {name: maps[:, :, ::-1] for name, maps in outputs.items()}
        return outputs

    monkeypatch.setattr(predictor, "run", run)
    first, above = names
    for peaks, expected, surer in (
        ((0.9, 0.95), [first], 0.9),
        ((0.1, 0.001), [first, above, first], 0.1),
        ((0.1, 0.9), [first, above], 0.9),
    ):
        heights |= dict(zip(names, peaks, strict=True))
        asked.clear()
        (pose,) = predictor(depth, boxes=found.body_box[None])
        assert asked == expected
        assert pose.peaks[0] == pytest.approx(surer, rel=0.2)


@pytest.mark.filterwarnings("ignore:the trunk of somebody")
def test_the_nearest_is_posed_though_another_is_surer(monkeypatch):
    """Who is farther away may be plainer to the detector; poses tell who is there."""
    predictor = Predictor(camera=ITOP_CAMERA)
    depth = np.full((240, 320), 3000, np.uint16)
    depth[:, 160:] = 2000
    up = np.array([0, -1], np.float32)
    box = np.array([60.0, 40, 110, 200], np.float32)
    right = box + np.array([150, 0, 150, 0], np.float32)
    surer = detector.Person(box, box, 3000.0, 0.9, up)
    near = detector.Person(right, right, 2000.0, 0.5, up)
    monkeypatch.setattr(predictor, "_detector", lambda *_, **__: [near, surer])
    monkeypatch.setattr(predictor, "run", lambda view: peaked(0.9))
    (pose,) = predictor(depth)
    assert pose.depth_m == pytest.approx(2)


def test_where_it_is_not_sure_which_way_is_up_each_quarter_turn_is_tried(monkeypatch):
    """Nobody is told upside down what the detector does not know."""
    scene = person(0)
    depth, truth = scene.depth_mm[::-1, ::-1].copy(), scene.joints_px.copy()
    truth = np.array(depth.shape[::-1]) - truth
    predictor = Predictor(camera=ITOP_CAMERA)
    found = max(predictor.find(depth), key=lambda p: p.score)
    assert found.roll_deg == 180
    misled = found._replace(up=np.array([0.1, -0.6], np.float32))  # upright, perhaps
    expected = predictor.pose(depth, found)
    assert np.median(np.linalg.norm(expected.joints_px - truth, axis=1)) < 4
    np.testing.assert_array_equal(
        predictor.pose(depth, misled).joints_px, expected.joints_px
    )
    sure = found._replace(up=np.array([0.1, -0.9], np.float32))
    views = []
    monkeypatch.setattr(
        predictor,
        "ask",
        lambda view, depth_mm: (
            views.append(view.roll_deg) or Predictor.ask(predictor, view, depth_mm)
        ),
    )
    predictor.pose(depth, sure)
    assert views == [0]  # it is believed
    views.clear()
    predictor.pose(depth, found)
    assert views == [180]
    views.clear()
    predictor.roll = 0  # the user knows
    predictor.pose(depth, misled)
    assert views == [0]


@pytest.mark.parametrize(("score", "height", "looks"), [(0.6, 0.3, 5), (0.13, 0.3, 1)])
def test_what_could_be_nobody_even_if_it_were_posed_well_is_looked_at_once(
    monkeypatch, score, height, looks
):
    """Three more turns where somebody may be there, and is not sure which way up.

    What answers of the four is then seen in a mirror, the others are not.
    """
    predictor = Predictor(camera=ITOP_CAMERA)
    box = np.array([60.0, 40, 110, 200], np.float32)
    up = np.array([0.1, -0.6], np.float32)  # upright, perhaps, and not from above
    found = detector.Person(box, box, 2000.0, score, up)
    asked = []

    def run(view):
        asked.append(view)
        # Of the quarter turn the network is surest.
        return peaked(height + 0.1 * (view.roll_deg == 90))

    monkeypatch.setattr(predictor, "run", run)
    predictor.pose(np.full((240, 320), 2000, np.uint16), found)
    assert [view.roll_deg for view in asked] == [0, 90, 180, 270, 90][:looks]


def test_whose_legs_are_covered_is_looked_at_as_far_as_legs_reach(monkeypatch):
    depth, joints_px = person(0).depth_mm.copy(), person(0).joints_px
    hips = int(joints_px[9:11, 1].mean())
    depth[hips + 3 :, 10:-10] = int(1000 * person(0).joints_m[8, 2]) - 500
    predictor = Predictor(camera=ITOP_CAMERA)
    found = max(predictor.find(depth), key=lambda p: p.score)
    assert found.is_covered and not predictor.find(person(0).depth_mm)[0].is_covered
    looks = []

    def ask(view, depth_mm):
        looks.append(view)
        return predictor.ask(view, depth_mm)

    pose = predictor.pose(depth, found, ask)
    first, second = looks
    box = crops.standing_box(
        predictor.ask(first, depth).pose.joints_px, BODY15.up, depth.shape
    )
    expected = crops.crop_transform(box, predictor.card.side)
    np.testing.assert_allclose(
        second.frame_from_crop, crops.invert(expected), atol=1e-4
    )
    # The feet are guessed near where they are: by half a metre at most.
    off = np.linalg.norm(pose.joints_px - joints_px, axis=1)[13:]
    metre = ITOP_CAMERA[0] / person(0).joints_m[8, 2]
    assert (off < 0.5 * metre).all()
    assert (pose.visibility[11:15] != 2).all()
    np.testing.assert_array_equal(pose.box, found.box)
    # Who is not plain is seen in a mirror once: as the second look had it.
    seen, run = [], predictor.run
    monkeypatch.setattr(predictor, "run", lambda view: seen.append(view) or run(view))
    monkeypatch.setitem(predictor_module.PLAIN, "people", 1.0)
    predictor.pose(depth, found)
    assert [view.is_guess for view in seen] == [False, True, True]
    np.testing.assert_array_equal(seen[2].depth, seen[1].depth[:, :, ::-1])
    # Of what is hardly anybody the legs are not looked for.
    looks.clear()
    assert predictor.pose(depth, found._replace(score=0.02), ask).score < 0.1
    assert len(looks) == 1
    # Nor of somebody of whom no joint is in doubt: what is before them covers nothing.
    for least, number in ((0.5, 1), (0.4, 2)):
        looks.clear()

        def sure(view, depth_mm, least=least):
            look = ask(view, depth_mm)
            confidence = np.array([0.9] * 14 + [least])
            pose = dataclasses.replace(look.pose, confidence=confidence)
            return look._replace(pose=pose)

        predictor.pose(depth, found, sure)
        assert len(looks) == number
    # Which way is below the detector does not know of somebody who is turned.
    looks.clear()
    predictor.roll = 180
    predictor.pose(depth, found, ask)
    assert [view.roll_deg for view in looks] == [180]


def test_a_rolling_memory_is_that_of_the_look_that_answered(small, monkeypatch):
    """Two looks at one person: what the other one wrote is lost; none is mirrored."""
    predictor = Predictor(small["rolling"], memory="rolling")
    unsure = ((-3.0, 1.0),) * 15  # calibrated: a network that is never plain
    predictor.card = dataclasses.replace(predictor.card, calibration=unsure)
    depth = person(0).depth_mm
    (found,) = predictor.find(depth)
    covered = found._replace(is_covered=True)
    monkeypatch.setattr(predictor, "find", lambda _: [covered])
    stream, by_hand = Stream(predictor), Stream(predictor)
    (pose,) = stream(depth)
    again = by_hand._ask(
        predictor._view(
            depth,
            covered,
            crops.standing_box(
                predictor.ask(predictor.view(depth, found), depth).pose.joints_px,
                BODY15.up,
                depth.shape,
            ),
            found.roll_deg,
            predictor.card,
        )._replace(is_guess=True),
        depth,
    )
    np.testing.assert_array_equal(pose.joints_px, again.pose.joints_px)
    ((_, expected),) = by_hand._written.values()
    (memory,) = stream._memories.values()
    for name, value in expected.items():
        np.testing.assert_array_equal(memory[name], value)


def test_maps_are_smoothed_less_for_hands_than_for_people():
    assert Predictor().decode_name == "smoothed"
    assert Predictor("hands").decode_name == "smoothed_less"
    assert Predictor(decode="argmax").decode_name == "argmax"
