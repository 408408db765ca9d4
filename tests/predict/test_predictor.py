"""Predictor and predict.py, with a small untrained network and with the pretrained."""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import cmbjax
import datasets
import export
import predict
import train
from cmbjax import crops, lifting
from cmbjax.camera import ITOP_CAMERA, camera_to_pixels
from cmbjax.config import ExportConfig, TrainConfig
from cmbjax.export.formats import ONNX_PACKAGES
from cmbjax.predict.predictor import PRETRAINED, Predictor
from cmbjax.skeletons import BODY15
from datasets import schema
from datasets.mannequin.frames import make_frame

ROOT = Path(__file__).parent.parent
HAS_ONNX = all(importlib.util.find_spec(name) for name in ONNX_PACKAGES)


@functools.cache
def person(index):
    """A synthetic frame: its person stands free and is found."""
    return make_frame(0, "test", index)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Exported networks of 32 pixels: without a 3-D head, with one, and rolling."""
    folder = tmp_path_factory.mktemp("small")
    exported = {}
    for head in ("none", "maps"):
        run_dir = folder / head
        train.main(
            TrainConfig(
                dataset="mannequin/tiny",
                tfds_dir=folder / "tfds",
                run_dir=run_dir,
                side=32,
                width=0.125,
                batch_size=2,
                num_steps=2,
                head3d=head,
                r_switch_step=0,
            )
        )
        formats = "weights+onnx" if HAS_ONNX and head == "maps" else "weights"
        options = {"run_dir": run_dir, "format": formats, "num_frames": 2}
        exported[head] = export.main(ExportConfig(**options))
    exported["rolling"] = export.main(ExportConfig(memory="rolling", **options))
    return exported


def test_what_is_seen_leads_back_to_the_frame(small):
    predictor = Predictor(small["maps"])
    depth = person(0).depth_mm
    (box,) = predictor.find(depth)
    view = predictor.crop(depth, box)
    assert view.depth.shape == (1, 32, 32, 1)
    # Exactly there and back: the crop's corners, and a joint.
    corners = np.array([[0.0, 0], [32, 0], [32, 32], [10, 20]], np.float32)
    inside = crops.transform_points(crops.invert(view.frame_from_crop), corners)
    back = crops.transform_points(view.frame_from_crop, inside)
    np.testing.assert_allclose(back, corners, atol=1e-3)
    centre = crops.transform_points(view.frame_from_crop, np.array([[16.0, 16.0]]))
    np.testing.assert_allclose(centre[0], (box[:2] + box[2:]) / 2, atol=1e-3)
    # The middle of the crop shows the person's own depth.
    assert abs(view.reference_mm - depth[person(0).parts > 0].mean()) < 200


def test_metres_from_pixels_and_depth_by_hand(small):
    """One peak in each heat map, 1.5 m behind the person's depth at every joint."""
    predictor = Predictor(small["maps"], camera=(200, 100, 50, 30))
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 4] = 0.7  # row 8, column 4: the crop's pixel (9, 17)
    depths = np.full((1, 16, 16, 15), 0.5, np.float32)  # of a range of 1 m
    depth_mm = np.full((60, 100), 2000, np.uint16)
    # A crop of 32 px that shows 64 px of the frame, from (10, -2) on.
    box = np.array([42.0, 30, 42, 30]) + 32 / crops.MARGIN * np.array([-1, -1, 1, 1])
    view = predictor.crop(depth_mm, box)
    assert view.reference_mm == 2000
    pose = predictor.decode(view, (maps, depths), depth_mm)
    np.testing.assert_allclose(pose.joints_px, [[28, 32]] * 15, atol=1e-3)
    # z = 2 + 0.5; x = (28 - 50) / 200 z; y = (32 - 30) / 100 z.
    np.testing.assert_allclose(pose.joints_m, [[-0.275, 0.05, 2.5]] * 15, atol=1e-4)
    np.testing.assert_allclose(pose.confidence, 0.7)
    assert pose.depth_m == 2.0


