"""Kills trainings and sees that they go on bit for bit: `python -m benchmarks.kill`.

A training of a few steps is killed (SIGKILL) again and again after random times, also
while it saves, and started again until it is done. Its last state must then be that of
a training that nobody stopped.
"""

import dataclasses
import hashlib
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from cmbjax.data.flags import HIGHEST_INTEGER, Flags, check_ranges
from cmbjax.files import only_one, read_json, write_json
from cmbjax.scripts import script
from cmbjax.train.checkpoints import Checkpoints
from cmbjax.train.run import Run

TRAINING = {
    "dataset": "mannequin/tiny",
    "side": 32,
    "width": 0.125,
    "batch_size": 4,
    "log_every": 10,
    "validate_every": 0,
    "checkpoint_every": 5,
}
COUNTS_FILE, WHOLE, KILLED = "kill.json", "whole", "killed_"
COUNTS = {"killed": 0, "before a checkpoint": 0, "ended": 0, "different": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KillConfig(Flags):
    """Kills trainings again and again."""

    times: int = 20
    """Kills in all, at least."""
    num_steps: int = 300
    """Of a training."""
    longest_s: float = 20.0
    """A training lives at most so long before it is killed."""
    run_dir: Path = Path("runs/kill")
    """Gets the trainings; what this benchmark left there before goes first."""
    seed: int = 0
    """Of the times at which is killed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self, {"times": (1, HIGHEST_INTEGER), "longest_s": (0.001, 86_400)}
        )


def claim(folder: Path) -> None:
    """Makes the folder, or finds it to be one that this benchmark made.

    Raises:
        ValueError: It holds something else.
    """
    marker = folder / COUNTS_FILE
    try:
        is_ours = read_json(marker, dict[str, int]).keys() == COUNTS.keys()
    except ValueError:
        is_ours = False
    if folder.exists() and any(folder.iterdir()) and not is_ours:
        raise ValueError(
            f"--run_dir={folder} is not empty, and holds no {COUNTS_FILE} of this "
            "benchmark: expected a new folder, or one that it made"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(marker, COUNTS)


def clear(folder: Path) -> None:
    """Takes away the trainings of an earlier run of this benchmark, and no other."""
    for path in folder.iterdir():
        if re.fullmatch(rf"{WHOLE}|{KILLED}\d+", path.name):
            shutil.rmtree(path)


def main(config: KillConfig) -> dict[str, int]:
    """Returns how many were killed, how many trainings ended, and how many differed."""
    claim(config.run_dir)
    with only_one(
        config.run_dir / "lock",
        f"--run_dir={config.run_dir}: another kill.py is at work in this folder",
    ):
        clear(config.run_dir)
        return kill(config)


def kill(config: KillConfig) -> dict[str, int]:
    """Does what `main` does, in a folder of its own."""
    rng = random.Random(config.seed)
    whole = config.run_dir / WHOLE
    start = time.monotonic()
    train(config, whole, None)
    print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)
    expected = last_state(whole, config.num_steps)
    counts = dict(COUNTS)
    while counts["killed"] < config.times:
        run_dir = config.run_dir / f"{KILLED}{counts['ended']}"
        while last_state(run_dir, config.num_steps) is None:
            if not train(config, run_dir, rng.uniform(0, config.longest_s)):
                counts["killed"] += 1
                counts["before a checkpoint"] += not Checkpoints.are_in(run_dir)
        counts["ended"] += 1
        counts["different"] += last_state(run_dir, config.num_steps) != expected
        print(counts, flush=True)
        write_json(config.run_dir / COUNTS_FILE, counts)
        shutil.rmtree(run_dir)
    return counts


def train(config: KillConfig, run_dir: Path, seconds: float | None) -> bool:
    """Trains in a process that lives so long at most; returns whether it ended itself.

    Raises:
        RuntimeError: It failed; says what it said.
    """
    flags = TRAINING | {"num_steps": config.num_steps, "run_dir": run_dir}
    words = [f"--{name}={value}" for name, value in flags.items()]
    path = config.run_dir / "log"
    with (
        path.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "train.py", *words], stdout=log, stderr=log
        ) as running,
    ):
        try:
            running.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            running.kill()  # also where this process is to end
            running.wait()
    if running.returncode:
        raise RuntimeError(f"{run_dir}: {path.read_text()}")
    return True


def last_state(run_dir: Path, num_steps: int) -> str | None:
    """Returns a key of every number of the state after the last step, or None."""
    if not (run_dir / "checkpoints" / str(num_steps)).is_dir():
        return None
    checkpoints = Checkpoints(run_dir)
    step = checkpoints.latest_step
    checkpoints.close()
    if step != num_steps:
        return None
    _, state = Run.open(run_dir).restore()
    key = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        key.update(f"{jax.tree_util.keystr(path)} ".encode())
        key.update(np.ascontiguousarray(leaf).tobytes())
    return key.hexdigest()


if __name__ == "__main__":
    with script("kill.py", RuntimeError):
        done = main(tyro.cli(KillConfig, use_underscores=True))
        sys.exit(int(done["different"] > 0))
