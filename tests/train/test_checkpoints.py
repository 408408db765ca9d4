import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmbjax.data.augment import Augmentation
from cmbjax.data.batches import training_batches
from cmbjax.files import checksum, read_json, write_json
from cmbjax.models import MODELS
from cmbjax.train import step as training
from cmbjax.train.checkpoints import Checkpoints
from tests import fabricate
from tests.data.test_batches import FRAMES, PREPARATION

ROOT = Path(__file__).parents[2]
OPTIMIZER = optax.adam(1e-3)


def make_data():
    return training_batches(
        FRAMES,
        preparation=PREPARATION,
        augmentation=Augmentation(),
        batch_size=3,
        seed=0,
    )


def make_model(width=0.125, memory_mode="shared"):
    return MODELS["cmb"](num_joints=15, width=width, memory_mode=memory_mode)


def make_state(model):
    return fabricate.state(model, OPTIMIZER, side=32, batch_size=3)


def assert_same(state, other):
    leaves = zip(*map(jax.tree.leaves, (state, other)), strict=True)
    for a, b in leaves:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("memory_mode", ["shared", "per_sample"])
def test_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path, memory_mode):
    model = make_model(memory_mode=memory_mode)
    step = functools.partial(
        training.train_step,
        model=model,
        optimizer=OPTIMIZER,
        sigma=1.0,
    )
    key = jax.random.key(0)
    data, state = make_data(), make_state(model)
    checkpoints = Checkpoints(tmp_path)
    for number in range(6):
        if number == 2:
            checkpoints.save(state, data)
        state, _ = step(state, next(data), key, r=training.r_at(number, 3))
    after = next(data)

    resumed_data = make_data()
    resumed = Checkpoints(tmp_path).restore(make_state(model), resumed_data)
    assert int(resumed.step) == 2
    for number in range(2, 6):
        r = training.r_at(number, 3)
        resumed, _ = step(resumed, next(resumed_data), key, r=r)
    assert_same(state, resumed)
    for key, value in next(resumed_data).items():
        np.testing.assert_array_equal(value, after[key])


def test_half_written_checkpoint_is_never_restored(tmp_path):
    model = make_model()
    data, state = make_data(), make_state(model)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, data)
    checkpoints.close()
    whole = tmp_path / "checkpoints" / "0"
    # What a crash leaves behind: the folder that Orbax renames once all is written.
    shutil.copytree(whole, tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp-1")
    again = Checkpoints(tmp_path)
    assert again.latest_step == 0
    assert_same(again.restore(state), state)


def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_named(tmp_path):
    """A single bit of any file of it."""
    state = make_state(make_model())
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.save(state._replace(step=jnp.asarray(number)), make_data())
    folder = tmp_path / "checkpoints" / "2"
    files = [path for path in sorted(folder.rglob("*")) if path.stat().st_size]
    files = [path for path in files if path.is_file()]
    assert len(files) > 3
    for path in files:
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"checkpoints/2 cannot .* 1 is whole"):
            Checkpoints(tmp_path).restore(state)
        path.write_bytes(whole)
    assert int(Checkpoints(tmp_path).restore(state).step) == 2
    shutil.rmtree(folder)  # as it was advised
    assert int(Checkpoints(tmp_path).restore(state).step) == 1
    kept = [path.name for path in (tmp_path / "checksums").iterdir()]
    assert sorted(kept) == ["1.json", "2.json"]


def two_checkpoints(folder):
    """Returns the state of the second of two checkpoints, after steps 1 and 2."""
    checkpoints = Checkpoints(folder)
    state = make_state(make_model())
    for number in (1, 2):
        state = state._replace(step=jnp.asarray(number))
        checkpoints.save(state, make_data())
    checkpoints.close()
    return state


