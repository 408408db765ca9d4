"""TFDS builder of human meshes in rooms."""

import dataclasses
import functools
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import SKELETONS, Skeleton
from datasets.builder import FrameBuilder, Item, executor
from datasets.people.figure import Figure
from datasets.people.frames import FRAMES_PER_PERSON, make_frames
from datasets.people.motion import Clip, read_clips

PEOPLE_PER_PART = 10  # what is made between two saves
CLIPS_APART = 8  # of so many clips one is for testing and one for validation
MakeFrames = Callable[..., Iterator[dict[str, object]]]
PACKAGES = ("anny", "torch")
REQUIREMENTS = "requirements-people.txt"
DIGEST_BYTES = 32  # of SHA-256: a part's file begins with that of the rest


@dataclasses.dataclass
class PeopleConfig(tfds.core.BuilderConfig):
    """Size and kind of the data set.

    Attributes:
        captured: Whether half of the poses are from motion capture.
        skeleton: body15 (ITOP) or body19 (K2HPD).
        train: People of the split; there are ten frames of each.
        validation: People of the split.
        test: People of the split.
        seed: Other seeds give other people, poses and rooms.
        workers: Processes; 0 for one per processor. The frames do not depend on it.
    """

    captured: bool = True
    skeleton: str = "body15"
    train: int = 2000
    validation: int = 100
    test: int = 200
    seed: int = 0
    workers: int = 0


class People(FrameBuilder):
    """Dressed people of many shapes before cameras of several kinds."""

    VERSION = tfds.core.Version("1.1.0")
    frames_per_person = FRAMES_PER_PERSON
    people_per_part = PEOPLE_PER_PART
    _beam: tuple[Any, Any] | None = None  # a runner and its options, if asked for
    BUILDER_CONFIGS = [
        PeopleConfig(name="people", description="23,000 frames, ITOP's joints."),
        PeopleConfig(
            name="k2hpd", description="The same, K2HPD's joints.", skeleton="body19"
        ),
        PeopleConfig(
            name="procedural", description="No motion capture.", captured=False
        ),
        PeopleConfig(
            name="tiny",
            description="A few frames without motion capture, for tests.",
            captured=False,
            train=4,
            validation=1,
            test=1,
        ),
    ]

    @property
    def recorded(self) -> bool:
        """Each frame is of another room."""
        return False

    @property
    def make_frames(self) -> MakeFrames:
        """Yields the frames of a person, in a process of its own."""
        return make_frames

    @property
    def skeleton(self) -> Skeleton:
        """The labelled joints."""
        return SKELETONS[self.builder_config.skeleton]

    def files(self) -> Sequence[str]:
        """Returns the motion capture files in the source folder."""
        if not self.builder_config.captured:
            return ()
        source = self._source or Path("nowhere")
        names = tuple(
            str(path.relative_to(source))
            for path in sorted(source.rglob("*"))
            if path.suffix in (".asf", ".amc") or ".tar" in path.suffixes
        )
        return names or ("*.asf with *.amc, or a .tar archive of them",)

    def _checked_source(self) -> Path:
        if not self.builder_config.captured:
            return Path()
        try:
            return super()._checked_source()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}\n--dataset=people/procedural needs no motion capture."
            ) from None

    def splits(self, source: Path) -> Mapping[str, Sequence[Item]]:
        """Makes whatever parts are not yet there, and returns where each frame is."""
        require_packages()
        config, folder = self.builder_config, self._parts_folder(source)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {
            split: [
                Part(
                    folder / f"{split}_{first:05d}.part",
                    str(source) if config.captured else "",
                    config.skeleton,
                    config.seed,
                    split,
                    range(
                        first, min(first + self.people_per_part, getattr(config, split))
                    ),
                    self.make_frames,
                )
                for first in range(0, getattr(config, split), self.people_per_part)
            ]
            for split in SPLITS
        }
        every = [part for split in SPLITS for part in parts[split]]
        missing = [part for part in every if not part.path.exists()]
        if missing:
            Figure()  # fills anny's cache, which processes would fill side by side
        frames = self.frames_per_person * sum(len(part.people) for part in missing)
        self._bar.clear()
        if self._beam is not None:
            make_with_beam(missing, *self._beam)
            missing = []
        with (
            tqdm(total=frames, desc=f"making {self.name}", unit=" frames") as bar,
            executor(config.workers or os.cpu_count() or 1, chunk=1) as run,
        ):
            for made in run(make_part, missing):
                bar.update(made)
        return {
            split: [
                (part.path, number)
                for part in parts[split]
                for number in range(self.frames_per_person * len(part.people))
            ]
            for split in SPLITS
        }

    def _parts_folder(self, source: Path) -> Path:
        config = dataclasses.asdict(self.builder_config)
        state = [str(config[key]) for key in ("skeleton", "seed", *SPLITS)]
        made_of = self._fingerprint(source) if config["captured"] else "procedural"
        kind = [self.name, self.builder_config.name, str(self.version)]
        name = "_".join([*kind, *state, made_of, "parts"])
        return Path(self._data_dir_root) / "downloads" / name

    def examples(self, items: Sequence[Item]) -> Iterator[dict[str, object]]:
        """Yields frames from the parts they are in."""
        path, frames = None, []
        for where, number in items:
            if where != path:
                path, frames = where, read_part(where)
            yield frames[number]

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        asked = download_config
        if asked and (asked.beam_runner or asked.beam_options):
            self._beam = asked.beam_runner, asked.beam_options
        super()._download_and_prepare(dl_manager, download_config)
        source = self._source or Path()
        shutil.rmtree(self._parts_folder(source))