def test_without_a_head_the_depth_is_looked_up(small):
    predictor = Predictor(small["none"], camera=(200, 200, 50, 30))
    maps = np.zeros((1, 16, 16, 15), np.float32)
    maps[0, 8, 8] = 1.0
    depth_mm = np.full((60, 100), 2000, np.uint16)
    view = predictor.crop(depth_mm, np.array([20.0, 5, 80, 55]))
    pose = predictor.decode(view, (maps,), depth_mm)
    offsets = np.array(predictor.card["offsets_m"])
    np.testing.assert_allclose(pose.joints_m[:, 2], 2 + offsets, atol=1e-5)
    expected = lifting.pixels_to_camera(
        pose.joints_px, pose.joints_m[:, 2], predictor.camera
    )
    np.testing.assert_allclose(pose.joints_m, expected, atol=1e-5)


@pytest.mark.parametrize("head", ["none", "maps"])
def test_predictor_gives_what_evaluation_gives(small, head):
    from cmbjax import evaluation
    from cmbjax.card import load_weights

    folder = small[head]
    frames = datasets.load(
        "mannequin/tiny", None, folder.parents[2] / "tfds", split="test", limit=3
    )
    predictor = Predictor(folder, camera=ITOP_CAMERA)
    model, variables = load_weights(folder, predictor.card)
    statistics = evaluation.Statistics.load(folder.parents[1])
    result = evaluation.evaluate(
        variables,
        frames,
        statistics,
        sigma=1.5,
        preparation=predictor.preparation,
        model=model,
        r=predictor.card["r"],
    )
    assert result.found.any()
    for index in np.flatnonzero(result.found):
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
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("memory", ["frozen", "rolling"])
def test_backends_agree(small, backend, memory):
    folder = small["maps" if memory == "frozen" else "rolling"]
    frames = [person(index).depth_mm for index in (0, 1, 2)]
    ours = Predictor(small["maps"], memory=memory)
    other = Predictor(folder, memory=memory, backend=backend)
    for a, b in zip(ours.stream(frames), other.stream(frames), strict=True):
        np.testing.assert_allclose(a[0].joints_px, b[0].joints_px, atol=0.01)
        np.testing.assert_allclose(a[0].joints_m, b[0].joints_m, atol=1e-3)


def test_rolling_memory_remembers_frames_and_frozen_does_not(small):
    depth, before = person(1).depth_mm, person(0).depth_mm
    for memory in ("frozen", "rolling"):
        predictor = Predictor(small["maps"], memory=memory)
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


def test_a_frame_without_a_person_gives_no_pose(small):
    wall = np.full((240, 320), 4000, np.uint16)
    predictor = Predictor(small["maps"])
    assert predictor(wall) == []
    assert len(predictor(wall, boxes=np.array([[10.0, 10, 90, 200]]))) == 1
    for boxes, says in (
        ([10.0, 10, 90, 200], r"boxes must be \[people, 4\]"),
        ([[10.0, 10, 10, 200]], "x0 < x1 and y0 < y1 in pixels, got"),
        ([[400.0, 10, 500, 200]], r"box \[400.0, .* holds no reading"),
    ):
        with pytest.raises(ValueError, match=says):
            predictor(wall, boxes=np.array(boxes))


