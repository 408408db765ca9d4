"""A detector's folder: who makes it, who goes on in it, and what it keeps."""

import dataclasses
import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

import train_detector
from cmbjax import runtime
from cmbjax.data import detection
from cmbjax.files import checksum, read_json, read_npz
from cmbjax.train import loop
from train_detector import DetectorConfig


def one_frame():
    depth = np.full((60, 100), 4000, np.uint16)
    depth[10:50, 30:50] = 2000
    box, up = np.array([[30.0, 10, 50, 50]], np.float32), np.array([[0.0, -1]])
    columns = (box, box, np.array([2000.0]), up, box[:, :2], np.ones(1, bool))
    return detection.Frame(depth, *columns)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a training of four steps on a frame that is there already."""
    monkeypatch.setattr(train_detector, "load", lambda config, split: [one_frame()])
    return DetectorConfig(run_dir=tmp_path / "run", num_steps=4, batch_size=2)


def test_an_interrupted_training_goes_on_bit_for_bit(config, monkeypatch):
    card = train_detector.main(config)
    assert card["test"]["people"] == 1 and np.isfinite(card["loss"])
    assert read_json(config.folder / "detector.json") == card
    make_batches = detection.batches
    broken = dataclasses.replace(config, run_dir=config.folder.with_name("broken"))

    def interrupting(*arguments, first=0, **options):
        for number, batch in enumerate(
            make_batches(*arguments, first=first, **options), start=first
        ):
            if number == 1 and arguments[1] == config.batch_size:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(detection, "batches", interrupting)
        with pytest.raises(loop.Interrupted, match=r"SIGTERM after step [123]; saved"):
            train_detector.main(broken)
    assert not (broken.folder / "detector.onnx").exists()
    # But for the mean of the loss, whose records are of other steps.
    assert train_detector.main(broken) | {"loss": card["loss"]} == card
    expected, found = (read_npz(x.folder / "detector.npz") for x in (config, broken))
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    # Once more, all is done; unless the checkpoint is damaged.
    assert train_detector.main(broken)["sha256"] == card["sha256"]
    payload = max(
        (path for path in (broken.folder / "checkpoints/4").rglob("*")),
        key=lambda path: path.stat().st_size if path.is_file() else 0,
    )
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoints/4 cannot be restored .* not wh"):
        train_detector.main(broken)


def test_the_mean_with_another_network_is_what_is_written(config, tmp_path):
    train_detector.main(config)
    mine = read_npz(config.folder / "detector.npz")
    other = tmp_path / "other.npz"
    np.savez(other, **{name: value + 0.04 for name, value in mine.items()})
    again = dataclasses.replace(config, mean_with=other, mean_share=0.25)
    card = train_detector.main(again)
    mean = read_npz(config.folder / "detector.npz")
    for name, value in mine.items():
        np.testing.assert_allclose(mean[name], value + 0.01, atol=1e-5)
    assert card["mean_share"] == 0.25 and card["mean_with"] == checksum(other)
    np.savez(other, **{"params/other": np.zeros(3)})
    with pytest.raises(ValueError, match="^--mean_with=.*other.npz: batch_stats/"):
        train_detector.main(again)
    with pytest.raises(ValueError, match="--mean_share must be between 0 and 1, got 1"):
        dataclasses.replace(config, mean_share=1.0)


def test_a_loss_that_is_no_number_leaves_no_network(config, monkeypatch):
    def step(variables, opt_state, *batch, **_):
        return variables, opt_state, jnp.float32(jnp.nan)

    monkeypatch.setattr(train_detector, "train_step", step)
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan"):
        train_detector.main(config)
    assert not list(config.folder.glob("detector.*"))


def test_what_is_refused_leaves_no_folder(config, monkeypatch):
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 2**36)
    many = dataclasses.replace(config, batch_size=10**9)
    with pytest.raises(ValueError, match="--batch_size=1000000000: takes about"):
        train_detector.main(many)
    absent = config.folder / "absent.npz"
    with pytest.raises(FileNotFoundError, match="absent.npz: no such file"):
        train_detector.main(dataclasses.replace(config, init_from=absent))

    def load(config, split):
        raise FileNotFoundError("--data_dir=/nonexistent")

    monkeypatch.setattr(train_detector, "load", load)
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        train_detector.main(config)
    assert not config.folder.exists()


def test_a_folder_of_others_is_left_alone(config):
    config.folder.mkdir()
    (config.folder / "detector.onnx").write_text("do not lose me")
    with pytest.raises(ValueError, match="is not empty and holds no config.json"):
        train_detector.main(config)
    assert [path.name for path in config.folder.iterdir()] == ["detector.onnx"]
    (config.folder / "config.json").write_text('{"model": "cmb"}')
    with pytest.raises(ValueError, match="holds a run of other settings"):
        train_detector.main(config)
    assert (config.folder / "detector.onnx").read_text() == "do not lose me"


def test_two_do_not_train_in_one_folder(config):
    train_detector.claim(config)
    with loop.Records(config.folder, 0):
        with pytest.raises(ValueError, match="another training is at work"):
            train_detector.main(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"learning_rate": 1e30}, "--learning_rate must be from 1e-09 to 1.0, got 1e"),
        ({"learning_rate": -1.0}, "--learning_rate must be from 1e-09 to 1.0, got -1"),
        ({"learning_rate": 0.0}, "--learning_rate must be from 1e-09 to 1.0, got 0.0"),
        ({"num_steps": 10**12}, "--num_steps must fit into 32 bits, at most"),
        ({"batch_size": 0}, "--batch_size must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be from 0 to"),
    ],
)
def test_bad_flag_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**flags)


def test_damaged_weights_are_refused_by_their_name(tmp_path):
    path = tmp_path / "detector.npz"
    like = {"params": {"head": {"bias": jnp.zeros(3)}}}
    np.savez(path, **{"params/head/bias": np.array([1, np.nan, 3], np.float32)})
    with pytest.raises(ValueError, match="detector.npz: params/head/bias is not fini"):
        train_detector.read_weights(path, like, "--init_from")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="detector.npz: expected a whole .npz"):
        train_detector.read_weights(path, like, "--init_from")


def test_what_making_a_batch_raises_is_raised_where_it_is_asked_for():
    def data():
        yield 1
        raise ValueError("no frame")

    with train_detector.Ahead(data()) as batches:
        assert next(batches) == 1
        with pytest.raises(ValueError, match="no frame"):
            next(batches)