def test_damaged_checksums_are_refused_and_the_last_good_checkpoint_named(tmp_path):
    state = two_checkpoints(tmp_path)
    path = tmp_path / "checksums" / "2.json"
    whole = path.read_text()
    some = json.loads(whole)
    some.pop(min(some))
    for damaged, words in (
        ("{}", "is not what was saved"),
        (json.dumps(some), "is not what was saved"),
        (whole[:-9], "2.json is not valid JSON"),
        ('{"a": 1}', "2.json: Expected `str`"),
        ("", "2.json is not valid JSON"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=rf"checkpoints/2 .*{words}.* 1 is whole"):
            Checkpoints(tmp_path).restore(state)
    path.unlink()
    with pytest.raises(ValueError, match=r"/2 .*2.json is missing.* 1 is whole"):
        Checkpoints(tmp_path).restore(state)
    path.write_text(whole)
    assert_same(Checkpoints(tmp_path).restore(state), state)


def test_a_run_killed_before_its_checksums_were_written_goes_on(tmp_path, monkeypatch):
    """The checkpoint is whole: Orbax has given it its name."""

    def killed(self, step):
        raise KeyboardInterrupt

    state = two_checkpoints(tmp_path)
    later = state._replace(step=jnp.asarray(3))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_sums", killed)
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(tmp_path).save(later, make_data())
    assert_same(Checkpoints(tmp_path).restore(state), later)


def test_a_run_of_an_earlier_version_is_summed_up_when_it_goes_on(tmp_path):
    state = two_checkpoints(tmp_path)
    shutil.rmtree(tmp_path / "checksums")
    again = Checkpoints(tmp_path)
    assert_same(again.restore(state), state)
    again.save(state._replace(step=jnp.asarray(3)), make_data())
    kept = sorted(path.name for path in (tmp_path / "checksums").iterdir())
    assert kept == ["2.json", "3.json"]
    folder = tmp_path / "checkpoints" / "2"
    sums = json.loads((tmp_path / "checksums" / "2.json").read_text())
    assert sums and all(checksum(folder / name) == sums[name] for name in sums)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(make_state(make_model()), make_data())
    other = make_state(make_model(width=0.25))
    with pytest.raises(ValueError, match=r"checkpoints/0 is not .* batch_stats/cmb1"):
        checkpoints.restore(other)
    assert_same(checkpoints.restore(make_state(make_model())), make_state(make_model()))


def test_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(ValueError, match="holds no whole checkpoint"):
        Checkpoints(tmp_path).restore(make_state(make_model()))


def test_json_is_written_whole_and_read_with_clear_errors(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match=r"config.json is missing: .* training run"):
        read_json(path)
    write_json(path, {"side": 64})
    assert read_json(path) == {"side": 64}
    with pytest.raises(TypeError):
        write_json(path, {"side": object()})
    assert read_json(path) == {"side": 64}
    path.write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        read_json(path)


def train(folder, run_dir, *flags):
    flags = [
        *("--dataset=folder", f"--data_dir={folder}", f"--tfds_dir={folder / 'tfds'}"),
        *(f"--run_dir={run_dir}", "--side=32", "--width=0.125", "--batch_size=2"),
        *("--r_switch_step=5", "--log_every=1", "--validate_every=0", *flags),
    ]
    return subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_on_disk(run_dir):
    return [
        int(path.name)
        for path in (run_dir / "checkpoints").glob("*")
        if path.name.isdigit()
    ]


def wait_for(condition, process, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def restored_leaves(run_dir):
    """The state and data position of the last checkpoint, as Orbax wrote them."""
    import orbax.checkpoint as ocp

    step = max(steps_on_disk(run_dir))
    folder = run_dir.absolute() / "checkpoints" / str(step)
    state = ocp.StandardCheckpointer().restore(folder / "state")
    (position,) = (path.read_text() for path in (folder / "data").glob("*.json"))
    return jax.tree.leaves(state), json.loads(position)


KILLED_FLAGS = ("--num_steps=24", "--checkpoint_every=4")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing interrupted, beside its data."""
    folder = tmp_path_factory.mktemp("killed")
    fabricate.coco(folder, files=("train.json", "validation.json"), frames=5)
    whole = train(folder, folder / "unbroken", *KILLED_FLAGS)
    output, _ = whole.communicate(timeout=240)
    assert whole.returncode == 0, output
    return folder / "unbroken"


@pytest.mark.filterwarnings("ignore::UserWarning")  # restoring without a target
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_training_goes_on_as_if_nothing_had_happened(unbroken, number):
    folder, broken, flags = unbroken.parent, unbroken.parent / str(number), KILLED_FLAGS
    first = train(folder, broken, *flags)
    wait_for(lambda: steps_on_disk(broken), first)
    os.kill(first.pid, number)
    output, _ = first.communicate(timeout=60)
    assert first.returncode != 0
    if number == signal.SIGTERM:
        assert "SIGTERM after step" in output
    assert max(steps_on_disk(broken)) < 24

    second = train(folder, broken, *flags)
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0 and "going on after step" in output, output
    (state, position), (other, other_position) = map(
        restored_leaves, (unbroken, broken)
    )
    assert position == other_position
    assert_same(state, other)
    records = (broken / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["step"] for line in records if '"loss"' in line]
    assert logged == list(range(1, 25))
