import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train
from cmbjax.data.augment import Augmentation
from cmbjax.models import fast
from cmbjax.skeletons import BODY15
from cmbjax.train import step
from cmbjax.train.config import (
    ADDED_AUGMENTATION,
    ADDED_FIELDS,
    LEAST_WIDTH,
    ONE_JOINT,
    TrainConfig,
)
from cmbjax.train.run import Run
from datasets.mannequin.mannequin import make_example
from evaluate import EvalConfig
from tests.data.test_batches import make_frames


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", 0, "--batch_size must be at least 1, got 0"),
        ("batch_size", 10**12, "--batch_size must fit into 32 bits, .*7, got 1000000"),
        ("memory_lr", -1.0, "--memory_lr must be from 0 to 1000000.0, got -1.0"),
        ("sigma", 0.0, "--sigma must be from 0.1 to 100, got 0.0"),
        ("sigma", 1e30, "--sigma must be from 0.1 to 100, got 1e"),
        ("sigma", 1e-30, "--sigma must be from 0.1 to 100, got 1e-30"),
        ("depth_range", 1e30, "--depth_range must be from 1 to 65535, got 1e"),
        ("depth_range", 1e-30, "--depth_range must be from 1 to 65535, got 1e-30"),
        ("learning_rate", 0.0, "--learning_rate must be from 1e-09 to 1.0, got 0.0"),
        ("learning_rate", 1e30, "--learning_rate must be from 1e-09 to 1.0, got 1e"),
        ("learning_rate", float("nan"), "--learning_rate must be a finite .* nan"),
        ("train_share", 1.5, "--train_share must be from 1e-06 to 1.0, got 1.5"),
        ("side", 100, "--side must be a multiple of 8 for --model=cmb, got 100"),
        ("side", 8, "--side must be from 16 to 1024, got 8"),
        ("side", 20_000, "--side must be from 16 to 1024, got 20000"),
        ("width", 0.001, "--width must be from 0.03125 to 8.0, got 0.001"),
        ("width", 1e6, "--width must be from 0.03125 to 8.0, got 1000000.0"),
        ("width", float("inf"), "--width must be a finite number, got inf"),
        ("memory_lr", float("nan"), "--memory_lr must be a finite number, got nan"),
        ("decay_rate", float("inf"), "--decay_rate must be a finite number, got inf"),
        ("decay_rate", 2.0, "--decay_rate must be from 1e-06 to 1.0, got 2.0"),
        ("decay_every", 0, "--decay_every must be from 1 to 2147483647, got 0"),
        ("decay_every", 10**12, "--decay_every must fit into 32 bits, .* got 1000"),
        ("num_steps", 2**31, "--num_steps must fit into 32 bits, .* got 2147483648"),
        ("seed", -1, "--seed must be from 0 to 4294967295, got -1"),
        ("seed", 2**32, "--seed must be from 0 to 4294967295, got 4294967296"),
        ("num_steps", 0, "--num_steps must be at least 1, got 0"),
        ("memory_steps", 3, "--memory_steps must divide --batch_size=16, got 3"),
        ("model", "hourglass", r"unknown model 'hourglass'; choose from: cmb, "),
    ],
)
def test_bad_training_flag_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
@pytest.mark.parametrize("name", ["noise", "rotation_deg", "damage", "reference"])
def test_augmentation_is_by_finite_numbers(name, value):
    with pytest.raises(ValueError, match=f"augmentation.{name} must be from 0 to"):
        Augmentation(**{name: value})


def test_the_largest_numbers_that_are_taken_are_computed_with():
    """An optimizer has 32 bits for them."""
    most = 2**31 - 1
    config = TrainConfig(
        num_steps=most, decay_every=most, r_switch_step=most, validate_every=most
    )
    for schedule in ("exponential", "cosine"):
        optimizer = dataclasses.replace(config, schedule=schedule).make_optimizer()
        update, _ = optimizer.update(jnp.ones(()), optimizer.init(jnp.zeros(())))
        np.testing.assert_allclose(update, -2.5e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["run_dir", "data_dir", "tfds_dir", "init_from"])
