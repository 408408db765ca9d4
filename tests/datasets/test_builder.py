"""Of two processes that prepare one data set one waits; what is left over goes."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from datasets import prepared
from datasets.folder.folder import Folder
from tests import fabricate

ROOT = Path(__file__).parents[2]

PREPARE = """
import sys, time
from pathlib import Path
from datasets.folder.folder import Folder

def slowly(self, items, examples=Folder.examples):
    print("preparing", flush=True)
    while not Path(sys.argv[3]).exists():
        time.sleep(0.05)
    yield from examples(self, items)

Folder.examples = slowly
options = {"data_dir": sys.argv[2], "file_format": "array_record"}
builder = Folder(source_dir=sys.argv[1], **options)
builder.download_and_prepare()
print("frames", builder.info.splits["test"].num_examples, flush=True)
"""


def start(source, data_dir, told, **environment):
    """Starts a process that prepares frames once a file is there."""
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, source, data_dir, told],
        env={**fabricate.environment(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_for(word, process):
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"it ended, and did not say {word}")


def test_the_second_of_two_jobs_waits_and_takes_the_firsts_copy(tmp_path):
    """Also where it knows the folder by another name, and has another TMPDIR."""
    fabricate.coco(tmp_path / "frames")
    (tmp_path / "tfds").mkdir()
    (tmp_path / "link").symlink_to("tfds")
    (tmp_path / "tmp").mkdir()
    told = tmp_path / "told"
    first = start(tmp_path / "frames", tmp_path / "tfds", told)
    wait_for("preparing", first)
    second = start(
        tmp_path / "frames", tmp_path / "link", told, TMPDIR=str(tmp_path / "tmp")
    )
    wait_for("another process is at it; waiting", second)
    assert list((tmp_path / "tfds").rglob("incomplete.*")), "the first one's is left"
    told.touch()
    said, _ = second.communicate(timeout=120)
    assert "preparing" not in said and "frames 3" in said
    assert "frames 3" in first.communicate(timeout=60)[0]


def test_what_a_killed_process_left_unfinished_goes(tmp_path):
    fabricate.coco(tmp_path / "frames")
    first = start(tmp_path / "frames", tmp_path / "tfds", tmp_path / "never")
    wait_for("preparing", first)
    first.kill()
    first.communicate()
    assert list((tmp_path / "tfds").rglob("incomplete.*"))
    folder = Folder(
        source_dir=tmp_path / "frames",
        data_dir=tmp_path / "tfds",
        file_format="array_record",
    )
    folder.download_and_prepare(download_config=tfds.download.DownloadConfig())
    assert folder.info.splits["test"].num_examples == 3
    assert not list((tmp_path / "tfds").rglob("incomplete.*"))


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    fabricate.coco(tmp_path / "frames")
    folder = Folder(source_dir=tmp_path / "frames", data_dir=tmp_path / "tfds")
    match = "1.0.0.lock: cannot be locked .No locks available.; name a --tfds_dir on"
    with pytest.raises(ValueError, match=match):
        folder.download_and_prepare()


def test_every_user_may_wait_for_the_lock(tmp_path):
    fabricate.coco(tmp_path / "frames")
    prepared("folder", tmp_path / "frames", tmp_path / "tfds")
    (lock,) = (tmp_path / "tfds").rglob("*.lock")
    assert lock.stat().st_mode & 0o777 == 0o666


def test_a_copy_is_prepared_anew_where_that_is_asked_for(tmp_path):
    fabricate.coco(tmp_path / "frames")
    folder = prepared("folder", tmp_path / "frames", tmp_path / "tfds")
    old = Path(folder.data_dir) / "old"
    old.touch()
    mode = tfds.GenerateMode.REUSE_CACHE_IF_EXISTS
    again = Folder(
        source_dir=tmp_path / "frames",
        data_dir=tmp_path / "tfds",
        file_format="array_record",
    )
    again.download_and_prepare()
    assert old.exists()
    config = tfds.download.DownloadConfig(download_mode=mode)
    super(Folder, again).download_and_prepare(download_config=config)
    assert not old.exists()
    assert len(again.examples_of("test")) == 3


WORKERS = """
import os, time
from datasets.builder import executor

def work(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    with executor(2, chunk=1) as run:
        list(run(work, range(2)))
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie has no command.
    return bool(Path(f"/proc/{pid}/cmdline").read_bytes())


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "make.py").write_text(WORKERS)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "make.py"],
        env=fabricate.environment(ROOT),
        stdout=subprocess.PIPE,
        text=True,
    )
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(map(is_alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=10)
    for _ in range(100):
        if not any(map(is_alive, workers)):
            return
        time.sleep(0.1)
    raise AssertionError("the workers are still there")
