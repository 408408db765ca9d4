"""Runs on many devices. XLA is told of them before it starts: in other processes."""

import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import evaluate
import train
from cmbjax.data.augment import Augmentation
from cmbjax.data.batches import training_batches
from cmbjax.files import read_json, write_json
from cmbjax.models import MODELS
from cmbjax.train import sharding
from cmbjax.train import step as training
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.config import TrainConfig
from cmbjax.train.loop import read_records
from evaluate import EvalConfig
from tests import fabricate
from tests.data.test_batches import PREPARATION, make_example, make_frames
from tests.train.test_checkpoints import steps_on_disk, wait_for

ROOT = Path(__file__).parents[2]
MODES = ("shared", "per_sample")
pytestmark = pytest.mark.slow
BATCH, STEPS, SAVED = 8, 20, 10
OPTIMIZER = optax.adam(2.5e-4)


class Trained:
    """A run of its first STEPS steps on whatever devices there are.

    In double precision: another order of sums differs by rounding, and in float32 Adam
    makes whole steps of the rounding of gradients that vanish.
    """

    def __init__(self, mode):
        self.mesh = sharding.make_mesh(BATCH)
        model = MODELS["cmb"](
            num_joints=15,
            width=0.125,
            memory_mode=mode,
            trunk_norm=True,
            dtype=jnp.float64,
        )
        make = functools.partial(
            training.create_state,
            model=model,
            optimizer=OPTIMIZER,
            side=PREPARATION.side,
            batch_size=BATCH,
        )
        self.state = sharding.create(make, jax.random.key(0), self.mesh)
        self.data = training_batches(
            make_frames([make_example(i) for i in range(20)]),
            preparation=PREPARATION,
            augmentation=Augmentation(),
            batch_size=BATCH,
            seed=0,
            processes=grain.sharding.ShardByJaxProcess(),
        )
        self.step = functools.partial(
            training.train_step,
            model=model,
            optimizer=OPTIMIZER,
            sigma=1.0,
        )

    def losses(self, number):
        losses = []
        for _ in range(number):
            batch = sharding.share_batch(next(self.data), self.mesh)
            r = training.r_at(int(self.state.step), SAVED + 2)
            self.state, loss = self.step(self.state, batch, jax.random.key(0), r=r)
            losses.append(float(loss))
        return losses


def whole_curve(folder, mode):
    run = Trained(mode)
    losses = run.losses(SAVED)
    Checkpoints(folder / mode).save(run.state, run.data)
    layout = [leaf.sharding for leaf in jax.tree.leaves(run.state)]
    losses += run.losses(STEPS - SAVED)
    assert layout == [leaf.sharding for leaf in jax.tree.leaves(run.state)]
    return losses


def rest_of_curve(folder, mode):
    run = Trained(mode)
    run.state = Checkpoints(folder / mode).restore(run.state, run.data)
    return run.losses(STEPS - SAVED)


def work(folder, before):
    """What the other processes do, all of them together."""
    print("on", jax.device_count(), "devices")
    losses = {
        mode: (whole_curve(folder, mode), rest_of_curve(before, mode)) for mode in MODES
    }
    sharding.on_first(write_json, folder / "losses.json", losses)
    # Whatever the first one cannot do ends all.
    try:
        sharding.on_first(json.loads, "{")
    except ValueError as error:
        print("raised", type(error).__name__)
    except ConnectionAbortedError as error:
        print("raised", error)


