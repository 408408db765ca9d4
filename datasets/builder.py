"""What builders share: file check, summary, shards, bar, processes."""

import abc
import contextlib
import functools
import hashlib
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from cmbjax.data.examples import Example
from cmbjax.files import expanded, only_one, printable
from cmbjax.registry import pick
from cmbjax.skeletons import Skeleton
from datasets import copies, schema

SOURCE_FILE = "source.txt"  # beside a prepared data set: what it was made of
MIB = 2**20
SHARD_FRAMES = 1024  # TFDS holds one shard in memory: some 50 MB
Item = Any  # what finds one example in its source
# What it is, the value found, the value expected (None: not known), and by how much
# the two may differ.
Fact = tuple[str, float, float | None, float]


class DescribedFrames(tfds.core.DatasetBuilder):
    """Depth frames that say what a network is to know of them."""

    depth_unit = "mm"

    def __init__(self, **options: Any) -> None:
        """Takes the options of every TFDS builder.

        Raises:
            ValueError: The prepared copy is damaged.
        """
        try:
            super().__init__(**options)
        except Exception:
            # Whoever knows the folder has begun to read it.
            folder = self.__dict__.get("_data_dir")
            if folder is None or not Path(folder).exists():
                raise
            with copies.damage_named(Path(folder)):
                raise

    @property
    @abc.abstractmethod
    def skeleton(self) -> Skeleton:
        """The labelled joints."""

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the data set, one process at a time: others wait, and use it.

        What a process that was killed has left unfinished goes.

        Raises:
            ValueError: The prepared copy is damaged, or its folder cannot be locked.
        """
        folder = Path(self.data_dir)
        config = options.get("download_config")
        anew = config is not None and config.download_mode.overwrite_dataset
        if anew or not folder.exists():
            lock = folder.parent / f"{folder.name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
            with contextlib.suppress(PermissionError):
                lock.chmod(0o666)  # other users are to wait, too
            taken = f"{printable(folder)}: another process is at it; waiting"
            elsewhere = "name a --tfds_dir on another disk"
            with only_one(lock, taken, waits=True, elsewhere=elsewhere):
                if anew or not folder.exists():
                    for path in folder.parent.glob(f"incomplete.*_{folder.name}"):
                        shutil.rmtree(path, ignore_errors=True)
                    super().download_and_prepare(**options)
                    copies.seal(folder)
        with copies.damage_named(folder):
            if not self.info.splits:  # another process has prepared it
                self.info.read_from_directory(self.data_dir)
        copies.check(folder)
        self._check_description(folder)

    def _check_description(self, folder: Path) -> None:
        """Makes sure that the copy is of what is known of the data set."""
        expected = self._description()
        with copies.damage_named(folder):
            found = {name: self.info.metadata[name] for name in expected}
        if found != expected:
            raise copies.damaged(folder, f"it is of {found}, expected {expected}")

    def _description(self) -> dict[str, str]:
        assert self.depth_unit in schema.DEPTH_UNITS
        return {"skeleton": self.skeleton.name, "depth_unit": self.depth_unit}

    def described(self, features: tfds.features.FeaturesDict) -> tfds.core.DatasetInfo:
        """Returns what TFDS is to know of the data set."""
        return self.dataset_info_from_configs(
            features=features, metadata=tfds.core.MetadataDict(self._description())
        )

    @property
    def made_of(self) -> str:
        """A key of the files that the prepared copy was made of, where it has some."""
        path = Path(self.data_dir) / SOURCE_FILE
        return path.read_text(errors="replace") if path.exists() else ""

    @classmethod
    def make(cls, config: str, source: Path | None, **options: Any) -> Self:
        """Returns the builder that a name such as itop/top asks for.

        Args:
            config: What is behind the slash, or nothing.
            source: Folder of the data set's own files.
            **options: Of every TFDS builder.

        Raises:
            ValueError: There is no such config.
        """
        if config:
            pick(cls.builder_configs, f"config of {cls.name}", config)
            options["config"] = config
        return cls(**options)

    @property
    def depth_range(self) -> float | None:
        """How far before and behind the whole its parts may be, millimetres or raw.

        None where that is not known.
        """
        return 1000 * self.skeleton.reach_m if self.depth_unit == "mm" else None

    @property
    def findable(self) -> bool:
        """Whether `depth.detector` finds what is labelled."""
        return True

    @property
    def recorded(self) -> bool:
        """Whether frames whose names follow on each other do so in time."""
        return True

    def examples_of(self, split: str) -> Sequence[Example]:
        """Returns the labelled people of a split, one a frame; images stay PNGs."""
        images = {
            feature: tfds.decode.SkipDecoding()
            for feature in ("depth", "parts")
            if feature in self.info.features
        }
        folder = Path(self.data_dir)
        with copies.damage_named(folder):
            return copies.Reader(folder, self.as_data_source(split, decoders=images))


def read_within(path: Path, most: int) -> bytes:
    """Reads a file that is refused where it is longer than such a file can be.

    Raises:
        ValueError: It is longer.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: expected at most {most} bytes, got more")
    return content


