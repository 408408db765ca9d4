"""train.py and evaluate.py from end to end, on files in the true formats."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train
from cmbjax.config import EvalConfig, TrainConfig
from tests import fabricate

ROOT = Path(__file__).parent.parent
SMALL = {"side": 32, "width": 0.125, "batch_size": 2, "num_steps": 2}


def run(script, *flags, cwd=ROOT):
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
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
    assert stored["table"] == columns and stored["step"] == 2
    with (out_dir / "joints.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == stored["frames"] * 19 and lines[0]["joint"] == "head"
    pictures = {path.name for path in run_dir.rglob("*.png")}
    assert {"frames.png", "pdj.png", "loss.png", "validation_000002.png"} <= pictures


@pytest.mark.parametrize("config", ["itop", "itop/top"])
def test_itop_trains_and_gives_the_rows_of_table_4(tmp_path, config):
    view = config.removeprefix("itop").strip("/") or "side"
    fabricate.itop(tmp_path / "source", view=view)
    columns, _, out_dir = train_and_evaluate(tmp_path, config, "map_10cm", head3d=True)
    # Nobody is looked for from above.
    crop = {"side": "person", "top": "label_box"}[view]
    assert json.loads((out_dir / "results.json").read_text())["crop"] == crop
    assert list(columns["mAP@10cm"])[:9] == (
        "Head Neck Shoulders Elbows Hands Torso Hips Knees Feet".split()
    )


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