def test_a_path_that_no_json_can_hold_is_refused(name):
    """config.json has them; \udcff is a byte 0xff of a file's name."""
    value = "runs/\udcff"
    with pytest.raises(ValueError, match=rf"--{name} must be UTF-8, got .*runs/\\xff"):
        TrainConfig(**{name: value if name == "init_from" else Path(value)})
    with pytest.raises(ValueError, match="--out_dir must be UTF-8"):
        EvalConfig(out_dir=Path(value))


def test_a_folder_that_no_json_can_hold_may_be_where_one_is(monkeypatch, tmp_path):
    folder = tmp_path / "\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert TrainConfig(run_dir=Path("run")).run_dir == Path("run")
    with pytest.raises(ValueError, match="--tfds_dir must be UTF-8"):
        TrainConfig(tfds_dir=Path("tfds"))


def test_paths_are_written_out(monkeypatch, tmp_path):
    """`~` is a home; where a run's data lies does not depend on who opens it where."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(
        run_dir=Path("~/run"), data_dir=Path("~/data"), tfds_dir=Path("tfds")
    )
    assert config.run_dir == tmp_path / "run"
    assert config.data_dir == Path("~/data")  # its builder writes that out
    nobody = TrainConfig(run_dir=Path("~no-such-user/run"))
    assert nobody.run_dir == Path("~no-such-user/run")
    assert config.tfds_dir == tmp_path / "tfds"
    flags = EvalConfig(
        run_dir=Path("~/run"), out_dir=Path("~/out"), network=Path("~/n.onnx")
    )
    assert flags.run_dir == tmp_path / "run" and flags.out_dir == tmp_path / "out"
    assert flags.network == tmp_path / "n.onnx"


def test_many_frames_take_as_much_more_memory_in_training():
    model = TrainConfig(width=0.125, side=64).make_model(BODY15)
    few, many = (
        step.bytes_of_step(model, side=64, batch_size=size) for size in (1024, 4096)
    )
    assert many / few == pytest.approx(4, rel=0.02)
    # At least its first feature maps, of 4 channels at the input's side, twice.
    assert many > 2 * 4 * 4 * 64 * 64 * 4096


def test_what_is_computed_anew_on_the_way_back_takes_memory_once():
    """VI's volumes, 40 cells long, of 15 joints; its ten steps are a loop."""
    model = TrainConfig(model="vi", width=0.05, side=32).make_model(BODY15)
    few, many = (step.bytes_of_step(model, side=32, batch_size=b) for b in (16, 64))
    volume = 4 * 15 * 40**3
    assert 48 * 8 * volume < many - few < 48 * 80 * volume


def test_tiles_of_convolutions_are_not_counted_as_if_they_stayed():
    """`winograd.convolve` keeps its arguments alone for the way back."""
    model = TrainConfig(side=64).make_model(BODY15)
    direct, tiled = (
        step.bytes_of_step(fast.in_form(model, form), side=64, batch_size=16)
        for form in (fast.FAST, fast.WINOGRAD)
    )
    assert direct <= tiled < 1.2 * direct


