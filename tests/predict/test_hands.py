"""Hands before a camera: the package's own detector and network of them."""

import json

import cv2
import numpy as np
import pytest

import predict
from cmbjax.depth import detector
from cmbjax.predict.predictor import Predictor
from cmbjax.skeletons import HAND21
from tests.datasets.test_crowd import needs_people


@pytest.fixture(scope="module")
def frames():
    """Frames of people whom training never saw, with their labels."""
    pytest.importorskip("anny")
    from datasets.hands.frames import make_frames
    from datasets.people.figure import Figure

    figure, made = Figure(), []
    for person in (7, 11):
        made += make_frames(figure, [], HAND21, 0, "test", person, 12)
    for example in made:
        png = np.frombuffer(example["depth"], np.uint8)
        example["depth_mm"] = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    return made


@needs_people
def test_hands_are_found_told_apart_and_posed(frames):
    found, sides, errors, alarms = [], [], [], 0
    for example in frames:
        predictor = Predictor("hands", people="all", camera=example["camera"])
        poses = predictor(example["depth_mm"])
        used = set()
        for number in np.flatnonzero((~example["hidden"]).sum(axis=1) >= 10):
            box = example["boxes"][number]
            overlaps = [detector.overlap(pose.box, box) for pose in poses]
            best = int(np.argmax(overlaps)) if poses else -1
            found.append(best >= 0 and overlaps[best] > 0.5)
            if not found[-1]:
                continue
            used.add(best)
            pose = poses[best]
            sides.append(pose.side == ("left" if example["left"][number] else "right"))
            off = np.linalg.norm(pose.joints_m - example["joints_m"][number], axis=1)
            errors.extend(off[~example["hidden"][number]])
            assert ((pose.confidence >= 0) & (pose.confidence <= 1)).all()
            assert pose.joints_m.shape == (21, 3)
        alarms += sum(
            all(detector.overlap(pose.box, box) < 0.3 for box in example["boxes"])
            for pose in poses
        )
    assert np.mean(found) > 0.6 and np.mean(sides) > 0.75
    assert alarms <= 0.2 * len(frames)
    assert np.median(errors) < 0.012


def test_no_hand_is_in_an_empty_room_or_on_a_box():
    predictor = Predictor("hands", people="all")
    wall = np.full((240, 320), 900, np.uint16)
    assert predictor(wall) == []
    wall[60:200, 100:260] = 500
    assert predictor(wall) == []


@needs_people
def test_the_nearest_hand_comes_first_and_alone_by_default(frames):
    counts = [len(example["boxes"]) for example in frames]
    example = frames[int(np.argmax(counts))]
    every = Predictor("hands", people="all", camera=example["camera"])
    poses = every(example["depth_mm"])
    assert [pose.depth_m for pose in poses] == sorted(pose.depth_m for pose in poses)
    one = Predictor("hands", camera=example["camera"])(example["depth_mm"])
    assert len(one) == min(1, len(poses))


@needs_people
def test_script_finds_hands(frames, tmp_path, capsys):
    (example, *_) = (x for x in frames if (~x["hidden"]).sum() >= 15)
    path = tmp_path / "hand.png"
    cv2.imwrite(str(path), example["depth_mm"])
    out_dir = tmp_path / "out"
    flags = [str(path), "--what=hands", f"--out_dir={out_dir}"]
    predict.main(predict.parse(flags))
    said = capsys.readouterr().out
    assert "hand " in said and "m away, wrist at" in said
    line = json.loads((out_dir / "poses.jsonl").read_text())
    (hand,) = line["people"]
    assert hand["side"] in ("right", "left") and len(hand["joints_px"]) == 21
    coco = json.loads((out_dir / "annotations.json").read_text())
    assert coco["categories"][0]["name"] == "hand"
    assert coco["annotations"][0]["side"] == hand["side"]
