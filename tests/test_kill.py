"""What benchmarks.kill may take away, and what dies with it."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import kill
from cmbjax.scripts import script

SLEEPS = """
import os, sys, time
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""
FAILS = "import sys; sys.exit('train.py: no space left')"


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "there",
    [
        {"thesis.txt": ""},
        {"whole/config.json": "{}"},
        {"kill.json": '{"killed": "many"}'},
        {"kill.json": "[]", "mannequin_cmb/config.json": "{}"},
    ],
)
def test_a_folder_of_others_is_left_alone(tmp_path, there):
    for name, text in there.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = files_in(tmp_path)
    match = f"--run_dir={tmp_path} is not empty, and holds no kill.json of this"
    with pytest.raises(ValueError, match=match):
        kill.main(kill.KillConfig(run_dir=tmp_path))
    assert files_in(tmp_path) == before


def test_of_its_own_folder_trainings_alone_go(tmp_path, monkeypatch):
    monkeypatch.setattr(kill, "kill", lambda config: files_in(config.run_dir))
    config = kill.KillConfig(run_dir=tmp_path / "kill")
    assert kill.main(config) == ["kill.json", "lock"]
    for name in ("whole/x", "killed_0/x", "killed_12/x", "killed_0_kept/x", "7/x"):
        (config.run_dir / name).parent.mkdir()
        (config.run_dir / name).touch()
    kept = ["7", "7/x", "kill.json", "killed_0_kept", "killed_0_kept/x", "lock"]
    assert kill.main(config) == kept


def test_two_do_not_work_in_one_folder(tmp_path, monkeypatch):
    config = kill.KillConfig(run_dir=tmp_path / "kill")

    def again(_):
        (config.run_dir / "whole").mkdir()
        monkeypatch.setattr(kill, "kill", lambda _: {})
        with pytest.raises(ValueError, match=r"another kill\.py is at work"):
            kill.main(config)
        return (config.run_dir / "whole").exists()

    monkeypatch.setattr(kill, "kill", again)
    assert kill.main(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"longest_s": 0.0}, "--longest_s must be from 0.001 to 86400, got 0.0"),
        ({"longest_s": float("nan")}, "--longest_s must be a finite number, got nan"),
        ({"times": 0}, "--times must be from 1 to"),
        ({"num_steps": 0}, "--num_steps must be at least 1, got 0"),
    ],
)
def test_bad_flag_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        kill.KillConfig(**flags)


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_training_does_not_outlive_the_benchmark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SLEEPS)
    config = kill.KillConfig(run_dir=tmp_path)
    assert not kill.train(config, tmp_path / "whole", 3.0)
    first = (tmp_path / "pid").read_text()
    (tmp_path / "pid").unlink()

    def terminate():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match=r"kill\.py: interrupted"):
            with script("kill.py"):
                threading.Thread(target=terminate).start()
                kill.train(config, tmp_path / "whole", None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not is_alive(first) and not is_alive((tmp_path / "pid").read_text())
    (tmp_path / "train.py").write_text(FAILS)
    with pytest.raises(RuntimeError, match=r"train\.py: no space left"):
        kill.train(config, tmp_path / "whole", None)
