"""train.py and evaluate.py from end to end, on files in the true formats."""

import csv
import dataclasses
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import datasets
import evaluate
import train
from cmbjax import runtime
from cmbjax.models.fast import winograd
from cmbjax.scripts import script
from cmbjax.skeletons import BODY15
from cmbjax.train import step
from cmbjax.train.config import TrainConfig
from cmbjax.train.run import Run
from evaluate import EvalConfig
from tests import fabricate
from tests.data.test_batches import FRAMES

ROOT = Path(__file__).parent.parent
SMALL = {"side": 32, "width": 0.125, "batch_size": 2, "num_steps": 2}


def run(script, *flags, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=fabricate.environment(ROOT),
    )
    return done.returncode, done.stdout, done.stderr


def train_and_evaluate(tmp_path, dataset, metric, **options):
    source = {
        "dataset": dataset,
        "data_dir": tmp_path / "source",
        "tfds_dir": tmp_path / "tfds",
    }
    run_dir = tmp_path / "run"
    train.main(TrainConfig(run_dir=run_dir, **source, **SMALL, **options))
    columns = evaluate.main(EvalConfig(run_dir=run_dir, metric=metric))
    (out_dir,) = (run_dir / "evaluations").iterdir()
    return columns, run_dir, out_dir


def test_k2hpd_trains_and_gives_the_rows_of_table_3(tmp_path, capsys):
    fabricate.k2hpd(tmp_path / "source")
    columns, run_dir, out_dir = train_and_evaluate(tmp_path, "k2hpd", "pckh")
    printed = capsys.readouterr().out
    assert "| Lower Body " in printed and "PCKh@0.5" in printed
    column = columns["PCKh@0.5"]
    assert list(column)[:3] == ["Head", "Neck", "Shoulders"]
    assert list(column)[-1] == "ceiling: labels on the grid"
    assert column["ceiling: labels on the grid"] > column["Full Body"]
    stored = json.loads((out_dir / "results.json").read_text())
    assert stored["table"]["PCKh@0.5"] == columns["PCKh@0.5"]
    assert stored["step"] == 2 and "PDJ mean" in stored["table"]
    with (out_dir / "joints.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == stored["num_frames"] * 19 and lines[0]["joint"] == "head"
    pictures = {path.name for path in run_dir.rglob("*.png")}
    assert {"frames.png", "pdj.png", "loss.png", "validation_000002.png"} <= pictures
    # A batch is no larger than the split; what an evaluation wrote may be replaced.
    large = EvalConfig(run_dir=run_dir, batch_size=10**6, out_dir=tmp_path / "out")
    for _ in range(2):
        again = evaluate.main(large)
        assert again["PCKh@0.5"] == pytest.approx(columns["PCKh@0.5"])
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "joints.csv").write_text("do not lose me")
    with pytest.raises(ValueError, match=f"--out_dir={notes} holds joints.csv, but"):
        evaluate.main(dataclasses.replace(large, out_dir=notes))
    assert [path.name for path in notes.iterdir()] == ["joints.csv"]
    assert (notes / "joints.csv").read_text() == "do not lose me"


@pytest.mark.parametrize("config", ["itop", "itop/top"])
def test_itop_trains_and_gives_the_rows_of_table_4(tmp_path, config):
    view = config.removeprefix("itop").strip("/") or "side"
    fabricate.itop(tmp_path / "source", view=view)
    head3d = {"side": "maps", "top": "dense"}[view]
    columns, _, out_dir = train_and_evaluate(
        tmp_path, config, "map_10cm", head3d=head3d
    )
    # Nobody is looked for from above.
    crop = {"side": "person", "top": "label_box"}[view]
    assert json.loads((out_dir / "results.json").read_text())["crop"] == crop
    assert list(columns["mAP@10cm"])[:9] == (
        "Head Neck Shoulders Elbows Hands Torso Hips Knees Feet".split()
    )


def test_training_on_cpu_has_larger_convolutions_in_tiles(tmp_path, monkeypatch):
    tiled = []

    def convolve(x, kernel, original=winograd.convolve):
        tiled.append((x.shape, kernel.shape))
        return original(x, kernel)

    step.train_step.clear_cache()  # whatever other tests have compiled
    monkeypatch.setattr(winograd, "LEAST_CACHED_CHANNELS", 16)
    monkeypatch.setattr(winograd, "convolve", convolve)
    fabricate.astar(tmp_path / "source")
    train.main(
        TrainConfig(
            run_dir=tmp_path / "run",
            dataset="astar",
            data_dir=tmp_path / "source",
            tfds_dir=tmp_path / "tfds",
            **SMALL,
        )
    )
    step.train_step.clear_cache()
    assert ((2, 8, 8, 16), (3, 3, 16, 16)) in tiled  # conv3_2, an eighth of 128