def file_key(path: Path) -> str:
    """Returns a key of a file's size, first and last MiB: the same on every machine.

    A file of some GB is not read whole whenever its data set is opened.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(MIB)
        file.seek(max(file.tell(), size - MIB))
        return hashlib.sha256(b"%d %b%b" % (size, start, file.read(MIB))).hexdigest()


class FrameBuilder(DescribedFrames, tfds.core.ShardBasedBuilder):
    """Prepares labelled depth frames from files that the user supplies.

    A `GeneratorBasedBuilder` sorts a whole split in memory and needs TensorFlow
    once it exceeds 1 GB, as ITOP and K2HPD do. Shards are written as they come, in
    the order of the source; the training pipeline shuffles.
    """

    VERSION = tfds.core.Version("1.0.0")
    parts = False
    _source: Path | None = None
    _bar: Any = None  # of tqdm; there is none on the workers of Beam

    @abc.abstractmethod
    def files(self) -> Sequence[str]:
        """Returns the files and folders that must be in the source folder."""

    @abc.abstractmethod
    def splits(self, source: Path) -> Mapping[str, Sequence[Item]]:
        """Reads and checks the labels in `source`; prints a summary of them."""

    @abc.abstractmethod
    def examples(self, items: Sequence[Item]) -> Iterator[dict[str, object]]:
        """Yields the examples (`schema.example`) of some items of one split."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.described(schema.features(self.skeleton, parts=self.parts))

    def download_and_prepare(
        self,
        *,
        download_config: tfds.download.DownloadConfig | None = None,
        **options: Any,
    ) -> None:
        """Prepares the data set, or makes sure that it was made of the same files.

        Raises:
            FileNotFoundError: Files are missing; lists which belong where.
            ValueError: A file is malformed, or the prepared data set is of others.
        """
        super().download_and_prepare(download_config=download_config, **options)
        manual_dir = download_config.manual_dir if download_config else None
        if not manual_dir:
            return
        self._source = expanded(manual_dir)
        source = self._checked_source()
        if self.made_of and self._fingerprint(source) != self.made_of:
            raise ValueError(
                f"{self.name}: the copy in {self.data_dir} was prepared from other "
                f"files than those in {source}; delete it, or name another --tfds_dir"
            )

    def _fingerprint(self, source: Path) -> str:
        """Returns a key of the source's files and of the sizes of its folders."""
        digest = hashlib.sha256()
        for name in self.files():
            path = source / name
            if path.is_dir():
                digest.update(f"{name} {sum(1 for _ in os.scandir(path))}\n".encode())
            else:
                digest.update(f"{name} {file_key(path)}\n".encode())
        return digest.hexdigest()[:12]

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        if download_config and download_config.manual_dir:
            self._source = expanded(download_config.manual_dir)
            key = self._fingerprint(self._checked_source())
            (Path(self.data_dir) / SOURCE_FILE).write_text(key)
        with tqdm(desc=f"preparing {self.name}", unit=" frames") as self._bar:
            super()._download_and_prepare(dl_manager, download_config)

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, object]]]]]]:
        source = self._checked_source()
        splits = self.splits(source)
        for name, items in splits.items():
            if not items:
                raise ValueError(
                    f"{self.name}: no frames for the {name} split in {source}; "
                    "expected at least one in each of " + ", ".join(splits)
                )
        self._bar.reset(total=sum(map(len, splits.values())))
        return {
            name: [
                functools.partial(self._shard, items[start : start + SHARD_FRAMES])
                for start in range(0, len(items), SHARD_FRAMES)
            ]
            for name, items in splits.items()
        }

    def _shard(self, items: Sequence[Item]) -> Iterator[tuple[str, dict[str, object]]]:
        for example in self.examples(items):
            if self._bar is not None:
                self._bar.update()
            yield str(example["frame"]), example

    def _checked_source(self) -> Path:
        folder = self._source
        missing = [
            name for name in self.files() if not (folder and (folder / name).exists())
        ]
        if folder is not None and not missing:
            return folder
        if folder is None:
            state = "no source folder is given; name it with --data_dir."
        elif folder.is_dir():
            state = f"the source folder {folder} lacks {', '.join(missing)}."
        else:
            state = f"the source folder {folder} does not exist."
        lines = [f"{self.name}: {state}"]
        lines += [
            f"{name} is there as {name}.gz: unpack it (gunzip -k {name}.gz)."
            for name in missing
            if folder and (folder / f"{name}.gz").exists()
        ]
        lines += ["It must hold:", *(f"  {name}" for name in self.files())]
        lines += [f'See "Get the files" in datasets/{self.name}/README.md.']
        raise FileNotFoundError("\n".join(lines))

    def summarise(self, facts: Sequence[Fact]) -> None:
        """Prints what was found, with a warning where it is not what was expected."""
        self._bar.clear()
        print(f"{self.name}: labels in {printable(self._source)}")
        for what, found, expected, tolerance in facts:
            line = f"{what}: {found:.6g}"
            if expected is None:
                print(f"  {line}")
            elif abs(found - expected) <= tolerance:
                print(f"  {line} (expected {expected:.6g})")
            else:
                print(f"  WARNING: {line}, expected {expected:.6g}")