def test_bad_arguments_are_refused(small, tmp_path):
    cases = [
        ({"backend": "tensorrt"}, "backend must be one of jax, onnxruntime"),
        ({"people": "some"}, "people must be one of nearest, all, got 'some'"),
        ({"people": "all", "memory": "rolling"}, "follows one person"),
        ({"memory": "warm"}, "memory must be one of frozen, rolling, got 'warm'"),
        ({"precision": "int8"}, "precision must be one of f32, bf16, got 'int8'"),
        ({"depth_scale": 0.0}, "depth_scale must be above 0, got 0"),
        ({"camera": (285, 285, 160)}, r"camera must be \[fx, fy, cx, cy\]"),
        ({"camera": (0, 285, 160, 120)}, "focal lengths above 0"),
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
        Predictor(tmp_path)
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.npz is not there"):
        Predictor(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"network\.onnx is not there"):
        Predictor(tmp_path, backend="onnxruntime")


def test_pretrained_weights_place_a_known_pose_within_5_cm():
    predictor = Predictor(camera=ITOP_CAMERA)
    assert predictor.skeleton is BODY15
    errors = []
    for index in (0, 1, 2, 3):
        frame = person(index)
        (pose,) = predictor(frame.depth_mm)
        errors.append(np.linalg.norm(pose.joints_m - frame.joints_m, axis=-1))
        projected = camera_to_pixels(pose.joints_m, ITOP_CAMERA)
        np.testing.assert_allclose(projected, pose.joints_px, atol=1e-2)
    assert np.mean(errors) < 0.05


def test_frames_of_any_size_give_the_same_metres():
    """Twice the pixels and twice the focal length: the same scene."""
    depth = person(0).depth_mm
    (small,) = Predictor(camera=ITOP_CAMERA)(depth)
    large = depth.repeat(2, axis=0).repeat(2, axis=1)
    (other,) = Predictor(camera=2 * ITOP_CAMERA)(large)
    np.testing.assert_allclose(other.joints_px, 2 * small.joints_px, atol=2.0)
    np.testing.assert_allclose(other.joints_m, small.joints_m, atol=0.02)


def test_pretrained_weights_fit_into_the_repository():
    sizes = [path.stat().st_size for path in PRETRAINED.iterdir()]
    assert sum(sizes) < 15e6


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


def test_script_writes_poses_coco_and_pictures(tmp_path, capsys):
    depth = person(0).depth_mm
    (tmp_path / "a.png").write_bytes(schema.encode_png(depth))
    np.save(tmp_path / "b.npy", np.full_like(depth, 4000))
    out_dir = tmp_path / "out"
    found = predict.main(
        predict.PredictConfig(
            frames=(tmp_path,), out_dir=out_dir, camera=tuple(ITOP_CAMERA.tolist())
        )
    )
    (pose,), nobody = found.values()
    assert not nobody
    printed = capsys.readouterr().out
    assert "b.npy: no person found" in printed and "2 frames, 1 without" in printed
    records = [
        json.loads(x) for x in (out_dir / "poses.jsonl").read_text().splitlines()
    ]
    assert [len(record["people"]) for record in records] == [1, 0]
    np.testing.assert_allclose(
        records[0]["people"][0]["joints_m"], pose.joints_m, atol=1e-4
    )
    assert len(list((out_dir / "overlays").iterdir())) == 2
    with pytest.raises(ValueError, match="holds poses already"):
        predict.main(predict.PredictConfig(frames=(tmp_path,), out_dir=out_dir))
    # The COCO file is one that the data set `folder` reads.
    frames = datasets.load("folder", out_dir, tmp_path / "tfds", split="test")
    (example,) = frames.source
    np.testing.assert_allclose(example["joints_px"], pose.joints_px, atol=0.01)
    np.testing.assert_allclose(example["camera"], ITOP_CAMERA, rtol=1e-6)


def test_script_scales_integers_once_and_takes_a_frame_once(small, tmp_path):
    """Quarters of a millimetre, near enough for 16 bits; the file is named twice."""
    depth = person(0).depth_mm
    fine = np.where(depth < 16_000, depth, 0) * np.uint16(4)
    (tmp_path / "fine.png").write_bytes(schema.encode_png(fine.astype(np.uint16)))
    found = predict.main(
        predict.PredictConfig(
            frames=(tmp_path, tmp_path / "fine.png"),
            out_dir=tmp_path / "out",
            network=small["maps"],
            depth_scale=0.00025,
            overlays=False,
        )
    )
    ((pose,),) = found.values()
    (expected,) = Predictor(small["maps"])(depth)
    np.testing.assert_allclose(pose.joints_m, expected.joints_m, atol=1e-4)


def test_script_wants_a_frame():
    with pytest.raises(ValueError, match="expected at least one frame.* got none"):
        predict.PredictConfig(frames=())


def test_script_says_what_is_wrong_with_a_frame(tmp_path):
    np.save(tmp_path / "x.npy", np.full((240, 320), 1900.0))
    done = subprocess.run(
        [sys.executable, ROOT / "predict.py", tmp_path / "x.npy"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 1
    assert "x.npy: the median depth is 1900 m, as floats are metres" in done.stderr
    assert "Traceback" not in done.stderr


def test_rerun_gets_points_bones_and_depth(small, tmp_path):
    rerun = pytest.importorskip("rerun")
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    predict.main(
        predict.PredictConfig(
            frames=(tmp_path / "a.npy",),
            out_dir=tmp_path / "out",
            network=small["maps"],
            rerun=True,
        )
    )
    rerun.disconnect()
    content = (tmp_path / "out" / "poses.rrd").read_bytes()
    for name in (
        b"camera/people/0/bones",
        b"camera/people/0/joints",
        b"camera/image/depth",
    ):
        assert name in content


def test_predictor_is_at_hand_under_its_name():
    assert cmbjax.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'predictor_of'"):
        _ = cmbjax.predictor_of