def test_astar_trains_and_gives_errors_in_millimetres(tmp_path):
    fabricate.astar(tmp_path / "source")
    columns, _, _ = train_and_evaluate(tmp_path, "astar", "joint_error")
    assert list(columns) == ["mean error mm", "median error mm"]
    assert np.isfinite(columns["mean error mm"]["Full Hand"])


def test_own_frames_train_and_memory_may_roll(tmp_path):
    files = ("train.json", "validation.json", "test.json")
    fabricate.coco(tmp_path / "source", files=files, frames=5)
    columns, run_dir, _ = train_and_evaluate(
        tmp_path, "folder", "all", memory_mode="per_sample", crop="label_box"
    )
    assert {"PDJ mean", "PCKh@0.5", "mAP@10cm", "median error mm"} <= set(columns)
    # r is 1 and the steps are two: what rolls is a memory of another batch.
    rolled = evaluate.main(
        EvalConfig(run_dir=run_dir, memory="rolling", decode="quarter")
    )
    assert rolled["mean error mm"] != columns["mean error mm"]
    # How sure it is: as training left it, and measured again.
    path = run_dir / "calibration.json"
    expected = json.loads(path.read_text())
    path.unlink()
    evaluate.main(EvalConfig(run_dir=run_dir, split="validation", fit_confidence=True))
    fitted = json.loads(path.read_text())
    assert fitted["frames"] == expected["frames"]
    np.testing.assert_allclose(
        fitted["coefficients"], expected["coefficients"], atol=1e-3
    )


@pytest.mark.parametrize(
    ("there", "is_refused"),
    [
        ({}, False),
        ({"thesis.txt": ""}, False),
        ({"frames.png": ""}, True),
        ({"results.json": "[1]"}, True),
        ({"results.json": '{"table": {}}', "pdj.png": ""}, True),
        ({"results.json": '{"train_config": {}}', "pdj.png": ""}, False),
    ],
)
def test_results_are_written_over_those_of_evaluations_alone(
    tmp_path, there, is_refused
):
    run = Run(tmp_path / "run", TrainConfig())
    for folder in (tmp_path / "out", run.evaluations / "x"):
        folder.mkdir(parents=True)
        for name, text in there.items():
            (folder / name).write_text(text)
    evaluate.check_out_dir(run.evaluations / "x", run)
    if is_refused:
        match = f"--out_dir=.*out holds {', '.join(there)}, but no results.json of eva"
        with pytest.raises(ValueError, match=match):
            evaluate.check_out_dir(tmp_path / "out", run)
    else:
        evaluate.check_out_dir(tmp_path / "out", run)


@pytest.mark.parametrize(
    "flags",
    [
        {"memory_mode": "per_sample"},
        {"model": "convgru"},
        {"model": "cnn3d"},
        {"model": "ief"},
    ],
    ids=str,
)
def test_a_batch_that_no_device_holds_is_refused_in_evaluations(monkeypatch, flags):
    """Of each kind of network, and with what is seen in the mirrored image."""
    config = TrainConfig(side=32, width=0.125, **flags)
    model = config.make_model(BODY15)
    state = step.abstract_state(
        model, config.make_optimizer(), side=32, batch_size=config.batch_size
    )
    check = functools.partial(
        evaluate.check_memory,
        model,
        state,
        (4096, 32, 32, model.num_frames),
    )
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 2**36)
    check(None)
    check(BODY15.mirror)
    # The images alone are 16 MiB, and their mirrored ones as many.
    monkeypatch.setattr(runtime, "memory_bytes", lambda: 2**24)
    with pytest.raises(ValueError, match=r"^--batch_size=4096: takes about .* GiB"):
        check(None)


