"""What benchmarks.speed, scale and latency take, and of what they measure."""

import time

import numpy as np
import pytest

from benchmarks import latency, scale, speed
from benchmarks.speed import SpeedConfig
from cmbjax import runtime
from cmbjax.depth import detector
from datasets.mannequin.frames import Frame

WAYS = ("forth", "back")  # columns of a layer's share


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "foo"}, "unknown model 'foo'; choose from: cmb"),
        ({"model": "sh8"}, "--model=sh8 has one form alone: expected a network with"),
        ({"width": 1e6}, "--width must be from 0.03125 to 8.0, got 1000000.0"),
        ({"side": 20_000}, "--side must be from 16 to 1024, got 20000"),
        ({"side": 100}, "--side and --train_sides must be multiples of 8, got 100"),
        ({"train_sides": (64, 0)}, "--train_sides must be from 16 to 1024, got 0"),
        ({"train_sides": (2**40,)}, "--train_sides must fit into 32 bits, at most"),
        ({"train_sides": ()}, "--train_sides must be at least one, got none"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"batch_size": 10**12}, "--batch_size must fit into 32 bits"),
    ],
)
def test_bad_flag_of_speed_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        SpeedConfig(**flags)


def test_what_is_refused_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 2**30)
    config = {"out_dir": tmp_path / "out", "width": 0.125}
    match = "--batch_size=1000000 --train_sides=128 --width=0.125: takes about"
    with pytest.raises(ValueError, match=match):
        speed.main(SpeedConfig(batch_size=10**6, **config))
    with pytest.raises(ValueError, match="unknown dataset 'mpii'"):
        speed.main(SpeedConfig(dataset="mpii", **config))
    assert not list(tmp_path.iterdir())


def test_every_layer_of_a_step_has_its_share():
    """By a real step: paths of modules and methods are Flax's."""
    config = SpeedConfig(train_sides=(32,), width=0.125, batch_size=2)
    rows = {row["layer"]: row for row in speed.by_layer(config)}
    modules = {"conv1_1", "conv4_2", "conv6", "conv7", "cmb1", "cmb2", "cmb3"}
    assert modules | {"loss", "optimizer"} <= rows.keys()
    shares = [float(row[x].rstrip("%")) for row in rows.values() for x in WAYS]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    assert "conv1_1_norm" not in rows  # it is part of that layer
    assert "unknown" not in rows
    multiplying = {name: float(row["multiplying"][:-1]) for name, row in rows.items()}
    assert multiplying["conv6"] > 0 == multiplying["optimizer"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"making": -1}, "--making must be from 0 to 10000, got -1"),
        ({"making": 10**9}, "--making must be from 0 to 10000, got 1000000000"),
        ({"repeats": 10**9}, "--repeats must be from 1 to 10000, got 1000000000"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
    ],
)
def test_bad_flag_of_scale_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        scale.ScaleConfig(**flags)


def test_three_people_stand_where_one_stood():
    """Each six columns wide, before a wall at 3 m; nobody vanishes behind another."""
    parts = np.zeros((40, 100), np.uint8)
    parts[5:35, 47:53] = 1
    joints = np.zeros((15, 3), np.float32)
    frames = [
        Frame(
            np.where(parts > 0, 1000 + 100 * n, 3000).astype(np.uint16),
            parts,
            joints,
            joints[:, :2],
            np.ones(15, bool),
            str(n),
        )
        for n in range(20)
    ]
    frame = latency.three_people(frames, 0)
    assert frame[20, [20, 50, 80, 35]].tolist() == [1700, 1000, 2300, 3000]
    assert np.count_nonzero(frame < 3000) == 3 * 30 * 6


class Slow:
    """A predictor whose stages take known times; nobody is in frames of zeros."""

    def __init__(self):
        self.cameras = []

    def __call__(self, frame):
        self.cameras.append(self.camera[0])
        time.sleep(0.005)

    def read(self, frame):
        return frame

    def find(self, depth_mm):
        time.sleep(0.002)
        person = detector.Person(np.zeros(4), np.zeros(4), 1.0, 0.5, np.zeros(2))
        return [person] if depth_mm.any() else []

    def view(self, depth_mm, person):
        pass

    def run(self, view):
        pass

    def decode(self, view, outputs, depth_mm):
        pass


def test_stages_are_timed_frame_by_frame_each_with_its_camera():
    shots = [
        latency.Shot(np.full((4, 4), depth, np.uint16), np.full(4, focal))
        for depth, focal in ((1000, 1.0), (0, 2.0), (2000, 3.0))
    ]
    predictor = Slow()
    times = latency.measure(predictor, shots, 2)
    assert list(times) == [*latency.STAGES, "all"]
    assert times["find"] >= 2 and times["all"] >= 5 and times["crop"] < times["find"]
    assert predictor.cameras == [1] + 2 * [1, 3]  # warms up first
    predictor.cameras.clear()
    assert latency.whole(predictor, shots, 1) >= 5
    assert predictor.cameras == [1, 1, 2, 3]
    with pytest.raises(ValueError, match="no person was found"):
        latency.measure(predictor, shots[1:2], 1)