def test_memory_of_a_training_has_the_parameters_four_times():
    """With their gradient and Adam's two means."""
    config = TrainConfig(width=0.125, side=32)
    model, optimizer = config.make_model(BODY15), config.make_optimizer()
    sizes = {"side": 32, "batch_size": 2}
    like = step.abstract_state(model, optimizer, **sizes)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(like.params))
    beside = jax.tree.leaves((like.memory, like.batch_stats))
    others = sum(leaf.size for leaf in beside) + 3  # and three counts of steps
    assert train.bytes_of_training(model, optimizer, **sizes) == (
        step.bytes_of_step(model, **sizes) + 4 * (4 * parameters + others)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"width": "wide"},
        {"side": None},
        {"augmentation": {"flip": 3}},
        {"augmentation": None},
        {"seed": 1e30},
        {"head3d": "nose"},
        {"data_dir": 7},
        {"run_dir": ["runs"]},
    ],
)
def test_a_config_of_other_types_is_refused(change):
    fields = TrainConfig().to_json()
    for name, value in change.items():
        if isinstance(value, dict):
            fields[name] = fields[name] | value
        else:
            fields[name] = value
    with pytest.raises(ValueError, match=r"^config\.json"):
        TrainConfig.from_json(fields)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"model": "sh8", "side": 96},
            "--side must be a multiple of 64 for --model=sh8, got 96",
        ),
        ({"model": "sh8", "head3d": "maps"}, "--head3d must be one of none for"),
        (
            {"model": "phr", "trunk_norm": False},
            "--trunk_norm: --model=phr has nothing",
        ),
        (
            {"model": "cpm", "memory_mode": "per_sample"},
            "--memory_mode: --model=cpm has",
        ),
        (
            {"memory_steps": 2, "memory_lr": 1.0},
            "goes with .* --memory_lr=0, got shared",
        ),
        (
            {"model": "convgru", "memory_steps": 2},
            "--memory_steps: --model=convgru has",
        ),
        (
            {"model": "cmb_none", "memory_steps": 2},
            "--memory_steps: --model=cmb_none has nothing",
        ),
        ({"model": "sh1", "memory_steps": 2}, "--memory_steps: --model=sh1 has"),
        (
            {"model": "memory_constant", "memory_mode": "per_sample"},
            "--memory_mode: --model=memory_constant has nothing",
        ),
        ({"memory_gradient": True}, "--memory_gradient needs --memory_steps of at"),
        (
            {"memory_gradient": True, "memory_lr": 1.0},
            "--memory_gradient needs --memory_steps of at",
        ),
        (
            {"memory_gradient": True, "memory_steps": 2, "memory_lr": 1.0},
            "goes with .* --memory_lr=0, got shared and 1.0",
        ),
    ],
)
def test_flag_that_a_network_does_not_have_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"memory_lr": 1.0, "model": "memory_ema"},
            "--memory_lr needs the memory of --model=cmb, got --model=memory_ema",
        ),
        (
            {"memory_gradient": True, "memory_steps": 2, "model": "cmb_half"},
            "--memory_gradient needs the memory of --model=cmb, got",
        ),
    ],
)
def test_readings_of_the_memory_are_those_of_the_papers_block(flags, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**flags)


def test_the_narrowest_network_has_a_channel_everywhere():
    config = TrainConfig(model="cmb_half", width=LEAST_WIDTH, side=16)
    model = config.make_model(ONE_JOINT)
    depth = jnp.zeros((1, 16, 16, 1))
    variables = jax.eval_shape(
        functools.partial(model.init, train=True, r=3.0), jax.random.key(0), depth
    )
    assert min(leaf.size for leaf in jax.tree.leaves(variables)) == 1


def test_sigma_is_the_networks_own_unless_given():
    def sigma(**flags):
        config = TrainConfig(**flags)
        return config.make_sigma(config.make_model(BODY15))

    assert sigma() == 1.5 and sigma(model="sh8") == 1.75 and sigma(sigma=3.0) == 3.0
    # Five pixels whatever the side: the last layer's cells have as many pixels.
    assert sigma(model="phr", side=256) == sigma(model="phr", side=64) == 5.0


def test_config_of_an_earlier_version_is_read_as_it_was(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "run", sigma=1.5)
    fields = config.to_json()
    for name in ADDED_FIELDS:
        del fields[name]
    for name in ADDED_AUGMENTATION:
        del fields["augmentation"][name]
    assert TrainConfig.from_json(fields) == config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("metric", "pck", "unknown metric 'pck'; choose from: joint_error, map_10cm"),
        ("decode", "max", "unknown decode 'max'; choose from: argmax, dark, quarter"),
        ("split", "dev", "--split must be train, validation or test, got 'dev'"),
        ("batch_size", 0, "--batch_size must be at least 1, got 0"),
        ("fit_confidence", True, "expected --split=validation, got test"),
    ],
)
def test_bad_evaluation_flag_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        EvalConfig(**{field: value})


def test_config_survives_its_file(tmp_path):
    config = TrainConfig(
        run_dir=tmp_path / "run",
        data_dir=tmp_path,
        augmentation=Augmentation(rotation_deg=5.0),
        sigma=2.0,
    )
    assert Run.open(Run.claim(config).folder).config == config