def free_address():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def start(commands, devices=1, **environment):
    """Starts the processes of a run on this machine."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": flags,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]


def finish(processes, code=0):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
    return outputs


def curves(folder, before, number=1, devices=1):
    """What `work` writes and says, in so many processes of so many devices.

    Also on one device alone it is another process: the options by which tests compile
    quickly give another loss after one step in double precision.
    """
    folder.mkdir(exist_ok=True)
    address = free_address()
    commands = [
        ("-m", "tests.train.test_sharding", folder, before, address, number, index)
        for index in range(number)
    ]
    outputs = finish(start(commands, devices, JAX_ENABLE_X64="1"))
    assert f"on {number * devices} devices" in outputs[0]
    return read_json(folder / "losses.json"), outputs


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    losses, _ = curves(folder, before=folder)
    return folder, {mode: whole for mode, (whole, _) in losses.items()}


@pytest.mark.parametrize(("number", "devices"), [(1, 8), (2, 1)])
def test_curve_and_checkpoints_do_not_depend_on_the_devices(
    tmp_path, on_one_device, number, devices
):
    before, expected = on_one_device
    losses, outputs = curves(tmp_path / "many", before, number, devices)
    back, _ = curves(tmp_path / "back", before=tmp_path / "many")
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    for mode in MODES:
        whole, rest = losses[mode]
        same(whole, expected[mode])
        same(rest, expected[mode][SAVED:])  # from a checkpoint of one device
        same(back[mode][1], expected[mode][SAVED:])  # and on one from many
    assert "raised JSONDecodeError" in outputs[0]
    for output in outputs[1:]:
        assert "raised process 0 cannot go on; it says why" in output


def records(run_dir):
    """The loss of each step, and the steps that were validated."""
    lines = list(read_records(run_dir / "metrics.jsonl"))
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return losses, [line["step"] for line in lines if "loss" not in line]


def test_run_goes_on_with_another_number_of_processes(tmp_path):
    files = ("train.json", "validation.json", "test.json")
    fabricate.coco(tmp_path / "source", files=files, frames=5)
    config = TrainConfig(
        dataset="folder",
        data_dir=tmp_path / "source",
        tfds_dir=tmp_path / "tfds",
        run_dir=tmp_path / "unbroken",
        memory_mode="per_sample",
        side=32,
        width=0.125,
        batch_size=4,
        num_steps=40,
        r_switch_step=8,
        log_every=1,
        validate_every=3,
        checkpoint_every=2,
    )
    train.main(config)
    run_dir = tmp_path / "broken"
    stored = dataclasses.replace(config, run_dir=run_dir).to_json()
    del stored["augmentation"], stored["num_steps"]
    same_flags = [
        f"--{name}={value}"
        for name, value in stored.items()
        if value is not None and not isinstance(value, bool)
    ]

    def two_processes(num_steps):
        address = free_address()
        flags = ("train.py", *same_flags, f"--num_steps={num_steps}", "--distributed")
        return start(
            [
                (*flags, f"--coordinator_address={address}")
                + ("--num_processes=2", f"--process_id={index}")
                for index in range(2)
            ]
        )

    finish(two_processes(6))
    losses, validated = records(run_dir)
    assert sorted(losses) == list(range(1, 7)) and validated == [3, 6]
    train.main(dataclasses.replace(config, run_dir=run_dir, num_steps=9))
    first, second = two_processes(100_000)
    wait_for(lambda: max(steps_on_disk(run_dir)) > 9, first)
    second.send_signal(signal.SIGTERM)
    outputs = finish((first, second), code=1)
    last = max(steps_on_disk(run_dir))
    assert f"a signal to another process after step {last}; saved" in outputs[0]
    assert f"SIGTERM after step {last}; saved" in outputs[1]

    losses, _ = records(run_dir)
    assert sorted(losses) == list(range(1, last + 1))
    unbroken, _ = records(tmp_path / "unbroken")
    common = range(1, min(last, config.num_steps) + 1)
    np.testing.assert_allclose(
        [losses[step] for step in common],
        [unbroken[step] for step in common],
        rtol=1e-5,
    )
    columns = evaluate.main(EvalConfig(run_dir=run_dir, metric="map_10cm"))
    assert np.isfinite(columns["mAP@10cm"]["Full Body"])


def test_batch_that_the_devices_cannot_share_is_refused(monkeypatch):
    devices = [SimpleNamespace(process_index=i // 4, id=i) for i in range(8)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(ValueError, match="--batch_size must be .* 8 over .* got 12"):
        sharding.make_mesh(12)


def test_process_that_nobody_tells_its_place_says_which_flags_do():
    (process,) = start([("train.py", "--distributed", "--process_id=1")])
    (output,) = finish([process], code=1)
    assert "--num_processes and --process_id, got None, None and 1" in output
    assert "Traceback" not in output


if __name__ == "__main__":
    folder, before, address, number, index = sys.argv[1:]
    if int(number) > 1:
        sharding.join(address, int(number), int(index))
    work(Path(folder), Path(before))