@pytest.mark.parametrize(
    ("model", "flag", "batch_size"),
    [("cmb_sequence", None, 32), ("cmb_sequence", 64, 64), ("cmb", None, 7)],
)
def test_recordings_are_evaluated_in_the_batches_of_their_training(
    monkeypatch, model, flag, batch_size
):
    """Others in batches of 16, or the whole split of seven frames."""

    class Reached(Exception):
        pass

    def reached(*arguments, **options):
        raise Reached(options["batch_size"], options["preparation"].label_depth)

    streams = {"batch_size": 32, "stream_frames": 32} if "seq" in model else {}
    config = TrainConfig(model=model, side=32, width=0.125, **streams)
    state = step.TrainState(jnp.array(2), {}, {}, {}, ())
    restored = config.make_model(BODY15), state
    run = types.SimpleNamespace(
        config=config, statistics=None, restore=lambda: restored
    )
    monkeypatch.setattr(evaluate, "open_run", lambda *_: (run, FRAMES))
    monkeypatch.setattr(evaluate.predictions, "evaluate", reached)
    with pytest.raises(Reached) as asked:
        evaluate.main(EvalConfig(batch_size=flag))
    assert asked.value.args == (batch_size, True)
    of_box = EvalConfig(crop="label_box", label_depth=False)
    with pytest.raises(Reached) as asked:
        evaluate.main(of_box)
    assert asked.value.args[1] is False
    with pytest.raises(ValueError, match="--no_label_depth goes with --crop=label_b"):
        evaluate.main(dataclasses.replace(of_box, crop="person"))


@pytest.mark.parametrize(
    ("model", "flags", "says"),
    [
        ("cmb_none", {"memory": "rolling"}, "rolling: cmb_none has no memory; use fr"),
        ("sh1", {"memory": "rolling"}, "--memory=rolling: sh1 has no memory"),
        ("cmb", {"memory": "rolling", "flip": True}, "=frozen, got rolling$"),
        ("convgru", {"flip": True}, "got rolling, which convgru has by default"),
        ("ieml", {"flip": True}, "--flip: ieml chooses one of several places"),
    ],
)
def test_what_a_network_cannot_do_in_an_evaluation_is_refused(
    monkeypatch, model, flags, says
):
    config = TrainConfig(model=model, side=64, width=0.125)
    state = step.TrainState(jnp.array(2), {}, {}, {}, ())
    restored = config.make_model(BODY15), state
    run = types.SimpleNamespace(config=config, restore=lambda: restored)
    monkeypatch.setattr(evaluate, "open_run", lambda *_: (run, FRAMES))
    with pytest.raises(ValueError, match=says):
        evaluate.main(EvalConfig(**flags))


def test_missing_data_says_which_files_belong_where(tmp_path):
    flags = ("--dataset=k2hpd", "--r_switch_step=10000", f"--tfds_dir={tmp_path}")
    code, _, error = run("train.py", *flags, cwd=tmp_path)
    assert code != 0
    for name in ("train_annos.txt", "test_annos.txt", "depth_data/depth_images"):
        assert name in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("script", "flag", "message"),
    [
        ("train.py", "--side=100", "--side must be a multiple of 8"),
        ("train.py", "--sidee=96", "sidee"),
        ("train.py", "--dataset=mpii", "unknown dataset 'mpii'; choose from: astar"),
        ("train.py", "--dataset=itop/front", "unknown config of itop 'front'"),
        ("train.py", "--dataset=folder", "--dataset=folder needs --data_dir"),
        ("evaluate.py", "--run_dir=nowhere", "nowhere/config.json is missing"),
        ("evaluate.py", "--metric=pckh", "no run in runs/"),
    ],
)
def test_bad_flag_gives_one_clear_error(tmp_path, script, flag, message):
    code, _, error = run(script, flag, cwd=tmp_path)
    assert code != 0 and message in error
    assert "Traceback" not in error


def test_evaluation_refuses_a_data_set_with_other_joints(tmp_path):
    fabricate.k2hpd(tmp_path / "source")
    train_and_evaluate(tmp_path, "k2hpd", "pdj")
    fabricate.coco(tmp_path / "own")
    config = EvalConfig(
        run_dir=tmp_path / "run", dataset="folder", data_dir=tmp_path / "own"
    )
    with pytest.raises(ValueError, match="has the joints body15, .* trained on body19"):
        evaluate.main(config)


def test_metric_that_does_not_apply_is_refused_before_the_evaluation(tmp_path):
    fabricate.k2hpd(tmp_path / "source")
    _, run_dir, _ = train_and_evaluate(tmp_path, "k2hpd", "pckh")
    with pytest.raises(ValueError, match="need 3-D joints"):
        evaluate.main(EvalConfig(run_dir=run_dir, metric="map_10cm"))
    with pytest.raises(ValueError, match="unknown torso 'spine'"):
        evaluate.main(EvalConfig(run_dir=run_dir, torso="spine"))