def test_another_config_in_the_folder_is_refused_with_the_fields_named(tmp_path):
    run_dir = tmp_path / "run"
    Run.claim(TrainConfig(run_dir=run_dir, sigma=2.0))
    before = (run_dir / "config.json").read_text()
    other = TrainConfig(
        run_dir=run_dir, sigma=1.0, augmentation=Augmentation(flip=False)
    )
    with pytest.raises(ValueError, match=r"sigma: 2\.0 there, 1\.0 here") as error:
        Run.claim(other)
    assert "augmentation" in str(error.value) and "seed" not in str(error.value)
    assert (run_dir / "config.json").read_text() == before


def test_a_run_may_be_made_longer_unless_its_schedule_ends_with_it(tmp_path):
    run_dir = tmp_path / "run"
    Run.claim(TrainConfig(run_dir=run_dir, num_steps=10))
    Run.claim(TrainConfig(run_dir=run_dir, num_steps=20, log_every=7))
    cosine = tmp_path / "cosine"
    Run.claim(TrainConfig(run_dir=cosine, num_steps=10, schedule="cosine"))
    with pytest.raises(ValueError, match="num_steps: 10 there, 20 here"):
        Run.claim(TrainConfig(run_dir=cosine, num_steps=20, schedule="cosine"))


def test_folder_that_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(ValueError, match="is not empty and holds no config.json"):
        Run.claim(TrainConfig(run_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["mean_pose", "offsets_m", "mean_in_crop"])
def test_statistics_of_another_number_of_joints_are_refused(tmp_path, name):
    """Before the training, not at its first validation."""
    frames = make_frames([make_example(0, "train", i) for i in range(2)])
    run = Run.claim(TrainConfig(run_dir=tmp_path / "run"))
    run.take_statistics(frames)
    path = tmp_path / "run" / "statistics.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {name: stored[name][:14]}))
    match = f"statistics.json: {name} must be of 15 joints, got 14"
    with pytest.raises(ValueError, match=match):
        Run.open(run.folder).take_statistics(frames)


def test_config_of_another_version_is_refused(tmp_path):
    fields = TrainConfig().to_json()
    del fields["sigma"]
    (tmp_path / "config.json").write_text(json.dumps({**fields, "old": 1}))
    with pytest.raises(ValueError, match="other fields than this version: old, sigma"):
        Run.open(tmp_path)


def test_learning_rate_falls_as_in_the_paper():
    # x 0.95 every 1000 steps. Adam's first step has the size of the learning rate.
    import jax.numpy as jnp

    optimizer = TrainConfig().make_optimizer()
    state = optimizer.init(jnp.zeros(()))
    first, state = optimizer.update(jnp.ones(()), state)
    np.testing.assert_allclose(first, -2.5e-4, rtol=1e-4)
    adam, schedule = state
    later = schedule._replace(count=jnp.asarray(2500))
    step, _ = optimizer.update(jnp.ones(()), (adam, later))
    np.testing.assert_allclose(step, -2.5e-4 * 0.95**2, rtol=1e-3)


def test_what_would_break_the_one_view_of_a_recording_is_refused():
    for model in ("convgru", "cmb_sequence", "cnn3d"):
        for name in ("damage", "misses"):
            with pytest.raises(ValueError, match="damage and misses befall single"):
                TrainConfig(model=model, augmentation=Augmentation(**{name: 0.1}))


def test_a_recurrence_has_no_memory_to_choose():
    with pytest.raises(ValueError, match="--memory_mode: --model=convgru has nothing"):
        TrainConfig(model="convgru", memory_mode="per_sample")


def test_frames_of_a_stream_a_batch():
    config = TrainConfig(model="convgru", stream_frames=4)
    assert config.make_model(ONE_JOINT).stream_frames == 4
    assert TrainConfig(model="cmb_sequence", stream_frames=16).stream_frames == 16
    for flags, words in {
        "--model=cmb, which sees no recordings": {"stream_frames": 4},
        "multiple of --stream_frames=3, got 16": {
            "model": "convlstm",
            "stream_frames": 3,
        },
        "--memory_mode=per_sample": {
            "model": "cmb_sequence",
            "memory_mode": "per_sample",
            "stream_frames": 2,
        },
    }.items():
        with pytest.raises(ValueError, match=flags):
            TrainConfig(**words)
