"""How long a fresh process takes to its first pose: `python -m benchmarks.first_pose`.

Beside it stands the floor: a process that imports NumPy, OpenCV and ONNX Runtime, opens
the shipped network and runs it once. All take turns.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

from benchmarks.harness import markdown
from cmbjax.data.flags import Flags
from cmbjax.predict.card import ONNX_FILE, find_folder
from datasets.mannequin.frames import make_frame

ROOT = Path(__file__).parents[1]
FLOOR = """
import cv2, numpy, onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
session.run(None, {{"depth": numpy.zeros((1, 96, 96, 1), numpy.float32)}})
"""
MODULES = """
import sys
import predict
predict.main(predict.parse(sys.argv[1:]))
print(len(sys.modules))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstPoseConfig(Flags):
    """Times fresh processes, from the command to poses.jsonl and the overlay."""

    rounds: int = 5
    """Turns; the first one is told apart, as nothing is in any cache of ours then."""


def main(config: FirstPoseConfig) -> list[dict[str, object]]:
    """Prints a table of seconds, and returns its rows."""
    path = str(find_folder(None) / ONNX_FILE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "frame.npy", make_frame(0, "test", 0).depth_mm)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
        commands = {
            "floor": [sys.executable, "-c", FLOOR.format(path=path)],
            "onnxruntime": predicting(folder, "onnxruntime"),
            "jax": predicting(folder, "jax"),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in commands}
        for turn in range(config.rounds):
            for kind, command in commands.items():
                out_dir = [f"--out_dir={folder}/{kind}_{turn}"] * (kind != "floor")
                start = time.perf_counter()
                subprocess.run(
                    [*command, *out_dir],
                    env=environment,
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                )
                seconds[kind].append(time.perf_counter() - start)
        floor = statistics.median(seconds["floor"])
        rows: list[dict[str, object]] = []
        for kind, values in seconds.items():
            later = statistics.median(values[1:] or values)
            modules = "" if kind == "floor" else number_of_modules(folder, kind)
            rows.append(
                {
                    "process": kind,
                    "first, s": f"{values[0]:.2f}",
                    "later, s": f"{later:.2f}",
                    "x floor": f"{later / floor:.2f}",
                    "modules": modules,
                }
            )
    print(markdown(rows))
    return rows


def predicting(folder: Path, backend: str) -> list[str]:
    """Returns the command that predicts the frame."""
    frame = str(folder / "frame.npy")
    return [sys.executable, "predict.py", frame, f"--backend={backend}"]


def number_of_modules(folder: Path, backend: str) -> int:
    """Returns how many modules a prediction loads."""
    arguments = [*predicting(folder, backend)[2:], f"--out_dir={folder}/{backend}"]
    done = subprocess.run(
        [sys.executable, "-c", MODULES, *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    try:
        main(tyro.cli(FirstPoseConfig, use_underscores=True))
    except (ValueError, OSError) as error:
        sys.exit(f"first_pose.py: {error}")
