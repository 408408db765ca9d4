"""TFDS builder of the synthetic data set."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from cmbjax.camera import ITOP_CAMERA
from cmbjax.data.flags import SPLITS
from cmbjax.skeletons import BODY15
from datasets import schema
from datasets.builder import DescribedFrames, executor
from datasets.mannequin import frames, recordings

CHUNK = 8  # frames a process is handed at a time


@dataclasses.dataclass
class MannequinConfig(tfds.core.BuilderConfig):
    """Size of the data set.

    Attributes:
        train: Frames of the split.
        validation: Frames of the split.
        test: Frames of the split.
        seed: Other seeds give other people, rooms and poses.
        recording: Frames of a recording; 0 where each frame is another scene.
        workers: Processes; 0 for one per processor. The frames do not depend on it.
    """

    train: int = 6000
    validation: int = 500
    test: int = 1000
    seed: int = 0
    recording: int = 0
    workers: int = 0


class Mannequin(DescribedFrames, tfds.core.GeneratorBasedBuilder):
    """People in MuJoCo, seen by a depth camera of ITOP's geometry."""

    VERSION = tfds.core.Version("1.3.0")
    skeleton = BODY15

    @property
    def recorded(self) -> bool:
        """Whether this config has recordings."""
        return self.builder_config.recording > 0

    BUILDER_CONFIGS = [
        MannequinConfig(name="mannequin", description="7,500 frames of 750 people."),
        MannequinConfig(
            name="tiny",
            description="A few frames, for tests.",
            train=48,
            validation=16,
            test=16,
        ),
        MannequinConfig(
            name="sequences",
            description="7,500 frames: 375 people, each moving in a room for 2 s.",
            recording=20,
        ),
        MannequinConfig(
            name="sequences_tiny",
            description="A few recordings, for tests.",
            train=40,
            validation=20,
            test=20,
            recording=20,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self.described(schema.features(BODY15, parts=True))

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        config = self.builder_config
        total = sum(getattr(config, split) for split in SPLITS)
        with (
            _quiet_tfds(),
            tqdm(total=total, desc=f"making {self.name}", unit=" frames") as self._bar,
            executor(config.workers or os.cpu_count() or 1, chunk=CHUNK) as self._map,
        ):
            super()._download_and_prepare(*args, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, object]]]:
        config = self.builder_config
        make = functools.partial(
            make_example, config.seed, split, recording=config.recording
        )
        for example in self._map(make, range(getattr(config, split))):
            self._bar.update()
            yield str(example["frame"]), example


def make_example(
    seed: int, split: str, index: int, *, recording: int = 0
) -> dict[str, object]:
    """Returns frame `index` of a split in the form of `schema.features`."""
    if recording:
        frame = recordings.make_frame(seed, split, index, recording)
    else:
        frame = frames.make_frame(seed, split, index)
    return schema.example(
        depth=frame.depth_mm,
        joints_px=frame.joints_px,
        joints_m=frame.joints_m,
        visible=frame.visible,
        camera=ITOP_CAMERA,
        parts=frame.parts,
        frame=f"{split}_{index:06d}",
        subject=frame.subject,
    )


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silences the bars of TFDS, which would write over ours."""
    tfds.disable_progress_bar()
    try:
        yield
    finally:
        tfds.enable_progress_bar()
