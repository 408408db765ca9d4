"""Kills trainings and sees that they go on bit for bit: `python -m benchmarks.kill`.

A training of a few steps is killed (SIGKILL) again and again after random times, also
while it saves, and started again until it is done. Its last state must then be that of
a training that nobody stopped.
"""

import dataclasses
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from cmbjax.data.flags import Flags
from cmbjax.files import write_json
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
    """Gets the trainings; is emptied first."""
    seed: int = 0
    """Of the times at which is killed."""


def main(config: KillConfig) -> dict[str, int]:
    """Returns how many were killed, how many trainings ended, and how many differed."""
    if config.longest_s <= 0:
        raise ValueError(f"--longest_s must be above 0, got {config.longest_s}")
    shutil.rmtree(config.run_dir, ignore_errors=True)
    rng = random.Random(config.seed)
    whole = config.run_dir / "whole"
    start = time.monotonic()
    _train(config, whole).wait()
    print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)
    expected = last_state(whole, config.num_steps)
    counts = {"killed": 0, "before a checkpoint": 0, "ended": 0, "different": 0}
    while counts["killed"] < config.times:
        run_dir = config.run_dir / f"killed_{counts['ended']}"
        while last_state(run_dir, config.num_steps) is None:
            running = _train(config, run_dir)
            try:
                running.wait(timeout=rng.uniform(0, config.longest_s))
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                counts["killed"] += 1
                counts["before a checkpoint"] += not list(
                    run_dir.glob("checkpoints/[0-9]*")
                )
                continue
            if running.returncode:
                raise RuntimeError(f"{run_dir}: {(run_dir.parent / 'log').read_text()}")
        counts["ended"] += 1
        counts["different"] += last_state(run_dir, config.num_steps) != expected
        print(counts, flush=True)
        shutil.rmtree(run_dir)
    write_json(config.run_dir / "kill.json", counts)
    return counts


def _train(config: KillConfig, run_dir: Path) -> "subprocess.Popen[bytes]":
    flags = TRAINING | {"num_steps": config.num_steps, "run_dir": run_dir}
    words = [f"--{name}={value}" for name, value in flags.items()]
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with (config.run_dir / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "train.py", *words], stdout=log, stderr=log
        )


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
    try:
        done = main(tyro.cli(KillConfig, use_underscores=True))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"kill.py: {error}")
    sys.exit(int(done["different"] > 0))