@dataclasses.dataclass(frozen=True)
class Part:
    """Some people's frames, and the file that they are saved in.

    Attributes:
        path: Of the file.
        source: Folder of motion capture; empty for none.
        skeleton: Name of the joint set.
        seed: Of the data set.
        split: A name in `SPLITS`.
        people: Their numbers.
        make: Yields the frames of one of them.
    """

    path: Path
    source: str
    skeleton: str
    seed: int
    split: str
    people: range
    make: MakeFrames


def make_part(part: Part) -> int:
    """Makes and saves a part; returns its number of frames."""
    figure, clips = _figure(), _clips(part.source, part.split)
    frames = [
        frame
        for person in part.people
        for frame in part.make(
            figure, clips, SKELETONS[part.skeleton], part.seed, part.split, person
        )
    ]
    unfinished = part.path.with_suffix(".unfinished")
    stored = [{name: _stored(value) for name, value in x.items()} for x in frames]
    content = msgspec.msgpack.encode(stored)
    unfinished.write_bytes(hashlib.sha256(content).digest() + content)
    unfinished.rename(part.path)
    return len(frames)


class Array(msgspec.Struct):
    """An array in a part's file, or of type "bytes" an image."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes


def _stored(value: Any) -> Array | str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return Array("bytes", (len(value),), value)
    array = np.ascontiguousarray(value)
    return Array(array.dtype.str, np.shape(value), array.tobytes())


def read_part(path: Path) -> list[dict[str, Any]]:
    """Reads the frames that `make_part` saved.

    Raises:
        ValueError: The file is damaged; says what to do.
    """
    content = path.read_bytes()
    digest, content = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{path} is damaged: delete it, and it is made again")
    parts = msgspec.msgpack.decode(content, type=list[dict[str, str | Array]])
    return [{k: _loaded(value) for k, value in frame.items()} for frame in parts]


def _loaded(value: Array | str) -> Any:
    if isinstance(value, str):
        return value
    if value.dtype == "bytes":
        return value.content
    return np.frombuffer(value.content, value.dtype).reshape(value.shape)


def make_with_beam(parts: Sequence[Part], runner: Any, options: Any) -> None:
    """Makes parts on the workers of Apache Beam, which share the parts' folder.

    Args:
        parts: To make.
        runner: A name or an object of Beam's; by default Beam's own.
        options: Of the pipeline.

    Raises:
        ModuleNotFoundError: apache-beam is not installed.
    """
    import apache_beam

    with apache_beam.Pipeline(runner=runner, options=options) as pipeline:
        made = pipeline | apache_beam.Create(parts) | apache_beam.Reshuffle()
        _ = made | apache_beam.Map(make_part)


_figure = functools.cache(Figure)


@functools.cache
def _clips(source: str, split: str) -> list[Clip]:
    return split_clips(read_clips(Path(source)), split) if source else []


def split_clips(clips: Sequence[Clip], split: str) -> list[Clip]:
    """Returns a split's motions: no two splits share one.

    Raises:
        ValueError: There are too few for three splits.
    """
    last = {"test": CLIPS_APART - 1, "validation": CLIPS_APART // 2 - 1}
    chosen = [
        clip
        for number, clip in enumerate(clips)
        if (
            number % CLIPS_APART == last[split]
            if split in last
            else number % CLIPS_APART not in last.values()
        )
    ]
    if not chosen:
        raise ValueError(
            f"expected at least {CLIPS_APART} motions (.amc), got {len(clips)}: too "
            "few to split"
        )
    return chosen


def require_packages() -> None:
    """Raises a ValueError that names what the data set needs and is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"making people needs {', '.join(missing)}, not installed here: pip "
            f"install -r {REQUIREMENTS}"
        )
