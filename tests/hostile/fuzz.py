"""Damages files at random, and sees that each is read, or refused in a clear error."""

import collections
import contextlib
import io
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from tests.hostile.targets import TARGETS, Target

AT_A_TIME, SLOW_AT_A_TIME = 500, 40  # readings
LONGEST_S = 20.0  # a reading
MOST_MORE_MIB = 700  # by which the process may grow over one


class TooLong(BaseException):
    """A reading took longer than `LONGEST_S`."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises `TooLong` in what takes longer."""

    def late(*_: object) -> None:
        raise TooLong(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak_mib() -> float:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def verdict(target: Target, folder: Path, path: Path) -> str:
    """Returns how a reading ended: "read", "refused", or what is wrong with it."""
    before = peak_mib()
    said = io.StringIO()
    try:
        with (
            limit(LONGEST_S),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            target.read(folder)
        end = "read"
    except (ValueError, OSError) as error:
        end = "refused"
        # Of a data set, the folder or its label file may be what is named.
        if not any(name in str(error) for name in _names(folder, path)):
            end = f"names no file: {type(error).__name__}: {error}"
    except (Exception, TooLong) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        end = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    if peak_mib() - before > MOST_MORE_MIB:
        end = f"took {peak_mib() - before:.0f} MiB"
    return end


def _names(folder: Path, path: Path) -> Iterator[str]:
    yield path.name
    yield from (parent.name for parent in path.parents if folder in parent.parents)
    yield str(folder)


def run(
    target: Target, folder: Path, seed: int, number: int, keep: Path | None = None
) -> collections.Counter[str]:
    """Damages a target's files a number of times, one at a time.

    Args:
        target: What to damage.
        folder: Empty; gets the target's files.
        seed: Of the damage: what comes depends on it and on the target alone.
        number: How often.
        keep: Gets the files that were not handled as they should be.

    Returns:
        How often each end came; see `verdict`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        target.make(folder)
    files = target.files(folder)
    pristine = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert verdict(target, folder, files[0]) == "read", "an undamaged file is read"
    ends: collections.Counter[str] = collections.Counter()
    for turn in range(number):
        rng = random.Random(f"{seed} {target.name} {turn}")
        path = rng.choice(files)
        ending = max((e for e in target.mutations if path.name.endswith(e)), key=len)
        damaged = target.mutations[ending](rng, pristine[path])
        path.write_bytes(damaged)
        end = verdict(target, folder, path)
        ends[end] += 1
        if end not in ("read", "refused") and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            name = f"{target.name}_{seed}_{turn}"
            (keep / f"{name}_{path.name}").write_bytes(damaged)
            (keep / f"{name}.txt").write_text(end)
        _restore(folder, pristine)
    return ends


def _restore(folder: Path, pristine: dict[Path, bytes]) -> None:
    for path in list(folder.rglob("*")):
        if path.is_file() and path not in pristine:
            path.unlink()
    for path, content in pristine.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)


def send_work(sender: Connection, name: str, seed: int, keep: str) -> None:
    """Sends what `work` returns to the process that asked for it."""
    sender.send(work(name, seed, keep))


def work(name: str, seed: int, keep: str) -> dict[str, int]:
    """Damages one kind of file for a while, in a process of its own."""
    (target,) = (target for target in TARGETS if target.name == name)
    with tempfile.TemporaryDirectory() as folder:
        number = SLOW_AT_A_TIME if target.slow else AT_A_TIME
        return dict(run(target, Path(folder) / "x", seed, number, Path(keep)))


def until(minutes: float) -> Iterator[int]:
    """Yields numbers from 0 for a while."""
    end, number = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        yield number
        number += 1
