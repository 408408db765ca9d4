"""predict.py: folders of frames, good and bad."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

import datasets
import predict
from cmbjax.camera import ITOP_CAMERA
from cmbjax.files import only_one
from cmbjax.predict import overlay
from cmbjax.predict.card import amend, read_card
from cmbjax.predict.predictor import Predictor
from datasets import schema
from tests import fabricate
from tests.predict.scenes import person

ROOT = Path(__file__).parents[2]


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


def test_annotations_of_other_units_have_no_metres(tmp_path):
    """`folder` would take its integers for millimetres."""
    depth = person(0).depth_mm
    halves = np.where(depth < 32_000, depth, 0) * np.uint16(2)
    (tmp_path / "a.png").write_bytes(schema.encode_png(halves.astype(np.uint16)))
    config = predict.PredictConfig(
        frames=(tmp_path / "a.png",),
        out_dir=tmp_path / "out",
        depth_scale=0.0005,
        overlays=False,
    )
    (poses,) = predict.main(config).values()
    tfds_dir = tmp_path / "tfds"
    frames = datasets.load("folder", tmp_path / "out", tfds_dir, split="test")
    assert not frames.metric and len(frames) == len(poses) == 1
    is_there = poses[0].visibility > 0
    np.testing.assert_allclose(
        frames.source[0]["joints_px"][is_there],
        poses[0].joints_px[is_there],
        atol=0.01,
    )
    assert is_there.any()


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
        env=fabricate.environment(ROOT),
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


def lines_of(out_dir):
    return [json.loads(x) for x in (out_dir / "poses.jsonl").read_text().splitlines()]


def coco_names(out_dir):
    notes = json.loads((out_dir / "annotations.json").read_text())
    return [Path(image["file_name"]).name for image in notes["images"]]


def test_script_leaves_out_what_is_no_frame_and_goes_on(small, tmp_path, capsys):
    frames, out_dir = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    png = schema.encode_png(person(0).depth_mm)
    # Both are names of 255 and 253 bytes.
    long, deep, strange = "x" * 251 + ".png", "深" * 83 + ".png", b"\xff$_$.png"
    for name in ("a.png", "c.PNG", long, deep, os.fsdecode(strange), "...png"):
        (frames / name).write_bytes(png)
    (frames / "b.png").write_bytes(png[:500])
    (frames / "d.png").symlink_to(frames / "nowhere")
    (frames / "e.png").mkdir()
    np.save(frames / "f.npy", np.full((4, 4), 1900.0))
    config = predict.PredictConfig(
        frames=(frames,), out_dir=out_dir, network=small["maps"]
    )
    assert len(predict.main(config)) == 6
    said = capsys.readouterr()
    assert "6 frames, 0 without a person, 3 left out" in said.out
    for name in ("b.png: not a whole PNG", "d.png: no such", "f.npy: the median"):
        assert name in said.err
    assert len(coco_names(out_dir)) == len(lines_of(out_dir)) == 6
    pictures = {path.name[7:] for path in (out_dir / "overlays").iterdir()}
    short = {"frame.png", "a.png", "c.png", "x" * 100 + ".png", "深" * 33 + ".png"}
    assert pictures == short | {"\\xff$_$.png"}
    # What was bad is looked at again, and alone.
    (frames / "b.png").write_bytes(png)
    assert [Path(name).name for name in predict.main(config)] == ["b.png"]
    assert "1 frames, 0 without a person, 6 more were there already, 2 left out" in (
        capsys.readouterr().out
    )
    assert len(lines_of(out_dir)) == 7 and "b.png" in coco_names(out_dir)
    strict = predict.PredictConfig(
        frames=(frames,), out_dir=tmp_path / "s", network=small["maps"], strict=True
    )
    with pytest.raises(FileNotFoundError, match=r"d\.png"):
        predict.main(strict)


def test_script_goes_on_after_an_interruption(small, tmp_path, monkeypatch):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", person(0).depth_mm)
    config = predict.PredictConfig(
        frames=(tmp_path,), out_dir=tmp_path / "out", network=small["maps"]
    )
    read, seen = Predictor.read, []

    def interrupted(self, frame):
        seen.append(frame)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return read(self, frame)

    monkeypatch.setattr(Predictor, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict.main(config)
    assert coco_names(config.out_dir) == ["a.npy"]
    with (config.out_dir / "poses.jsonl").open("a") as file:
        file.write('{"frame": "half a li')
    assert [Path(name).name for name in predict.main(config)] == ["b.npy", "c.npy"]
    assert coco_names(config.out_dir) == ["a.npy", "b.npy", "c.npy"]
    other = predict.PredictConfig(
        frames=(tmp_path,), out_dir=config.out_dir, network=small["maps"], roll=90
    )
    before = (config.out_dir / "poses.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(--roll\); name another"):
        predict.main(other)
    # Poses depend on the card, too, and not on its files alone.
    network = tmp_path / "network"
    shutil.copytree(small["maps"], network)
    amend(read_card(network), presence=[0.0, 1.0, 1.0])
    other = dataclasses.replace(config, network=network)
    with pytest.raises(ValueError, match=r"other settings \(weights, --least_score\)"):
        predict.main(other)
    assert (config.out_dir / "poses.jsonl").read_bytes() == before


def test_frames_of_one_name_in_two_folders_are_two(small, tmp_path, monkeypatch):
    out_dir = tmp_path / "out"
    for number, folder in enumerate((tmp_path / "a", tmp_path / "b")):
        folder.mkdir()
        monkeypatch.chdir(folder)
        np.save("frame.npy", person(number).depth_mm)
        config = predict.PredictConfig(
            frames=(Path("frame.npy"),), out_dir=out_dir, network=small["maps"]
        )
        assert list(predict.main(config)) == ["frame.npy"]
    coco = json.loads((out_dir / "annotations.json").read_text())
    for image, folder in zip(coco["images"], "ab", strict=True):
        file = (out_dir / image["file_name"]).resolve()
        assert file == tmp_path.resolve() / folder / "frame.npy"


def test_a_frame_that_is_named_twice_is_one(small, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    frame = tmp_path / "in/frame.npy"
    np.save(frame, person(0).depth_mm)
    monkeypatch.chdir(tmp_path / "in")
    frames = (Path("../in/frame.npy"), frame, Path("frame.npy"))
    config = predict.PredictConfig(
        frames=frames, out_dir=tmp_path / "out", network=small["maps"]
    )
    assert list(predict.main(config)) == ["../in/frame.npy"]
    assert predict.main(dataclasses.replace(config, frames=frames[1:])) == {}
    assert len(lines_of(tmp_path / "out")) == 1
    # Eight bits are other poses.
    other = dataclasses.replace(config, backend="openvino", precision="bf16")
    with pytest.raises(ValueError, match=r"other settings \(--precision\)"):
        predict.main(other)


def test_a_terminated_script_leaves_whole_files(small, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3000):
        (frames / f"{number:04d}.npy").symlink_to(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", person(0).depth_mm)
    command = [sys.executable, ROOT / "predict.py", frames, "--out_dir", tmp_path / "o"]
    running = subprocess.Popen(
        [*command, "--network", small["maps"], "--no_overlays"],
        cwd=tmp_path,
        env=fabricate.environment(ROOT),
        stderr=subprocess.PIPE,
        text=True,
    )
    poses = tmp_path / "o" / "poses.jsonl"
    for _ in range(600):
        if poses.exists() and poses.stat().st_size:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and f"--out_dir={tmp_path / 'o'} the same" in said
    assert len(coco_names(tmp_path / "o")) == len(lines_of(tmp_path / "o")) > 0


def test_what_cannot_be_drawn_or_held_is_left_out_and_named(
    small, tmp_path, monkeypatch, capsys
):
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", person(0).depth_mm)
    config = predict.PredictConfig(
        frames=(tmp_path,), out_dir=tmp_path / "out", network=small["maps"]
    )
    save, read = overlay.save, Predictor.read

    def full(path, *arguments):
        if "b.png" in path.name:
            raise OSError(28, "No space left on device")
        save(path, *arguments)

    def large(self, frame):
        if "c.npy" in frame:
            raise MemoryError
        if "d.npy" in frame:
            raise cv2.error("Insufficient memory")
        return read(self, frame)

    monkeypatch.setattr(overlay, "save", full)
    monkeypatch.setattr(Predictor, "read", large)
    assert [Path(name).name for name in predict.main(config)] == ["a.npy"]
    said = capsys.readouterr()
    assert "1 frames, 0 without a person, 3 left out" in said.out
    for what in (
        "b.npy: [Errno 28] No space left",
        "c.npy: there is not enough memory for it",
        "d.npy: Insufficient memory",
    ):
        assert what in said.err
    with pytest.raises(ValueError, match=r"b\.npy: \[Errno 28\] No space left"):
        predict.main(dataclasses.replace(config, strict=True))
    monkeypatch.undo()
    assert len(predict.main(config)) == 3
    assert coco_names(config.out_dir) == [f"{name}.npy" for name in "abcd"]
    names = sorted(path.name for path in (config.out_dir / "overlays").iterdir())
    assert names == [f"00000{i}_{name}.png" for i, name in enumerate("abcd")]


def test_a_folder_is_written_by_one_process(small, tmp_path):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    config = predict.PredictConfig(
        frames=(tmp_path / "a.npy",), out_dir=tmp_path / "out", network=small["maps"]
    )
    predict.main(config)
    before = (config.out_dir / "poses.jsonl").read_bytes()
    np.save(tmp_path / "b.npy", person(1).depth_mm)
    other = dataclasses.replace(config, frames=(tmp_path / "b.npy",))
    with only_one(config.out_dir / "lock", "held"):
        with pytest.raises(ValueError, match=r"out: another predict\.py is at work"):
            predict.main(other)
        assert (config.out_dir / "poses.jsonl").read_bytes() == before
    assert len(predict.main(other)) == 1
    assert coco_names(config.out_dir) == ["a.npy", "b.npy"]


def test_new_folders_have_names_that_stay_in_poses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [predict.new_folder(Path(name)) for name in ("a.png", "x/a.npy", "...png")]
    made += [predict.new_folder(Path(name)) for name in ("..png", "深" * 83 + ".png")]
    names = ["a", "a_1", "frame", "frame_1", "深" * 33]
    assert made == [Path("poses") / name for name in names]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["poses", *names]
    )


@pytest.mark.parametrize(
    "name", ["annotations.json", "poses.jsonl", "settings.json", "overlays"]
)
def test_files_of_others_are_not_written_over(small, tmp_path, name):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    (tmp_path / name).write_text('{"mine": 1}')
    config = predict.PredictConfig(
        frames=(tmp_path,), out_dir=tmp_path, network=small["maps"]
    )
    with pytest.raises(ValueError, match=f"holds {name}, which predict.py did not"):
        predict.main(config)
    assert (tmp_path / name).read_text() == '{"mine": 1}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", name]


def test_a_flag_that_is_refused_leaves_no_folder(small, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", person(0).depth_mm)
    config = predict.PredictConfig(
        frames=(tmp_path / "a.npy",),
        out_dir=tmp_path / "out",
        network=small["maps"],
        rerun=True,
    )
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match="--rerun needs rerun-sdk, not installed"):
        predict.main(config)
    with pytest.raises(ValueError, match=r"a\.npy must be a folder, and is none"):
        predict.main(
            dataclasses.replace(config, rerun=False, out_dir=tmp_path / "a.npy")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_paths_may_begin_at_home_and_lead_through_links(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames/a.npy", person(0).depth_mm)
    (tmp_path / "far/away/out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/away/out")
    predictor = Predictor(small["maps"])
    (pose,) = predictor("~/frames/a.npy")
    for (other,) in predictor.stream("~/frames"):
        np.testing.assert_array_equal(other.joints_m, pose.joints_m)
    with pytest.raises(FileNotFoundError, match="~no-such-user/a.npy"):
        predictor("~no-such-user/a.npy")
    config = predict.PredictConfig(
        frames=(Path("~/frames"),), out_dir=Path("~/link"), network=small["maps"]
    )
    predict.main(config)
    coco = json.loads((tmp_path / "link/annotations.json").read_text())
    (image,) = coco["images"]
    file = (tmp_path / "far/away/out" / image["file_name"]).resolve()
    assert file == (tmp_path / "frames/a.npy").resolve()


def test_many_frames_take_little_memory(small, tmp_path, monkeypatch):
    """Of frames with a line hardly more than their names: 20,000 are 60 MB of lines."""
    np.save(tmp_path / "x.npy", person(0).depth_mm)
    first = tmp_path / "000000.npy"
    first.symlink_to(tmp_path / "x.npy")
    config = predict.PredictConfig(
        frames=(first,), out_dir=tmp_path / "out", network=small["maps"], overlays=False
    )
    predict.main(config)
    poses = config.out_dir / "poses.jsonl"
    line = poses.read_text()
    number = 20_000
    with poses.open("a") as file:
        for i in range(1, number):
            file.write(line.replace("000000.npy", f"{i:06d}.npy"))
    places = [first.with_name(f"{i:06d}.npy") for i in range(number)]
    monkeypatch.setattr(predict, "files_of", lambda path: places)
    tracemalloc.start()
    try:
        assert predict.main(config) == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 900 * number
    assert len(coco_names(config.out_dir)) == number
    assert len(lines_of(config.out_dir)) == number