def test_other_frames_in_the_folder_of_a_run_are_refused(tmp_path):
    files = ("train.json", "validation.json", "test.json")
    fabricate.coco(tmp_path / "source", files=files, frames=5)
    _, run_dir, _ = train_and_evaluate(tmp_path, "folder", "pckh")
    fabricate.coco(tmp_path / "other", files=files, frames=6)
    before = (run_dir / "config.json").read_text()
    config = Run.open(run_dir).config
    other = dataclasses.replace(config, data_dir=tmp_path / "other")
    with pytest.raises(
        ValueError, match="holds a run on folder/source_.* now folder/o"
    ):
        train.main(other)
    assert (run_dir / "config.json").read_text() == before


def test_prepared_copy_of_other_files_is_refused(tmp_path):
    for folder, number in (("source", 20), ("other", 30)):
        fabricate.k2hpd(tmp_path / folder, num_train=number)
    load = functools.partial(
        datasets.load, "k2hpd", tfds_dir=tmp_path / "tfds", split="train"
    )
    name = load(tmp_path / "source").name
    assert load(tmp_path / "source").name == load(None).name == name
    copy = shutil.copytree(
        tmp_path / "source", tmp_path / "copy", copy_function=shutil.copyfile
    )
    assert load(copy).name == name, "the files' times are no part of what they are"
    with pytest.raises(ValueError, match="was prepared from other files"):
        load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head3d": "dense"}, "--head3d=dense: .* has no 3-D joints"),
        (
            {"model": "cmb_none", "memory_lr": 0.1},
            "--memory_lr: --model=cmb_none has nothing of the kind",
        ),
    ],
)
def test_flag_without_an_effect_is_refused(tmp_path, flags, message):
    fabricate.k2hpd(tmp_path)
    source = {"dataset": "k2hpd", "data_dir": tmp_path, "tfds_dir": tmp_path / "tfds"}
    with pytest.raises(ValueError, match=message):
        train.main(TrainConfig(run_dir=tmp_path / "run", **source, **SMALL, **flags))
    assert not (tmp_path / "run").exists()  # the corrected command may use the folder


def test_a_run_goes_on_without_what_it_began_with(tmp_path):
    config = TrainConfig(
        dataset="mannequin/tiny",
        tfds_dir=tmp_path / "tfds",
        run_dir=tmp_path / "first",
        **SMALL | {"num_steps": 1},
    )
    train.main(config)
    later = dataclasses.replace(
        config, run_dir=tmp_path / "later", init_from=str(config.run_dir)
    )
    train.main(later)
    shutil.rmtree(config.run_dir)
    train.main(dataclasses.replace(later, num_steps=2))
    *_, last = (later.run_dir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["step"] == 2


def test_an_interruption_while_garbage_is_collected_is_not_lost():
    class Asked:
        def __del__(self):
            raise KeyboardInterrupt

    handler, hook = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    try:
        with (
            pytest.raises(SystemExit, match="^thing.py: interrupted$"),
            script("thing.py"),
        ):
            Asked()
            time.sleep(10)
            raise AssertionError("it went on")
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert sys.unraisablehook is hook


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("--side: bad"), "x.py: --side: bad"),
        (FileNotFoundError("a.npz: no such file"), "x.py: a.npz: no such file"),
        (KeyError("a"), None),
        (FloatingPointError("nan"), "x.py: nan"),
        (MemoryError(), "x.py: there is not enough memory"),
        (KeyboardInterrupt(), "x.py: interrupted"),
        (KeyboardInterrupt("; go on"), "x.py: interrupted; go on"),
    ],
)
def test_a_script_ends_in_one_line(error, line):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit if line else type(error)) as ended:
            with script("x.py", FloatingPointError):
                raise error
        assert line is None or str(ended.value) == line
        with pytest.raises(SystemExit, match=r"x\.py: interrupted"):
            with script("x.py"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(9)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_script_opens_as_many_files_as_the_system_lets_it():
    handler, before = (
        signal.getsignal(signal.SIGTERM),
        resource.getrlimit(resource.RLIMIT_NOFILE),
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] // 2, before[1]))
    try:
        with script("x.py"):
            now = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert now == (before[1], before[1])
    finally:
        signal.signal(signal.SIGTERM, handler)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