def held_out_subjects(subjects: Sequence[str]) -> list[str]:
    """Returns the subjects of the validation split: the last eighth, rounded up."""
    names = sorted(set(subjects))
    return names[len(names) - math.ceil(len(names) / 8) :]


def held_out_blocks(num_frames: int) -> np.ndarray:
    """Returns which frames of a recording without subjects are for validation.

    Of 20 equal contiguous blocks the 5th and the 15th: neighbouring frames are nearly
    equal, so only the blocks' four borders have a near duplicate on the other side.

    Args:
        num_frames: Frames in recorded order; at least 5.

    Returns:
        [num_frames] bool.
    """
    blocks = np.array_split(np.arange(num_frames), 20)
    validation = np.zeros(num_frames, bool)
    validation[list(itertools.chain(blocks[4], blocks[14]))] = True
    return validation


def outside_share(joints_px: np.ndarray, width: int, height: int) -> float:
    """Returns the percentage of joints [..., 2] that lie outside the image."""
    outside = (joints_px < 0) | (joints_px > [width, height])
    return 100 * float(outside.any(-1).mean())


@contextlib.contextmanager
def executor(workers: int, *, chunk: int) -> Iterator[Any]:
    """Yields a `map` that keeps the order; with one worker, in this process.

    Args:
        workers: Processes.
        chunk: Items that a process is handed at a time.
    """
    if workers == 1:
        yield map
        return
    # Not "fork": this process may run JAX's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker) as executor:
        try:
            yield functools.partial(executor.map, chunksize=chunk)
        finally:
            executor.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
